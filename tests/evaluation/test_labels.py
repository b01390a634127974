"""Whether labels survive: who is judged by whom, what the figures are, and what a user's mistake gets."""

import json

import pytest
import torch

import vqmm
from tests.cli.runner import Vqmm
from tests.evaluation.marked_notes import Marked, MarkedEvaluation, NearestMean
from tests.fakes import Notes
from vqmm.commands.evaluate import eval
from vqmm.commands.train import train
from vqmm.data.source import Source
from vqmm.evaluation import labels as module
from vqmm.evaluation.labels import label_survival, wilson_interval
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

REGISTRY = Registry.discover()
PLUGIN = "tests.evaluation.marked_notes"
SMALL = ("modality.width=16", "quantizer.dim=8", "quantizer.codebook_size=8", "train.batch_size=8")
NAMES = ["label_accuracy", "label_accuracy_reconstructed", "label_agreement"]


def tokenizer_of(modality=None, labels=(), conditional=False):
    torch.manual_seed(0)
    config = {"quantizer": {"name": "vector", "dim": 8, "codebook_size": 8}, "decoder": {"name": "direct"}}
    return vqmm.Tokenizer.build(config, modality or Marked(), REGISTRY, labels, conditional, [8])


def source_of(folder, modality=None) -> Source:
    return Source(modality or Marked(), folder)


def put(folder, label, name, *ids):
    (folder / label).mkdir(exist_ok=True, parents=True)
    (folder / label / f"{label}-{name}.txt").write_text(" ".join(map(str, ids)))


@pytest.fixture
def notes(tmp_path):
    """Four low and four high ones to train on; of the five for testing one high one is really low."""
    for i in range(4):
        put(tmp_path, "low", i, *[i % 3] * (3 + i))
        put(tmp_path, "high", i, *[9 + i % 3] * (4 + i))
    for i in range(3):
        put(tmp_path, "low", f"test{i}", 1, i, 1, 0, 1)
    put(tmp_path, "high", "test0", 10, 11, 9)
    put(tmp_path, "high", "test1", 0, 1, 2, 0)
    return tmp_path


@pytest.fixture
def classifiers(monkeypatch):
    """The classifiers that are made."""
    made = []
    monkeypatch.setattr(MarkedEvaluation, "label_classifier", lambda self: made.append(NearestMean()) or made[-1])
    return made


def turned(keys):
    """A reconstruction that keeps all but the samples with these keys, whose ids it turns around."""

    def reconstruct(tokenizer, batch, stages=None):
        goals = zip(batch.key, module.originals_of(batch), strict=True)
        return [11 - goal if key.removesuffix(".txt") in keys else goal for key, goal in goals], None

    return reconstruct


def test_the_figures_are_shares_of_the_held_out_samples(notes, monkeypatch):
    monkeypatch.setattr(module, "evaluation_outputs_long", turned(["low-test0", "high-test1"]))
    told = label_survival(tokenizer_of(), source_of(notes), batch_size=2)
    assert told["metrics"] == {
        "label_accuracy": 4 / 5,  # all but high-test1
        "label_accuracy_reconstructed": 4 / 5,  # all but low-test0
        "label_agreement": 3 / 5,
    }
    assert told["unreadable"] == [] and list(told["rules"]) == NAMES
    low, high = wilson_interval(3, 5)
    assert told["rules"]["label_agreement"].endswith(f"95% interval {low:.3f} to {high:.3f} (Wilson)")
    rule = told["rules"]["label_accuracy"]
    assert rule.startswith("share of 5 originals of the source's own test split")
    assert "by nearest mean, fitted to 8 training originals; the commonest label is that of 60.0%" in rule
    json.dumps(told)


def test_the_classifier_learns_from_training_originals_alone(notes, classifiers, monkeypatch):
    monkeypatch.setattr(module, "evaluation_outputs_long", turned([]))
    told = label_survival(tokenizer_of(), source_of(notes), batch_size=3)
    assert told["metrics"]["label_agreement"] == 1
    (classifier,) = classifiers
    found = sorted((label, sample.tolist()) for sample, label in classifier.fitted)
    high = [(0, [[9 + i % 3] * (4 + i)]) for i in range(4)]
    assert found == sorted(high + [(1, [[i % 3] * (3 + i)]) for i in range(4)]), "with their own lengths, labels sorted"


def test_a_network_that_knows_nothing_loses_the_labels(notes):
    told = label_survival(tokenizer_of(), source_of(notes))
    assert told["metrics"]["label_accuracy"] == 4 / 5
    assert 0 <= told["metrics"]["label_agreement"] < 1


def test_samples_without_a_label_are_left_out(notes, classifiers):
    put(notes, "any", "1", 5, 5)
    put(notes, "any", "test1", 5, 5)
    told = label_survival(tokenizer_of(), source_of(notes))
    assert len(classifiers[0].fitted) == 8 and told["rules"]["label_agreement"].startswith("share of 5 ")


def test_of_a_slow_decoder_the_first_are_judged(notes):
    tokenizer = tokenizer_of()
    tokenizer.decoder.evaluation_limit = 3
    rules = label_survival(tokenizer, source_of(notes), batch_size=2)["rules"]
    assert all(rule.startswith("share of 4 ") for rule in rules.values()), "whole batches"


def test_a_decoder_that_is_told_labels_is_told_them_and_the_rule_says_so(notes):
    tokenizer = tokenizer_of(labels=("high", "low"), conditional=True)
    rules = label_survival(tokenizer, source_of(notes))["rules"]
    assert ["the decoder is told each label" in rules[name] for name in NAMES] == [False, True, True]
    with pytest.raises(UserError, match=r"low.*: no label is called \'low\'\. There is: high"):
        label_survival(tokenizer_of(labels=("high",), conditional=True), source_of(notes))


def test_damaged_samples_are_named(notes):
    for name in ("bad", "testbad"):
        put(notes, "low", name, 1)
    told = label_survival(tokenizer_of(), source_of(notes))
    assert told["unreadable"] == ["low-bad.txt: damaged", "low-testbad.txt: damaged"]
    assert "share of 5 " in told["rules"]["label_accuracy"]


@pytest.mark.parametrize(
    "hits, count, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_newcombe_1998(hits, count, low, high):
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=6e-5)
    turned = wilson_interval(count - hits, count)
    assert turned == pytest.approx((1 - high, 1 - low), abs=6e-5) and turned[0] >= 0 and turned[1] <= 1


# Mistakes


def test_a_modality_without_a_classifier(notes):
    with pytest.raises(UserError, match="the modality 'notes' has no label classifier: leave out --labels"):
        label_survival(tokenizer_of(Notes()), source_of(notes, Notes()))


def test_data_that_cannot_say_whether_labels_survive(tmp_path):
    put(tmp_path, "any", "1", 1)
    with pytest.raises(UserError, match="has no labels, so none can survive"):
        label_survival(tokenizer_of(), source_of(tmp_path))
    put(tmp_path, "low", "1", 1)
    put(tmp_path, "any", "test", 1)
    put(tmp_path, "high", "test", 1)
    with pytest.raises(UserError, match=r"the 1 labelled training samples of .* have 1 label, 'low': to tell"):
        label_survival(tokenizer_of(), source_of(tmp_path))
    (tmp_path / "high" / "high-test.txt").unlink()
    put(tmp_path, "high", "1", 1)
    with pytest.raises(UserError, match=r"none of the held-out samples of .* has a label"):
        label_survival(tokenizer_of(), source_of(tmp_path))
    put(tmp_path, "low", "testbad", 1)
    with pytest.raises(UserError, match="none of the 1 samples with a label can be read; the first: low-testbad"):
        label_survival(tokenizer_of(), source_of(tmp_path))


# The verb


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, and its data: 40 notes of two labels."""
    folder = tmp_path_factory.mktemp("notes")
    for i in range(20):
        put(folder / "data", "low", i, *[i % 4] * 6)
        put(folder / "data", "high", i, *[8 + i % 4] * 6)
    train("marked", folder / "data", folder / "run", steps=2, settings=SMALL, plugins=[PLUGIN], quiet=True)
    return folder / "run", folder / "data"


def test_eval_says_it_when_asked(trained, capsys):
    run, data = trained
    plain = eval(run, data, plugins=[PLUGIN])
    assert not plain["metrics"].keys() & {*NAMES}
    told = Vqmm(capsys)("eval", run, "--data", data, "--labels", "--plugin", PLUGIN, "--json").json
    assert told["metrics"]["label_accuracy"] == 1
    assert [name for name in told["metrics"] if name not in plain["metrics"]] == NAMES
    assert told["rules"].keys() == told["metrics"].keys()
    assert "the held-out tenth" in told["rules"]["label_accuracy"] and told["split"] == "the held-out tenth"
    assert told["count"] == plain["count"] and f"share of {told['count']} " in told["rules"]["label_agreement"]


def test_all_of_other_data_is_judged_and_a_tenth_of_it_for_labels(trained, tmp_path):
    for i in range(30):
        put(tmp_path, "low", i, *[i % 4] * 5)
        put(tmp_path, "high", i, *[8 + i % 4] * 5)
    put(tmp_path, "high", "bad", 1)
    told = eval(trained[0], tmp_path, labels=True, whole=True, plugins=[PLUGIN])
    assert told["count"] == 60 and told["unreadable"] == ["high-bad.txt: damaged"]
    held_out = len([sample for sample in source_of(tmp_path).held_out() if "bad" not in sample.key])
    assert told["rules"]["label_agreement"].startswith(f"share of {held_out} ") and held_out < 20


def test_eval_refuses_labels_in_one_line(trained, tmp_path, capsys):
    put(tmp_path, "any", "1", 1, 2)
    line = Vqmm(capsys).refuses("eval", trained[0], "--data", tmp_path, "--labels", "--plugin", PLUGIN)
    assert "has no labels, so none can survive" in line
