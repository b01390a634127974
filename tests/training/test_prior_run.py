"""Training a prior: what it learns, what it keeps, what it is judged by, and going on after a stop."""

import json
import math
import os
import random
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import vqmm
from vqmm.generation.generator import Generator
from vqmm.tokens.token_set import TokenSet
from vqmm.training.checkpoint import checkpoints, read_checkpoint
from vqmm.training.prior_loop import PriorLoop
from vqmm.training.prior_run import BitsPerCode, PriorRun
from vqmm.utils.errors import Stopped

FAKES = ("tests.fakes",)
PRIOR = ["prior.width=16", "prior.depth=1", "train.batch_size=8", "train.evaluate_samples=12", "train.patience=null"]
OFTEN = ["train.checkpoint_every=4", "train.evaluate_every=5"]
LEARNING = ["train.learning_rate=0.02", "prior.dropout=0", "train.evaluate_every=25", "train.evaluate_samples=60"]
CLASSES = "abc"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return home_of(60, tmp_path_factory.mktemp("prior"))


def home_of(count, home):
    """Two tokenizers and their tokens: pictures of 8 x 8 and lines of notes, in folders of three classes."""
    drawn = np.random.default_rng(0)
    for i in range(count):
        label = CLASSES[i % 3]
        for kind in ("pictures", "notes"):
            (home / kind / label).mkdir(parents=True, exist_ok=True)
        pixels = drawn.integers(0, 60, (8, 8)) + 90 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(home / "pictures" / label / f"{i:03}.png")
        notes = [str(i % 3 * 4 + drawn.integers(3)) for _ in range(2 * drawn.integers(2, 5))]
        (home / "notes" / label / f"{i:03}.txt").write_text(" ".join(notes))
    shape = ["modality.size=8", "modality.channels=1", "modality.stride=4", "modality.blocks=0"]
    small = ["modality.width=8", "quantizer.codebook_size=16", "quantizer.dim=4"]
    vqmm.train("image", home / "pictures", home / "image", steps=20, settings=[*shape, *small], quiet=True)
    vqmm.train("notes", home / "notes", home / "line", steps=20, settings=small, plugins=FAKES, quiet=True)
    vqmm.encode(home / "image", home / "pictures", home / "image-tokens")
    vqmm.encode(home / "line", home / "notes", home / "line-tokens", plugins=FAKES)
    return home


def alone(home, out, *settings, steps=12, **options):
    return vqmm.train_prior(
        home / "image",
        out,
        tokens=home / "image-tokens",
        steps=steps,
        settings=[*PRIOR, *OFTEN, *settings],
        quiet=True,
        **options,
    )


def joint(home, out, *settings, steps=12, **options):
    tokens = [home / "line-tokens", home / "image-tokens"]  # in another order than the runs
    runs = [home / "image", home / "line"]
    told = [*PRIOR, *OFTEN, *settings]
    return vqmm.train_prior(runs, out, tokens=tokens, steps=steps, settings=told, plugins=FAKES, quiet=True, **options)


def weights(out):
    loaded = Generator.load(out, vqmm.Registry.discover(FAKES))
    return {name: value.clone() for name, value in loaded.prior.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lines(out, kind):
    told = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in told if line["kind"] == kind]


# What comes of it


def test_one_modality(home, tmp_path):
    told = alone(home, tmp_path / "run")
    assert told["steps"] == 12 and told["context"] == 2 * 2 + 2 and told["vocabulary"] == 2 + 2 + 16
    figures = told["modalities"]["image"]
    assert list(told["modalities"]) == ["image"] and figures["bits_per_code_unconditional"] is None
    assert figures["bits_per_code_gap"] == figures["bits_per_code"] - figures["bits_per_code_train"]
    codes = np.concatenate([row.maps[0].ravel() for row in TokenSet(home / "image-tokens", "train")])
    shares = np.bincount(codes, minlength=16) / len(codes)
    assert figures["bits_per_code_unigram"] == pytest.approx(-sum(p * math.log2(p) for p in shares if p))
    assert not told["stopped_early"] and told["unreadable"] == []
    assert told["examples"] + told["held_out_examples"] == 60
    looks = lines(tmp_path / "run", "held-out")
    assert [look["step"] for look in looks] == [5, 10, 12]
    best = min(looks, key=lambda look: look["metrics"]["bits_per_code"])
    assert told["best"] == {"step": best["step"], "bits_per_code": best["metrics"]["bits_per_code"]}
    assert best["modalities"] == told["modalities"]


def test_figures_are_those_of_the_saved_prior(home, tmp_path):
    told = alone(home, tmp_path / "run")
    prior = Generator.load(tmp_path / "run").prior
    own = prior.vocabulary["image"]
    for split, figure in (("held-out", "bits_per_code"), ("train", "bits_per_code_train")):
        rows = [*TokenSet(home / "image-tokens", split)]
        if split == "train":  # at most evaluate_samples, spread evenly
            rows = [rows[i * len(rows) // 12] for i in range(12)]
        found = prior.loss(own.join([torch.from_numpy(np.stack([row.maps[0] for row in rows]))]))
        bits = float(found.nats[0] / found.counts[0]) / math.log(2)
        assert told["modalities"]["image"][figure] == pytest.approx(bits, rel=1e-5)


def test_several_modalities_are_learnt_with_and_without_one_another(tmp_path):
    home = home_of(180, tmp_path / "home")  # by six held-out examples chance would decide
    network = ["prior.width=32", "prior.depth=2", "train.learning_rate=0.01"]
    told = joint(home, tmp_path / "run", *LEARNING, *network, steps=200)
    assert list(told["modalities"]) == ["image", "notes"]
    for figures in told["modalities"].values():
        # what one says of the other is the class: log2(3) bits, spread over the codes of a block
        assert figures["bits_per_code"] < figures["bits_per_code_unconditional"] - 0.1
        assert figures["bits_per_code"] < figures["bits_per_code_unigram"]
    generator = Generator.load(tmp_path / "run", vqmm.Registry.discover(FAKES))
    assert [own.name for own in generator.vocabulary.ranges] == ["image", "notes"]
    assert generator.vocabulary["notes"].longest == 4 and generator.labels == ()


def test_a_prior_conditioned_on_labels(home, tmp_path):
    told = alone(home, tmp_path / "run", *LEARNING, "condition_dropout=0.3", steps=75, condition="label")
    figures = told["modalities"]["image"]
    assert figures["bits_per_code"] < figures["bits_per_code_unconditional"] - 0.1
    generator = Generator.load(tmp_path / "run")
    assert generator.labels == ("a", "b", "c") and generator.vocabulary.ranges[0].name == "label"
    both = joint(home, tmp_path / "both", condition="label", steps=2)
    assert list(both["modalities"]) == ["image", "notes"] and both["context"] == 3 + 6 + 6


def test_it_stops_when_held_out_bits_stop_improving_and_keeps_the_best(home, tmp_path, monkeypatch):
    bits = iter([3.0, 2.0, 2.5, 2.1, 2.0, 1.0])
    monkeypatch.setattr(PriorRun, "evaluated", lambda self: {"image": BitsPerCode(next(bits), None, 4.0, 1.0)})
    seen = {}
    save = Generator.save
    monkeypatch.setattr(Generator, "save", lambda self, folder: (seen.update(weights=_state(self)), save(self, folder)))
    told = alone(home, tmp_path / "run", "train.patience=3", "train.evaluate_every=2", steps=40)
    assert told["stopped_early"] and told["steps"] == 10 and told["best"] == {"step": 4, "bits_per_code": 2.0}
    assert same(seen["weights"], weights(tmp_path / "run"))
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000010"
    again = alone(home, tmp_path / "run", "train.patience=3", "train.evaluate_every=2", steps=40, resume=True)
    assert again == told  # it knows that it had given up


def _state(generator):
    return {name: value.clone() for name, value in generator.prior.state_dict().items()}


def test_averaged_weights_are_judged_and_saved(home, tmp_path):
    alone(home, tmp_path / "plain", steps=4)
    alone(home, tmp_path / "average", "train.average=0.9", steps=4)
    last = read_checkpoint(checkpoints(tmp_path / "average" / "checkpoints")[-1])[0]
    plain = read_checkpoint(checkpoints(tmp_path / "plain" / "checkpoints")[-1])[0]
    saved = weights(tmp_path / "average")
    assert torch.equal(last["prior.ids.weight"], plain["prior.ids.weight"])  # training is as it was
    assert torch.equal(saved["ids.weight"], last["average.ids.weight"])
    assert not torch.equal(saved["ids.weight"], last["prior.ids.weight"])


# Going on


class KilledError(RuntimeError):
    pass


@pytest.fixture
def killed_at(monkeypatch):
    """Let the run die in a given step, before it has done its work."""

    def die_at(step):
        real = PriorLoop.train_step

        def train_step(self):
            if self.step == step:
                raise KilledError
            real(self)

        monkeypatch.setattr(PriorLoop, "train_step", train_step)
        return lambda: monkeypatch.setattr(PriorLoop, "train_step", real)

    return die_at


@pytest.mark.parametrize(("step", "average"), [(2, "null"), (5, "0.9"), (11, "null")])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(home, step, average, tmp_path, killed_at):
    settings = [f"train.average={average}", "prior.dropout=0.3", "condition_dropout=0.3"]
    told = joint(home, tmp_path / "whole", *settings)
    live = killed_at(step)
    with pytest.raises(KilledError):
        joint(home, tmp_path / "killed", *settings)
    live()
    torch.manual_seed(random.randrange(10**6))  # whatever happened in between
    again = joint(home, tmp_path / "killed", *settings, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert {**again, "run": 0, "prior": 0} == {**told, "run": 0, "prior": 0}
    ends = [read_checkpoint(checkpoints(tmp_path / out / "checkpoints")[-1]) for out in ("whole", "killed")]
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
    assert lines(tmp_path / "killed", "held-out") == lines(tmp_path / "whole", "held-out")


def test_a_signal_saves_and_leaves(home, tmp_path, monkeypatch):
    real = PriorLoop.train_step

    def train_step(self):
        real(self)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PriorLoop, "train_step", train_step)
    with pytest.raises(Stopped, match="stopped at step 3 by SIGTERM and saved"):
        alone(home, tmp_path / "run")
    monkeypatch.setattr(PriorLoop, "train_step", real)
    alone(home, tmp_path / "run", resume=True)
    alone(home, tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_other_settings_or_other_data_are_refused(home, tmp_path):
    alone(home, tmp_path / "run", steps=4)
    before = weights(tmp_path / "run")
    with pytest.raises(vqmm.UserError, match=r"begun with another recipe: condition_dropout was 0.1 and is 0.2"):
        alone(home, tmp_path / "run", "condition_dropout=0.2", steps=4, resume=True)
    folder, state = tmp_path / "run" / "checkpoints", "state.json"
    file = checkpoints(folder)[-1] / state
    file.write_text(json.dumps({**json.loads(file.read_text()), "data_fingerprint": "other"}))
    with pytest.raises(vqmm.UserError, match=r"begun with other data \(fingerprint other, now"):
        alone(home, tmp_path / "run", steps=4, resume=True)
    assert same(weights(tmp_path / "run"), before)


def test_a_gradient_that_is_not_finite_ends_it_with_what_was_saved(home, tmp_path, monkeypatch):
    real = PriorLoop.train_step

    def train_step(self):
        if self.step == 6:
            with torch.no_grad():
                next(self.prior.parameters()).fill_(float("nan"))
        real(self)

    monkeypatch.setattr(PriorLoop, "train_step", train_step)
    with pytest.raises(vqmm.UserError, match=r"gradient at step 6 is not finite: lower train\.learning_rate"):
        alone(home, tmp_path / "run")
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000004"]


def test_bfloat16(home, tmp_path):
    told = joint(home, tmp_path / "run", "train.precision=bfloat16", steps=3)
    assert math.isfinite(told["best"]["bits_per_code"])
    assert {value.dtype for value in weights(tmp_path / "run").values()} == {torch.float32}
