"""Pairs in a CSV: read, encoded, split; what is damaged is named, what is missing refused."""

import numpy as np
import pytest
import torch
from PIL import Image

import vqmm
from vqmm.generation.corpus import corpus_of
from vqmm.generation.pair_file import read_pairs
from vqmm.generation.recipe import PriorRecipe
from vqmm.registry import Registry
from vqmm.tokens.shards import HELD_OUT, TRAIN
from vqmm.utils.errors import UserError

REGISTRY = Registry.discover()
WORDS = ["zero", "one", "two", "größer", "four"]


def built(modality, quantizer, decoder, fit=()):
    torch.manual_seed(0)
    config = {"modality": modality, "quantizer": quantizer, "decoder": {"name": decoder}}
    found, options = REGISTRY.part("modality", modality)
    made = found(options)
    if made.front() is not None:
        made.front().fit(iter(fit))
    return vqmm.Tokenizer.build(config, made, REGISTRY).freeze()


@pytest.fixture(scope="module")
def tokenizers():
    image = built(
        {"name": "image", "size": 8, "channels": 1, "stride": 4, "width": 8, "blocks": 0},
        {"name": "vector", "codebook_size": 8, "dim": 4},
        "direct",
    )
    told = [torch.tensor([[*word.encode()]], dtype=torch.uint8) for word in WORDS]
    return {"image": image, "text": built({"name": "text"}, {"name": "identity"}, "identity", told)}


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of 8 x 8."""
    (tmp_path / "pictures").mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def table(folder, lines, header="image,text,label,split"):
    (folder / "pairs.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder / "pairs.csv"


def line(i, word=None, label="", split="", picture=None):
    return f"{picture or f'pictures/{i}.png'},{word or WORDS[i % 5]},{label},{split}"


def test_each_pair_is_encoded_as_by_its_tokenizers(folder, tokenizers):
    found = read_pairs(table(folder, [line(i, label="ab"[i % 2]) for i in range(12)]), tokenizers)
    image, text = found.rows["image"], found.rows["text"]
    assert len(image) == len(text) == 12 and not found.unreadable
    samples = [each.read() for each in tokenizers["image"].modality.samples(folder / "pictures")]
    by_name = dict(zip(sorted(f"{i}.png" for i in range(12)), samples, strict=True))
    for i, (picture, word) in enumerate(zip(image, text, strict=True)):
        batch = tokenizers["image"].modality.collate([by_name[f"{i}.png"]], ["one"])
        assert np.array_equal(picture.maps[0], tokenizers["image"].encode(batch).maps[0][0].numpy())
        ids = torch.from_numpy(word.maps[0])
        assert tokenizers["text"].modality.text_of(ids) == WORDS[i % 5]
        assert picture.label == word.label == "ab"[i % 2] and picture.split == word.split


def test_the_pairs_become_a_corpus(folder, tokenizers):
    path = table(folder, [line(i, split="test" if i > 8 else "train") for i in range(12)])
    found = corpus_of({"a": tokenizers["image"], "b": tokenizers["text"]}, (), str(path), PriorRecipe())
    image, text = found.vocabulary.ranges
    assert (image.grids, text.grids, text.longest) == (((2, 2),), None, 6)
    assert (len(found.training), len(found.held_out)) == (9, 3)
    assert found.training.pairing.items(0, 4) == {"image": (4, 0), "text": (4, 0)}


def test_a_split_of_its_own_counts_else_the_paths_decide(folder, tokenizers):
    own = read_pairs(table(folder, [line(i, split="test" if i == 5 else "train") for i in range(12)]), tokenizers)
    assert [row.split for row in own.rows["text"]] == [HELD_OUT if i == 5 else TRAIN for i in range(12)]
    captions = [line(i, word) for i in range(12) for word in WORDS]
    by_hash = read_pairs(table(folder, captions), tokenizers)
    splits = [row.split for row in by_hash.rows["image"]]
    assert all(len(set(splits[i : i + 5])) == 1 for i in range(0, 60, 5))  # a picture's captions stay together
    assert 0 < splits.count(HELD_OUT) < 60
    few = read_pairs(table(folder, [line(0), line(1), line(2)]), tokenizers)
    assert sorted(row.split for row in few.rows["image"]) == [HELD_OUT, TRAIN, TRAIN]


def test_damaged_pairs_are_counted_and_named(folder, tokenizers):
    (folder / "pictures" / "1.png").write_bytes(b"no picture")
    lines = [
        line(0),
        line(1),
        line(2, picture="no.png"),
        f"pictures/3.png,{' '},,",
        line(4, picture="pictures"),
        line(5),
    ]
    found = read_pairs(table(folder, [*lines, line(6, picture="pairs.csv")]), tokenizers)
    assert [row.key for row in found.rows["image"]] == [row.key for row in found.rows["text"]] == ["line 2", "line 7"]
    said = dict(zip((3, 4, 5, 6, 8), found.unreadable, strict=True))
    assert all(each.startswith(f"line {number}: ") for number, each in said.items())
    assert "1.png" in said[3] and "no file" in said[4] and "its text is empty" in said[5] and "no file" in said[6]


WRONG = {
    "a missing column": ("image,word,label,split", [line(0)], r"no column 'text'.*There is: image, label, split, word"),
    "no rows": ("image,text,label,split", [], "a header and no rows"),
    "another split": ("image,text,label,split", [line(0, split="train"), line(1, split="valid")], "line 3: .*'valid'"),
    "half a split": ("image,text,label,split", [line(0, split="train"), line(1)], "line 3: the split is ''"),
    "nothing readable": ("image,text,label,split", [line(0, picture="x.png")], "none of the 1 pairs .* line 2: there"),
}


@pytest.mark.parametrize(("header", "lines", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_table_is_refused(folder, tokenizers, header, lines, said):
    with pytest.raises(UserError, match=said):
        read_pairs(table(folder, lines, header), tokenizers)


def test_a_file_that_is_no_table_or_not_there(folder, tokenizers):
    with pytest.raises(UserError, match=r"no\.csv cannot be read"):
        read_pairs(folder / "no.csv", tokenizers)
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        read_pairs(folder / "pictures" / "0.png", tokenizers)


def test_one_modality_is_no_pair(folder, tokenizers):
    with pytest.raises(UserError, match=r"1 run was given \(image\): give the runs of two or more"):
        read_pairs(table(folder, [line(0)]), {"image": tokenizers["image"]})
