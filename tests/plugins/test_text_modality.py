"""The text modality: its options, views, batches, networks, and what it learns before training."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vqmm
from vqmm.plugins.text import Text
from vqmm.plugins.text.files import TextReading, decode_bytes, encode_bytes, file_of, joined, text_samples
from vqmm.testing import check_modality
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError

REGISTRY = vqmm.Registry.discover()
TEXTS = ["To be, or not to be: that is the question.", "Whether 'tis nobler in the mind", "größer, 大きい\t\u2581 🙂"]


def learnt(**options) -> Text:
    modality = Text(Text.Options(**options))
    modality.front().fit(iter(map(encode_bytes, TEXTS)))
    return modality


def tokenizer_of(modality: Text, quantizer: str = "vector", decoder: str = "direct", **options) -> Tokenizer:
    torch.manual_seed(0)
    config = {"quantizer": {"name": quantizer, **options}, "decoder": {"name": decoder}}
    return Tokenizer.build(config, modality, REGISTRY).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 3, "attention": True, "blocks": 1},
        {"stride": 1, "blocks": 0},
        {"network": "lstm", "blocks": 2, "width": 16},
        {"front": "bytes", "stride": 5, "word_dropout": 0.5},
    ],
    ids=str,
)
def test_every_kind_of_network_keeps_the_promises(options):
    torch.manual_seed(0)
    check_modality(Text(Text.Options(**options)))


@pytest.mark.parametrize("front", ["characters", "bytes"])
def test_a_learnt_front_keeps_them_too(front):
    torch.manual_seed(0)
    check_modality(learnt(front=front))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stride": 0}, "modality.stride: 0 ids: a code must span at least 1"),
        ({"stride": (2, 2)}, r"modality.stride: \(2, 2\) has 2 axes: text has 1"),
        ({"front": "subwords"}, "modality.vocabulary: subwords need the size of their vocabulary, such as 2048"),
    ],
)
def test_options_that_cannot_be_get_one_line(options, said):
    with pytest.raises(UserError, match=said) as caught:
        Text(Text.Options(**options))
    assert "\n" not in str(caught.value)


def test_a_training_view_is_a_stretch_of_whole_characters_and_evaluation_sees_all():
    modality = learnt(length=5)
    sample = encode_bytes("大きい🙂größer")
    views = {modality.text_of(modality.crop(sample, torch.Generator().manual_seed(n))) for n in range(40)}
    assert views == {"大きい🙂g", "きい🙂gr", "い🙂grö", "🙂größ", "größe", "rößer"}
    assert modality.text_of(modality.crop(sample, None)) == "大きい🙂größer"
    assert modality.text_of(modality.crop(encode_bytes("ab"), torch.Generator())) == "ab"


def test_a_batch_of_bytes_and_one_of_ids_are_the_same():
    modality = learnt()
    raw = [encode_bytes(text) for text in TEXTS]
    first = modality.collate(raw, ["a", "b", "c"])
    second = modality.collate([modality.crop(each, None) for each in raw], ["a", "b", "c"])
    assert first.x.dtype == torch.int64 and torch.equal(first.x, second.x) and torch.equal(first.mask, second.mask)
    assert [modality.text_of(goal) for goal in first.targets] == TEXTS
    assert list(map(modality.evaluation().size_in_units, first.targets)) == list(map(len, TEXTS))


@pytest.mark.parametrize("options", [{}, {"attention": True}, {"network": "lstm"}], ids=str)
def test_a_text_has_the_same_codes_alone_and_beside_a_longer_one(options):
    modality = learnt(width=16, stride=3, **options)
    tokenizer = tokenizer_of(modality, codebook_size=64, dim=8)
    raw = [encode_bytes(text) for text in TEXTS]
    together = tokenizer.encode(modality.collate(raw, TEXTS))
    outputs = tokenizer.decode(together)
    for i, sample in enumerate(raw):
        alone = tokenizer.encode(modality.collate([sample], ["alone"]))
        count = alone.maps[0].shape[2]
        assert torch.equal(alone.maps[0][0], together.maps[0][i, :, :count])
        assert torch.equal(tokenizer.decode(alone)[0], outputs[i])
        assert outputs[i].shape[1] == len(modality.front().learnt.encode(TEXTS[i]))


def test_hidden_ids_are_for_training_alone():
    modality = learnt(width=16, word_dropout=0.5)
    encoder = modality.build_encoder(4)
    x = modality.collate([encode_bytes(TEXTS[0])], ["a"]).x
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


def test_what_was_learnt_is_saved_and_is_part_of_the_fingerprint(tmp_path):
    one = tokenizer_of(learnt(width=16), dim=8)
    other = learnt(width=16)
    characters = "".join(sorted(set("".join(TEXTS))))  # as many, in another order
    other.front().fit(iter([encode_bytes(characters)]))
    assert other.ids == one.modality.ids
    assert tokenizer_of(other, dim=8).code_fingerprint() != one.code_fingerprint()
    one.save(tmp_path / "t")
    again = Tokenizer.load(tmp_path / "t", REGISTRY)
    assert again.code_fingerprint() == one.code_fingerprint()
    assert again.modality.ids_of(TEXTS[2]).tolist() == one.modality.ids_of(TEXTS[2]).tolist()
    described = json.loads((tmp_path / "t" / "front.json").read_text())
    described["characters"].reverse()
    (tmp_path / "t" / "front.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="was changed after it was saved"):
        Tokenizer.load(tmp_path / "t", REGISTRY)


def test_a_trained_tokenizer_is_given_tables_without_the_columns_of_its_training_data(tmp_path):
    table = tmp_path / "plain.csv"
    table.write_text("text\nhello\n")
    modality = learnt(width=16, label="mood")
    with pytest.raises(UserError, match="'mood'"):
        list(modality.samples(table))
    tokenizer_of(modality, dim=8).save(tmp_path / "t")
    (sample,) = Tokenizer.load(tmp_path / "t", REGISTRY).modality.samples(table)
    assert sample.label is None and decode_bytes(sample.read()) == "hello"


@pytest.fixture(scope="module")
def lossless():
    fronts = [learnt(), learnt(front="bytes"), learnt(front="subwords", vocabulary=300)]
    return [tokenizer_of(modality, "identity", "identity") for modality in fronts]


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_identity_gives_every_text_back(lossless, text):
    for tokenizer in lossless:
        modality = tokenizer.modality
        batch = modality.collate([encode_bytes(text), encode_bytes("longer " * 9)], ["a", "b"])
        assert modality.text_of(tokenizer.decode(tokenizer.encode(batch))[0]) == text


def test_a_surrogate_is_refused_by_its_place():
    with pytest.raises(UserError, match="position 1 holds the lone surrogate U\\+D800"):
        Text().ids_of("a\ud800")


# The samples of one file go back into one


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("poems.txt:00012", "poems.txt"),
        ("a:b/poems.txt.gz:00012", "a:b/poems.txt.gz"),
        ("tweets.TSV:id:7.txt:3", "tweets.TSV"),
        ("poems.txt", "poems.txt"),
        ("7", "7"),
    ],
)
def test_a_key_says_which_file_it_came_from(key, file):
    assert file_of(key) == file


@pytest.mark.parametrize("unit", ["lines", "paragraphs", "blocks"])
def test_the_samples_of_a_file_make_the_file_again(tmp_path, unit):
    content = {"lines": "one\ntwo\n", "paragraphs": "a\nb\n\nc\n", "blocks": "one\ntwo\n\n three"}[unit]
    (tmp_path / "a.txt").write_text(content)
    reading = TextReading(unit=unit, block=4)
    texts = [decode_bytes(sample.read()) for sample in text_samples(tmp_path / "a.txt", reading)]
    assert len(texts) > 1 and joined(texts, reading) == content
