"""What is trained on, what is held out, and what an evaluation may look at."""

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import vqmm
from vqmm.data.source import HELD_OUT, Source, evaluation_samples, key_hash, label_numbers
from vqmm.plugins.image import Image
from vqmm.utils.errors import UserError


def sample(key, label=None, split=None):
    return vqmm.Sample(key, lambda: torch.zeros(1), label, split)


class Listed(Image):
    """A modality that finds what a test has put there."""

    def __init__(self, *samples):
        super().__init__()
        self.listed = samples

    def samples(self, path):
        return iter(self.listed)


def source(tmp_path, *samples):
    return Source(Listed(*samples), tmp_path)


def keys(samples):
    return [one.key for one in samples]


# The split


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("0", 0.74404796),
        ("train/0", 0.10722623),
        ("cats/1.png", 0.46238786),
        ("péché.png", 0.12205516),
        ("", 0.30705281),
    ],
)
def test_the_hash_of_a_key_never_changes(key, value):
    assert key_hash(key) == pytest.approx(value, abs=1e-8)


def test_the_lowest_tenth_is_held_out(tmp_path):
    samples = [sample(str(i)) for i in range(2000)]
    found = source(tmp_path, *samples)
    assert keys(found.held_out()) == [str(i) for i in range(2000) if key_hash(str(i)) < 0.1] and HELD_OUT == 0.1
    assert 160 < len(found.held_out()) < 240
    assert sorted(keys(found.held_out() + found.training())) == sorted(keys(samples))
    fewer = source(tmp_path, *samples[500:1500])  # what is held out stays so, whatever else comes or goes
    assert keys(fewer.held_out()) == [key for key in keys(found.held_out()) if 500 <= int(key) < 1500]


def test_an_own_split_is_kept(tmp_path):
    found = source(
        tmp_path, sample("a", split="train"), sample("b", split="test"), sample("c"), sample("d", split="test")
    )
    assert found.has_split and keys(found.held_out()) == ["b", "d"] and keys(found.training()) == ["a", "c"]
    only_train = source(tmp_path, *(sample(str(i), split="train") for i in range(300)))
    assert not only_train.has_split and 10 < len(only_train.held_out()) < 60


def test_a_test_split_alone_cannot_be_trained_on(tmp_path):
    found = source(tmp_path, sample("a", split="test"), sample("b", split="test"))
    assert keys(evaluation_samples(found, None)[0]) == ["a", "b"]
    with pytest.raises(UserError, match=f"{tmp_path} holds a test split of 2 samples and nothing to train on"):
        found.training()


def test_tiny_sources_keep_something_on_both_sides(tmp_path):
    one = source(tmp_path, sample("only"))
    assert keys(one.training()) == keys(one.held_out()) == ["only"]  # there is no other way
    high = [key for key in map(str, range(40)) if key_hash(key) > 0.5][:2]
    low = [key for key in map(str, range(200)) if key_hash(key) < 0.1][:3]
    for names in (high, low):  # nothing in the lowest tenth, and everything
        found = source(tmp_path, *map(sample, names))
        assert keys(found.held_out()) == [min(names, key=key_hash)]
        assert set(keys(found.training())) == set(names) - set(keys(found.held_out()))


# Labels


def test_labels_come_in_natural_order(tmp_path):
    names = ["10", "9", "class10", "class2", "Zebra", "ant", "0", "01", "1", "2b", "", "7" * 5000]
    found = source(tmp_path, *(sample(str(i), label) for i, label in enumerate(names)), sample("none"))
    expected = ("", "0", "01", "1", "2b", "9", "10", "7" * 5000, "Zebra", "ant", "class2", "class10")
    assert found.labels == expected
    assert label_numbers(found.samples, found.labels)["class2"] == 10


def test_a_label_that_training_did_not_know_is_refused():
    with pytest.raises(
        UserError, match=r"3 and others: no label is called 'ape', 'bee2', 'bee10'\. There is: cat, dog"
    ):
        label_numbers(
            [sample(str(i), label) for i, label in enumerate(["bee10", "cat", "bee2", "ape"])], ["cat", "dog"]
        )
    assert label_numbers([sample("a", "ape")], []) == {}  # a tokenizer without labels asks for none
    assert label_numbers([sample("a")], ["cat", "dog"]) == {"cat": 0, "dog": 1}


# Where samples come from


def test_nothing_there(tmp_path):
    for path in (tmp_path / "missing", tmp_path / "a" / "b", "no\0name"):
        with pytest.raises(UserError, match=r"there is nothing at .*: give a file or folder, or builtin:digits"):
            Source(Image(), path)
    with pytest.raises(UserError, match="holds no sample of the modality 'image'"):
        source(tmp_path)


def test_a_relative_path_is_recorded_as_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Pillow.new("L", (4, 4)).save("a.png")
    assert Source(Image(), "a.png").path == str((tmp_path / "a.png").resolve())


def test_builtin_digits():
    pytest.importorskip("sklearn", reason="the extra `demo` is not installed")
    digits = Source(Image(Image.Options(channels=1)), "builtin:digits")
    assert digits.path == "builtin:digits" and digits.labels == tuple("0123456789")
    assert len(digits.samples) == 1797 and len(digits.training()) + len(digits.held_out()) == 1797
    pictures = torch.stack([one.read() for one in digits.samples])
    assert pictures.shape == (1797, 1, 8, 8) and (pictures.min(), pictures.max()) == (0, 255)
    again = Source(Image(Image.Options(channels=1)), "builtin:digits")
    assert all(torch.equal(a.read(), b.read()) for a, b in zip(digits.samples, again.samples, strict=True))
    with pytest.raises(UserError, match=r"no built-in data set is called 'digts'. .* Did you mean 'digits'\?"):
        Source(Image(), "builtin:digts")


# What an evaluation may look at


def folder(path, count=40):
    path.mkdir(parents=True)
    for i in range(count):
        Pillow.fromarray(np.full((4, 4), i, np.uint8)).save(path / f"{i}.png")
    return path


def test_what_was_trained_on_is_recognised(tmp_path):
    here, other = folder(tmp_path / "here"), folder(tmp_path / "here2")
    found = Source(Image(), here)
    assert evaluation_samples(found, str(other)) == (found.samples, "all of a source that was not trained on")
    assert evaluation_samples(found, None)[0] == evaluation_samples(found, "builtin:digits")[0] == found.samples
    assert evaluation_samples(found, found.path) == (found.held_out(), "the held-out tenth")
    (tmp_path / "link").symlink_to(here)
    assert evaluation_samples(Source(Image(), tmp_path / "link"), found.path)[1] == "the held-out tenth"
    digits = source(tmp_path, sample("a"), sample("b"))
    digits.path = "builtin:digits"
    assert evaluation_samples(digits, "builtin:digits")[1] == "the held-out tenth"
    assert evaluation_samples(digits, found.path)[1] == "all of a source that was not trained on"


def test_sources_that_overlap_are_refused(tmp_path):
    inner = folder(tmp_path / "all" / "inner")
    (tmp_path / "all" / "list.csv").write_text("path,split\ninner/1.png,train\ninner/2.png,test\n")
    for one, trained_on in [("all", inner), ("all/inner", tmp_path / "all"), ("all/list.csv", tmp_path / "all")]:
        with pytest.raises(UserError, match=f"{one} overlaps with the training data {trained_on}: evaluate on exactly"):
            evaluation_samples(Source(Image(), tmp_path / one), str(trained_on))


def test_an_own_test_split_is_what_is_judged(tmp_path):
    found = source(tmp_path, sample("a", split="train"), sample("b", split="test"))
    for trained_on in (None, found.path, "/elsewhere"):
        assert evaluation_samples(found, trained_on) == (found.held_out(), "the source's own test split")
