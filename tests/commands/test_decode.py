"""Names of decoded files, and encode and decode as Python calls."""

from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import vqmm
from vqmm.commands.outputs import check_keys, file_names
from vqmm.utils.errors import UserError

parts = st.text("ab.", min_size=1, max_size=4).filter(lambda part: part not in (".", ".."))
keys = st.lists(parts, min_size=1, max_size=3).map("/".join)


@given(st.lists(keys, unique=True, max_size=8))
@example(["...png", "a/...png"])
def test_every_sample_gets_a_place_of_its_own_inside_the_folder(keys):
    check_keys(keys)
    names = file_names(keys)
    assert len({PurePosixPath(name) for name in names.values()}) == len(keys)
    for name in names.values():
        assert not name.startswith("/") and ".." not in PurePosixPath(name).parts


def test_a_suffix_is_dropped_where_no_two_names_meet():
    keys = ["cats/1.png", "1.png", "1.jpg", "2", "3.png.png", "3.png"]
    names = file_names(keys)
    assert names == {
        "cats/1.png": "cats/1",
        "1.png": "1.png",
        "1.jpg": "1.jpg",
        "2": "2",
        "3.png.png": "3.png.png",  # not 3.png: the other sample is called that
        "3.png": "3",
    }


@pytest.mark.parametrize("keys", [["a", "a"], ["a/b", "a/./b"], ["a//b", "a/b"]])
def test_two_samples_of_one_name_are_refused(keys):
    with pytest.raises(UserError, match="two samples"):
        check_keys(keys)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Gray pictures of two sizes in two folders, and a tokenizer trained on them with their labels."""
    home = tmp_path_factory.mktemp("transcode")
    random = np.random.default_rng(1)
    for i in range(8):
        file = home / "pictures" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 8 + 3 * (i // 4)), dtype=np.uint8)).save(file)
    settings = ["modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "condition=label"]
    settings += ["quantizer.codebook_size=300", "quantizer.dim=8"]
    vqmm.train("image", home / "pictures", home / "run", steps=2, settings=settings, quiet=True)
    return home / "run"


def test_pictures_of_any_size_and_label_come_back_in_their_size(run, tmp_path):
    pictures = run.parent / "pictures"
    told = vqmm.encode(run, pictures, tmp_path / "tokens")  # one path, not a list
    assert told["samples"] == 8 and told["codes"] == 4 * 5 * 4 + 4 * 5 * 6
    assert told["bits"] == pytest.approx(told["codes"] * np.log2(300))
    vqmm.decode(run, tmp_path / "tokens", tmp_path / "out")
    for file in pictures.rglob("*.png"):
        with Image.open(file) as before, Image.open(tmp_path / "out" / file.relative_to(pictures)) as after:
            assert before.size == after.size


def test_decoding_the_tokens_is_the_reconstruction(run, tmp_path):
    """Through the files on disk comes what the tokenizer makes of a picture directly, label and all."""
    pictures = run.parent / "pictures"
    vqmm.encode(run, [pictures], tmp_path / "tokens")
    vqmm.decode(run, tmp_path / "tokens", tmp_path / "out")
    tokenizer = vqmm.Tokenizer.load(run)
    for sample in tokenizer.modality.samples(pictures):
        number = tokenizer.labels.index(sample.label)
        ((direct,), _) = tokenizer.reconstruct(tokenizer.modality.collate([sample.read()], [sample.key], [number]))
        with Image.open(tmp_path / "out" / sample.key) as picture:
            stored = torch.from_numpy(np.array(picture)) / 127.5 - 1
        assert torch.allclose(stored, tokenizer.modality.as_written(direct)[0].cpu(), atol=1.5 / 127.5)
