"""Charts, the counts of codes over several maps, fragments of HTML, and a look at held-out data."""

import re
import subprocess
import sys

import torch

import vqmm
from tests.fakes import Notes
from vqmm.contracts.batch import Codes
from vqmm.evaluation.evaluate import EvaluationResult
from vqmm.evaluation.usage import CodeUsage
from vqmm.pages import charts
from vqmm.pages.heldout import evaluate_again, saved_model
from vqmm.pages.page import _codebooks, _shown
from vqmm.pages.record import Record, read_record, series
from vqmm.registry import Registry


def test_curves_take_their_colours_from_the_page():
    drawn = charts.curves("losses <over> steps", [([1, 2, 3], [1.0, 0.1, 0.01]), ([1, 2], [0.5, 0.4])], decays=True)
    assert "var(--series-0)" in drawn and "var(--series-1)" in drawn and "var(--line)" in drawn
    assert "#00001" not in drawn and "&lt;over&gt;" in drawn and "DejaVu" not in drawn and "<metadata" not in drawn
    assert drawn == charts.curves(
        "losses <over> steps", [([1, 2, 3], [1.0, 0.1, 0.01]), ([1, 2], [0.5, 0.4])], decays=True
    )


def test_curves_of_one_point_of_none_and_of_negative_values_are_drawn():
    for lines in ([([5], [1.0])], [], [([1, 2], [-1.0, 1e6])], [([1, 2], [0.0, float("nan")])]):
        assert charts.curves("x", lines, decays=True).startswith("<svg")


def test_a_large_codebook_stays_a_small_picture():
    large = charts.counts_picture("x", list(range(65536)))
    assert len(large) < 60_000
    assert charts.counts_picture("x", [0, 0]).startswith("<svg") and charts.counts_picture("x", [3]).startswith("<svg")


def test_matplotlib_is_left_as_it_was_and_needs_no_display():
    told = """
import sys, matplotlib
from vqmm.pages import charts
before = matplotlib.rcParams.copy()
charts.curves("x", [([1, 2], [1.0, 2.0])])
assert matplotlib.rcParams.copy() == before and "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", told], check=True)


def test_every_map_and_stage_has_its_picture():
    usage = CodeUsage(((4, 4), (8,)))
    usage.update(Codes((torch.zeros(1, 2, 3).long(), torch.arange(8).reshape(1, 1, 8)), torch.tensor([[8]])))
    usage.counts[0][0][:] = torch.tensor([3, 0, 1, 0])
    books = _codebooks(EvaluationResult(code_counts=[[each.tolist() for each in stages] for stages in usage.counts]))
    assert [book["title"] for book in books] == ["map 0, stage 0", "map 0, stage 1", "map 1"]
    assert [book["said"][0] for book in books] == ["2 of 4 codes used", "1 of 4 codes used", "8 of 8 codes used"]


def test_a_fragment_is_taken_as_it_is():
    class Written(vqmm.Evaluation):
        def show(self, *rows, names=None):
            return "<ol><li>do re mi</li></ol>"

    class WrittenNotes(Notes):
        def evaluation(self):
            return Written()

    samples = [torch.zeros(1, 4)] * 2
    (figure,) = _shown(WrittenNotes(), EvaluationResult(keys=["a", "b"], shown=(samples, samples)))
    assert str(figure["fragment"]) == "<ol><li>do re mi</li></ol>" and figure["keys"] == ["a", "b"]


def test_the_look_counts_every_code_and_notes_the_first_keys(run):
    record = read_record(run)
    seen = evaluate_again(record, saved_model(record, Registry.discover()))
    assert seen.count == 64 and seen.looked_at.startswith("64 of 176 samples; the held-out tenth; ")
    ((counts,),) = seen.code_counts
    assert sum(counts) == 64 * 16
    assert sum(count > 0 for count in counts) / len(counts) == seen.metrics["codebook_usage"]
    assert len(seen.keys) == len(seen.shown[0]) == 8 and len(set(seen.keys)) == 8


def test_training_time_is_steps_times_samples_over_speed(tmp_path):
    lines = [{"kind": "train", "step": step, "samples_per_second": 100.0} for step in (20, 40)]
    record = Record(tmp_path, {"train": {"batch_size": 10, "accumulate": 2}}, lines, {})
    assert record.training_seconds() == 40 * 10 * 2 / 100
    assert Record(tmp_path, {}, [], {}).training_seconds() is None


def test_a_series_skips_what_is_no_number():
    lines = [{"step": 1, "metrics": {"x": 2}}, {"step": 2, "metrics": {"x": None}}, {"step": 3, "metrics": True}]
    assert series(lines, "metrics", "x") == ([1], [2.0])
    assert not re.search("x", str(series([], "metrics", "x")))
