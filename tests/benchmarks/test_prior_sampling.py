"""The benchmark of priors' sampling: it compares two ways that draw from the same scores, and writes a result."""

import json
import sys

import pytest
import torch

from vqmm.benchmarks import prior_sampling
from vqmm.plugins.priors.pixelcnn import PixelCNN


def test_it_writes_a_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prior_sampling, "PRIORS", ("pixelcnn",))
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        sys, "argv", ["it", "--side", "6", "--codes", "7", "--parts", "2", "--repeats", "1", "--out", str(tmp_path)]
    )
    prior_sampling.main()
    torch.set_num_threads(threads)
    told = json.loads((tmp_path / "prior_sampling.json").read_text())
    assert [(row["prior"], row["batch"]) for row in told["rows"]] == [("pixelcnn", 1), ("pixelcnn", 16)]
    for row in told["rows"]:
        assert row["times"] == pytest.approx(row["anew_seconds"] / row["kept_seconds"])
        assert row["furthest_scores"] < 1e-4
    assert "times" in capsys.readouterr().out and str(tmp_path) not in json.dumps(told)


def test_a_prior_whose_steps_are_not_the_whole_is_not_timed(monkeypatch):
    prior = prior_sampling.prior_of("pixelcnn", prior_sampling.vocabulary_of(4, 5), width=8, depth=1)
    step = PixelCNN.step
    monkeypatch.setattr(PixelCNN, "step", lambda self, *told: step(self, *told) + 0.5)
    with pytest.raises(RuntimeError, match="pixelcnn: scores of steps are"):
        prior_sampling.check(prior)


def test_anew_draws_codes_of_the_next_place():
    vocabulary = prior_sampling.vocabulary_of(3, 5)
    prior = prior_sampling.prior_of("lstm", vocabulary, width=8)
    ids = prior_sampling.sequences(vocabulary, 3)
    assert ids.shape == (3, 3 + 1 + 9 + 1)
    drawn = prior_sampling.anew(prior, ids[:, :7])
    assert drawn.shape == (3,) and drawn.max() < 5
