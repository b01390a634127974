"""vqmm bench, as a person types it."""

import importlib
import json

import pytest
import torch

from vqmm.measure import NAMED, Shape
from vqmm.measure import contenders as people

measuring = importlib.import_module("vqmm.measure")  # the attribute of that name is the verb

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="what it says of a CPU")


@pytest.fixture(autouse=True)
def tiny(monkeypatch) -> None:
    """Shapes under their own names, small enough for a test."""
    for name, shape in list(NAMED.items()):
        monkeypatch.setitem(NAMED, name, Shape(name, 80, 16, 8, min(shape.q, 2)))
    sizes = ("vqvae", "middle", "wide", "narrow")
    monkeypatch.setattr(measuring, "CPU_SHAPES", tuple(NAMED[f"cpu-{size}"] for size in sizes))
    monkeypatch.setattr("vqmm.cli.bench.QUICK_SECONDS", 2.0)


def test_a_table_that_a_person_can_read(vqmm):
    finished = vqmm("bench", "--quick")
    assert finished.code == 0 and "no GPU here: the CPU paths are measured, on one thread" in finished.err
    assert "vqmm ms" in finished.out and "cpu-vqvae" in finished.out and "streaming" in finished.out
    assert "perf_counter, one thread" in finished.out and "torch" in finished.out


def test_json_is_one_object_and_out_writes_it(vqmm, tmp_path):
    told = vqmm("bench", "residual_quantize", "--quick", "--json", "--out", tmp_path / "deep").json
    assert {(row["name"], row["task"]) for row in told["rows"]} == {("streaming", "train")}
    assert json.loads((tmp_path / "deep" / "quantizer.json").read_text())["rows"] == told["rows"]


def test_a_shape_by_name_is_measured_in_every_task(vqmm):
    told = vqmm("bench", "text", "--quick", "--json").json
    assert {(row["name"], row["task"]) for row in told["rows"]} == {("text", task) for task in people.TASKS}


def test_explain_says_what_would_run_and_measures_nothing(vqmm, monkeypatch):
    monkeypatch.setattr(measuring, "measure", None)
    finished = vqmm("bench", "--explain")
    assert finished.code == 0 and all(name in finished.out for name in NAMED) and "stage by stage" in finished.out
    told = vqmm("bench", "text", "--explain", "--json").json
    assert told["device"] == "cpu" and [row["name"] for row in told["paths"]] == ["text"]
    assert told["paths"][0]["runs"].startswith("cpu, ")


def test_a_name_that_does_not_exist(vqmm):
    said = vqmm.refuses("bench", "texts")
    assert "no kernel or shape is called 'texts'" in said and "Did you mean 'text'?" in said


def test_a_wrong_kernel_is_our_own_fault(vqmm, monkeypatch, capsys):
    wrong = people.Outcome(torch.zeros(80, 1, dtype=torch.int32))
    monkeypatch.setattr(people, "our_search", lambda task, given, precision: wrong)
    with pytest.raises(RuntimeError, match="a kernel's result is wrong, so it has no figure: text search exact"):
        vqmm("bench", "text", "--quick")
    assert "WRONG" in capsys.readouterr().out
