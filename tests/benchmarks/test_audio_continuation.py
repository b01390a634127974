"""Sounds that a prior goes on with, from its run to the table."""

import json
import sys

import pytest

import vqmm
from vqmm.benchmarks import audio_continuation
from vqmm.evaluation import classifier

TONES = ["modality.sample_rate_hz=8000", "modality.stride=320", "modality.seconds=0.4", "modality.waveform_weight=0"]
SMALL = ["modality.width=8", "modality.blocks=0", "quantizer.codebook_size=8", "quantizer.dim=4"]


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Sounds are shown without their pictures, which are no part of what is tested here and take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqmm.plugins.audio.show.draw", lambda waves, sample_rate_hz: [b"" for _ in waves])
        yield


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continued")
    settings = [*TONES, *SMALL, "train.batch_size=4", "train.evaluate_samples=8"]
    vqmm.train("audio", "builtin:tones", folder / "run", "vqvae-ema", steps=5, settings=settings, quiet=True)
    vqmm.encode(folder / "run", "builtin:tones", folder / "tokens")
    small = ["prior.width=8", "prior.depth=1", "prior.heads=1"]
    run = folder / "prior"
    vqmm.train_prior(folder / "run", run, tokens=folder / "tokens", steps=1, settings=small, quiet=True)
    return run


def test_what_is_kept_is_judged_beside_what_is_drawn(prior, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "EPOCHS", 12)  # a classifier good enough
    page = tmp_path / "continued.html"
    words = ["audio_continuation", str(prior), "builtin:tones", "--name", "tones", "--keep", "0.5", "--count", "20"]
    monkeypatch.setattr(sys, "argv", [*words, "--show", str(page), "--out", str(tmp_path)])
    audio_continuation.main()
    told = json.loads((tmp_path / "audio_continuation-tones.json").read_text())
    rows = {row["sounds"]: row for row in told["rows"]}
    whole, kept, on = (rows[name] for name in ("originals", "beginnings alone", "beginnings gone on with"))
    assert whole["agreement"] > 0.9 and whole["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert rows["training sounds"]["frechet_distance"] < on["frechet_distance"]
    assert kept["seconds"] == pytest.approx(whole["seconds"] / 2, rel=0.2) and on["seconds"] > kept["seconds"]
    assert page.read_text().count("<audio") >= 3


def test_a_few_are_taken_from_all_over():
    assert audio_continuation.evenly(list(range(10)), 3) == [0, 3, 6]
    assert audio_continuation.evenly([1, 2], 5) == [1, 2]
