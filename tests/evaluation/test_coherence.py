"""Coherence: cells and controls by hand, who is judged by whom, and what a user's mistake gets."""

import json

import numpy as np
import pytest
import torch

import vqmm
from tests.generators import PICTURE, TEXT, WORDS, everything, speaking, tokenizer
from vqmm.data.source import Source
from vqmm.evaluation.coherence import WordingClassifier, by_class, coherence_of, common_labels, read_items
from vqmm.evaluation.labels import wilson_interval
from vqmm.generation.sampling import Draw
from vqmm.plugins.image.label_classifier import PictureLabelClassifier
from vqmm.utils.errors import UserError

NAMES = ("a", "b")


class Marks:
    """A classifier of samples that say their own label."""

    rule = "what it says"

    def fit(self, samples, labels):
        raise AssertionError("a classifier that is given is not fitted again")

    def predict(self, samples):
        return [int(sample) for sample in samples]


class Pretending:
    """A generator of "x", "y" and labels: `made` says what comes of a condition's label, by pair and by turn."""

    labels = NAMES

    def __init__(self, label=False, **made):
        self.label, self.made, self.asked = label, made, []
        self.tokenizers = dict.fromkeys("xy")

    def has_modality(self, name):
        return self.label and name == "label"

    def generate(self, want, *, given, draw, seed):
        ((source,),) = {tuple(own) for own in given}
        self.asked.append((source, want, [own[source] for own in given], draw, seed))
        return [torch.tensor(number) for number in self.made[source + want]]


ITEMS = {
    "x": [(torch.tensor(n), n) for n in (0, 1, 1)],
    "y": [(torch.tensor(n), m) for n, m in ((0, 0), (1, 0), (1, 1))],
}


def told(made, **options):
    return coherence_of(made, {}, ITEMS, NAMES, classifiers=dict.fromkeys("xy", Marks()), **{"count": 6, **options})


def test_cells_are_shares_of_agreement_and_the_diagonal_is_the_judges_own():
    found = told(Pretending(xy=[0, 1, 0, 0, 1, 1], yx=[0, 1] * 3))  # conditions are a, b, a, b, a, b
    assert found["coherence"] == {"x": {"x": 1.0, "y": 4 / 6}, "y": {"x": 1.0, "y": 2 / 3}}
    assert found["classifiers"] == {"x": 1.0, "y": 2 / 3}
    assert found["intervals"]["x"]["y"] == wilson_interval(4, 6) == pytest.approx((0.300, 0.903), abs=1e-3)
    assert found["per_class"]["x"]["y"] == {
        "a": {"accuracy": 2 / 3, "f1": 2 / 3, "count": 3},
        "b": {"accuracy": 2 / 3, "f1": 2 / 3, "count": 3},
    }
    assert (found["count"], found["chance"], found["labels"]) == (6, 0.5, ["a", "b"])
    assert found["rules"]["classifier of x"] == "what it says"
    json.dumps(found)


def test_some_columns_alone():
    made = Pretending(xy=[0, 1] * 3)
    some = told(made, into=["y"])
    assert some["coherence"] == {"x": {"y": 1.0}, "y": {"y": 2 / 3}} and some["classifiers"] == {"y": 2 / 3}
    assert [want for _, want, *_ in made.asked] == ["y"] and "classifier of x" not in some["rules"]


def test_the_control_falls_to_chance_where_all_agrees_and_has_no_diagonal():
    found = told(Pretending(xy=[0, 1] * 500, yx=[1, 0] * 500), count=1000, seed=1)
    assert found["coherence"]["x"]["y"] == 1 and found["coherence"]["y"]["x"] == 0
    assert set(found["control"]["x"]) == {"y"} and set(found["control"]["y"]) == {"x"}
    assert found["control"]["x"]["y"] == pytest.approx(0.5, abs=0.05) and found["control"]["x"]["y"] != 0.5
    assert found["control"]["x"]["y"] + found["control"]["y"]["x"] == pytest.approx(1)


def test_conditions_are_held_out_items_spread_over_the_labels():
    made = Pretending(xy=[0] * 7, yx=[0] * 7)
    told(made, count=7, draw=Draw(temperature=0.5), seed=3)
    (source, want, given, draw, seed), _ = made.asked
    assert (source, want, draw.temperature, seed) == ("x", "y", 0.5, 3)
    first, second, third = (item for item, _ in ITEMS["x"])
    assert [id(own) for own in given] == [id(own) for own in (first, second, first, third, first, second, first)]


def test_a_prior_of_classes_has_a_row_of_labels():
    made = Pretending(label=True, labelx=[0, 1], labely=[1, 1], xy=[0, 1], yx=[0, 1])
    found = told(made, count=2)
    assert list(found["coherence"]) == ["label", "x", "y"]
    assert found["coherence"]["label"] == {"x": 1.0, "y": 0.5} and made.asked[0][2] == ["a", "b"]
    assert set(found["control"]["label"]) == {"x", "y"}


def test_f1_is_the_harmonic_mean_of_recall_and_precision():
    found = by_class([0, 0, 0, -1, 2, 2], [0, 0, 1, 1, 2, 0], ["a", "b", "c", "d"])
    recall, precision = 2 / 3, 2 / 3
    assert found["a"] == {
        "accuracy": recall,
        "f1": pytest.approx(2 * recall * precision / (recall + precision)),
        "count": 3,
    }
    assert found["b"] == {"accuracy": 0.0, "f1": 0.0, "count": 2}
    assert found["c"] == {"accuracy": 1.0, "f1": pytest.approx(2 * 1 * 0.5 / 1.5), "count": 1}
    assert found["d"] == {"accuracy": 0.0, "f1": 0.0, "count": 0}, "which none is, and none is called"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(draw=Draw(top_k=1)), "top_k 1 takes the likeliest codes"),
        (dict(count=1), "count 1: take one sample for each of the 2 labels at least"),
    ],
)
def test_figures_that_would_mislead_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        told(Pretending(), **options)


def test_one_modality_is_no_pair_and_a_label_without_items_is_named():
    with pytest.raises(UserError, match="there are data of x alone: this prior speaks x, y"):
        coherence_of(Pretending(), {}, {"x": ITEMS["x"]}, NAMES, classifiers={"x": Marks()})
    with pytest.raises(UserError, match="no held-out x of b can be read"):
        coherence_of(Pretending(), {}, {**ITEMS, "x": ITEMS["x"][:1]}, NAMES, classifiers=dict.fromkeys("xy", Marks()))


# Wordings


def test_a_wording_is_known_or_has_no_label():
    classifier = WordingClassifier()
    classifier.fit([torch.tensor([[1, 2]]), torch.tensor([[3]])], [7, 8])
    seen = [torch.tensor([[3]]), torch.tensor([[1, 2]]), torch.tensor([[1]]), torch.tensor([[]])]
    assert classifier.predict(seen) == [8, 7, -1, -1]
    with pytest.raises(UserError, match="one wording has two labels, 7 and 9"):
        classifier.fit([torch.tensor([[1, 2]])], [9])


# From files


@pytest.fixture
def digits(tmp_path):
    """Pictures of three brightnesses with a split of their own, and a list of words."""
    random = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 30), ("test", 9)):
        y = np.arange(count) % 3
        parts |= {f"x_{part}": (y[:, None, None] * 90 + random.integers(0, 60, (count, 8, 8))).astype(np.uint8)}
        parts |= {f"y_{part}": y.astype(np.uint8)}
    np.savez(tmp_path / "digits.npz", **parts)
    rows = "".join(f"{word},{label}\n" for label, word in enumerate(WORDS))
    (tmp_path / "words.csv").write_text("text,label\n" + rows)
    return {"image": tmp_path / "digits.npz", "text": tmp_path / "words.csv"}


@pytest.fixture
def run(tmp_path):
    speaking(tokenizer(PICTURE), tokenizer(TEXT), label=False).save(tmp_path / "run" / "prior")
    return tmp_path / "run"


def test_of_a_run_and_its_data(run, digits, monkeypatch):
    fit, fitted = PictureLabelClassifier.fit, []
    monkeypatch.setattr(
        PictureLabelClassifier, "fit", lambda self, *told: fitted.append(len(told[0])) or fit(self, *told)
    )
    found = vqmm.coherence(run, digits, count=30, seed=2)
    assert list(found["coherence"]) == ["image", "text"] and found["labels"] == ["0", "1", "2"]
    assert fitted == [30], "on the training part alone"
    assert found["classifiers"] == {"image": 1.0, "text": 1.0}, "brightness is seen, and words are known"
    assert found["split"]["image"] == "the source's own test split"
    assert found["split"]["text"].startswith("all of it: its held-out part lacks 2 of 3 labels")
    assert (
        found["rules"]["classifier of text"].startswith("the same ids")
        and "16 x 16" in found["rules"]["classifier of image"]
    )
    assert found["coherence"]["image"]["text"] < 0.5, "an untrained prior writes no words"
    assert found == vqmm.coherence(run, digits, count=30, seed=2)
    json.dumps(found)


def test_damaged_items_are_named_and_left_out(tmp_path, digits):
    modality = everything().tokenizers["image"].modality
    samples = Source(modality, digits["image"]).samples[:3]

    def damaged():
        raise vqmm.Unreadable("x.png: damaged")

    bad = vqmm.Sample("x.png", damaged, "0")
    unreadable = []
    items = read_items(modality, [*samples, bad], ["0", "1", "2"], unreadable)
    assert [label for _, label in items] == [0, 1, 2] and unreadable == ["x.png: damaged"]
    assert all(item.shape == (1, 8, 8) and item.is_floating_point() for item, _ in items)
    with pytest.raises(UserError, match=r"none of 1 samples of 'image' can be read; the first: x\.png"):
        read_items(modality, [bad], ["0"], [])


def test_mistakes_about_data(run, digits, tmp_path):
    with pytest.raises(UserError, match="data for 'audio': this prior speaks image, text"):
        vqmm.coherence(run, {"audio": "builtin:tones"})
    (tmp_path / "names.csv").write_text("text,label\nzero,nought\none,one\n")
    with pytest.raises(UserError, match=r"0 labels in common, and coherence needs two \(image: 0, 1, 2; text: nought"):
        vqmm.coherence(run, {**digits, "text": tmp_path / "names.csv"})
    with pytest.raises(UserError, match="data of image alone"):
        vqmm.coherence(run, {"image": digits["image"]}, count=9)
    with pytest.raises(UserError, match="holds no prior"):
        vqmm.coherence(tmp_path, digits)


def test_labels_in_common_come_in_the_order_of_the_first_source():
    class Has:
        def __init__(self, *labels):
            self.labels = labels

    assert common_labels({"x": Has("2", "10", "1"), "y": Has("1", "2", "3")}, None) == ["2", "1"]
    assert common_labels({"x": Has("2", "10", "1")}, ["1", "10"]) == ["10", "1"]
