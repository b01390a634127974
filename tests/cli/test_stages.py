"""The rate of a residual quantizer is chosen when files are encoded or judged."""

import re

import pyarrow.parquet as pq
import pytest

from tests.cli.runner import TINY
from vqmm.commands.train import train

OPTIONS = [*TINY[1::2], "quantizer.stages=3", "quantizer.codebook_size=8"]


@pytest.fixture(scope="module")
def stack(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "stack"
    train("image", pictures, out, "rvq", steps=20, settings=OPTIONS, quiet=True)
    return out


def test_fewer_stages_are_fewer_codes_and_come_back(vqmm, stack, pictures, tmp_path):
    told = {}
    for stages in (1, 3):
        tokens = tmp_path / f"tokens-{stages}"
        told[stages] = vqmm("encode", stack, pictures, "--out", tokens, "--stages", stages, "--json").json
        (shard,) = tokens.glob("*.parquet")
        assert {len(codes) for codes in pq.read_table(shard)["map0"].to_pylist()} == {stages * 16}
        back = tmp_path / f"back-{stages}"
        assert vqmm("decode", stack, tokens, "--out", back).code == 0 and len([*back.glob("*.png")]) == 24
    assert told[3]["bits"] == 3 * told[1]["bits"] == 24 * 16 * 9


def test_eval_judges_at_a_rate(vqmm, stack, pictures):
    found = {n: vqmm("eval", stack, "--data", pictures, "--stages", n, "--json").json["metrics"] for n in (1, 2, 3)}
    assert [found[n]["bits_per_pixel"] for n in (1, 2, 3)] == [0.75, 1.5, 2.25]
    assert found[1]["mse"] != found[3]["mse"]
    assert vqmm("eval", stack, "--data", pictures, "--json").json["metrics"]["bits_per_pixel"] == 2.25


def test_eval_tells_how_each_stage_is_used(vqmm, stack, run, pictures):
    told = vqmm("eval", stack, "--data", pictures, "--json").json
    assert [(one["map"], one["stage"], one["size"]) for one in told["stages"]] == [(0, 0, 8), (0, 1, 8), (0, 2, 8)]
    mean = sum(one["use"] for one in told["stages"]) / 3
    assert told["metrics"]["codebook_usage"] == pytest.approx(mean) and 0 < mean <= 1
    assert 0 < told["metrics"]["entropy_bits_per_pixel"] <= told["metrics"]["bits_per_pixel"]
    assert len(vqmm("eval", stack, "--data", pictures, "--stages", 2, "--json").json["stages"]) == 2
    printed = vqmm("eval", stack, "--data", pictures).out
    assert "\nmap " in printed
    rows = [line.split() for line in printed.splitlines() if re.match(r"0 +[012] +8 ", line)]
    assert [row[:3] for row in rows] == [["0", "0", "8"], ["0", "1", "8"], ["0", "2", "8"]]
    assert [float(row[3]) for row in rows] == pytest.approx([one["use"] for one in told["stages"]], rel=1e-3)
    assert "\nmap " not in vqmm("eval", run, "--data", pictures).out, "of one stage everything is said already"


def test_mistakes(vqmm, stack, run, pictures, tmp_path):
    out = tmp_path / "out"
    assert "4 stages: the quantizer 'residual' of this run has 3" in vqmm.refuses(
        "encode", stack, pictures, "--out", out, "--stages", 4
    )
    assert "2 stages: the quantizer 'vector' of this run has 1" in vqmm.refuses(
        "eval", run, "--data", pictures, "--stages", 2
    )
    assert not out.exists()
