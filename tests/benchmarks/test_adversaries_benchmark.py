"""What the benchmark of critics makes of a run's log."""

import json

import pytest

from vqmm.benchmarks.adversaries import falls, parted, table


def test_how_far_a_run_fell_below_its_best_before_the_critic(tmp_path):
    lines = [{"kind": "held-out", "step": 10 * i, "metrics": {"m": value}} for i, value in enumerate((20, 24, 23.8), 1)]
    lines.append({"kind": "critic", "step": 20, "margin": 0.0})  # it warms up
    lines.append({"kind": "critic", "step": 30, "margin": 0.1, "loss_scale": 1.0})
    after = (23.7, 23.2, 24.5, None, 22.0)
    lines += [{"kind": "held-out", "step": 10 * i, "metrics": {"m": value}} for i, value in enumerate(after, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert falls(tmp_path, "m", True, fall=0.5) == {"deepest": pytest.approx(2.0), "below_share": pytest.approx(2 / 7)}
    assert falls(tmp_path, "m", False, fall=0.5)["deepest"] == pytest.approx(4.5), "where lower is better"


def test_a_run_without_a_critic_fell_nowhere(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "held-out", "step": 1, "metrics": {"m": 1.0}}\n')
    assert falls(tmp_path, "m", True, fall=0.5) == {"deepest": None, "below_share": None}


def test_means_and_spreads_over_seeds():
    rows = [{"recipe": "a", "seed": s, "x": x, "y": None} for s, x in ((0, 1.0), (1, 3.0))]
    (row,) = table(rows)
    assert row == {"recipe": "a", "x": 2.0, "spread": {"x": [1.0, 3.0]}}


def test_what_a_recipe_is_asked_with():
    assert parted("vqgan", 30) == ("vqgan", "", 30)
    assert parted("rvq+critic", 30) == ("rvq", "critic", 30)
    assert parted("rvq:56", 30) == ("rvq", "", 56)
    assert parted("rvq+critic:56", 30) == ("rvq", "critic", 56)
