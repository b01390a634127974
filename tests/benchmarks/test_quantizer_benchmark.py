"""The benchmark of the quantizer: what it lets pass, what it measures, and that the GPU's script runs."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from vqmm.kernels.nearest_code import nearest_code_reference
from vqmm.kernels.residual_quantize import residual_quantize_reference
from vqmm.measure import CPU_SHAPES, NAMED, SHAPES, Shape, bench, choose, paths, wrong_rows
from vqmm.measure import contenders as people
from vqmm.measure.check import COMMITMENT, Outcome, bound, sample, verdict
from vqmm.measure.repeat import same, same_bits
from vqmm.measure.roofline import floor
from vqmm.measure.runner import TimingPlan, measure
from vqmm.measure.shapes import operands
from vqmm.measure.table import HEAD, notes, table
from vqmm.measure.timing import extra_bytes, in_turn, summary

CPU = torch.device("cpu")
ONE = Shape("one", 90, 24, 8)
STACK = Shape("stack", 90, 16, 8, 3)
INTERPRETER_NOISE = ("ignore:Conversion of an array:DeprecationWarning", "ignore:invalid value:RuntimeWarning")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outcomes(shape, task):
    given = operands(shape, CPU)
    each = [c for c in people.contenders(task, shape, CPU) if isinstance(c, people.Contender)]
    return given, {contender.name: contender.make(given)() for contender in each}


@pytest.mark.parametrize("task", people.TASKS)
def test_every_contender_does_the_same_task(task):
    """Figures of unlike work would say nothing."""
    given, found = outcomes(ONE, task)
    truth_N = nearest_code_reference(given.x_ND, given.code_KD)
    assert {"vqmm", "naive", "torch"} <= set(found)
    for name, outcome in found.items():
        assert torch.equal(outcome.index_NQ[:, 0].int(), truth_N), name
        if name in ("vqmm", "naive", "torch"):
            assert verdict(given, outcome, "exact").wrong == "", name
            assert (outcome.sums_KD is None) == (task == "search"), name
            assert (outcome.grad_ND is None) == (task != "train"), name


@pytest.mark.parametrize("task", people.tasks_of(STACK))
def test_stacks_too(task):
    given, found = outcomes(STACK, task)
    truth = residual_quantize_reference(given.x_ND, given.code_KD, STACK.sizes)
    for name, outcome in found.items():
        assert torch.equal(outcome.index_NQ.int(), truth.index_NQ), name
        if name in ("vqmm", "naive", "torch"):
            assert verdict(given, outcome, "exact").wrong == "", name


def test_the_gradient_that_is_checked_is_autograds():
    given = operands(ONE, CPU)
    x_ND = given.x_ND.clone().requires_grad_()
    index_N = nearest_code_reference(given.x_ND, given.code_KD)
    chosen_ND = given.code_KD[index_N.long()]
    (COMMITMENT * (x_ND - chosen_ND).square().mean() + (x_ND * given.grad_ND).sum()).backward()
    assert verdict(given, Outcome(index_N[:, None], grad_ND=x_ND.grad), "exact").wrong == ""
    assert "gradient" in verdict(given, Outcome(index_N[:, None], grad_ND=x_ND.grad * 1.01), "exact").wrong


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda o: o._replace(index_NQ=(o.index_NQ + 1) % ONE.k), "times as much farther"),
        (lambda o: o._replace(index_NQ=o.index_NQ + ONE.k), "outside 0 to 23"),
        (lambda o: o._replace(index_NQ=o.index_NQ[:-1]), "(89, 1) indices, not (90, 1)"),
        (lambda o: o._replace(counts_K=o.counts_K.roll(1)), "counts: off by"),
        (lambda o: o._replace(sums_KD=o.sums_KD * 1.001), "sums: off by"),
        (lambda o: o._replace(vectors_ND=o.vectors_ND * float("nan")), "quantized vectors: off by nan"),
    ],
)
def test_what_is_wrong_is_found(change, said):
    given = operands(ONE, CPU)
    right = people.ours("train", given, "exact")()
    assert verdict(given, right, "exact").wrong == ""
    assert said in verdict(given, change(right), "exact").wrong


def test_one_wrong_index_at_the_ragged_end_is_found():
    given = operands(Shape("long", 3000, 16, 4), CPU)
    outcome = people.ours("search", given, "exact")()
    outcome.index_NQ[-1] = (outcome.index_NQ[-1] + 1) % 16
    assert verdict(given, outcome, "exact").wrong


def test_the_sample_covers_both_ends_and_stays_small():
    for n, k in ((1, 5), (7, 5), (65_536, 16_384), (16, 262_144)):
        rows = sample(n, k, CPU)
        assert rows[0] == 0 and rows[-1] == n - 1 and len(rows) * k <= 2**24 and len(rows.unique()) == len(rows)


def test_fast_is_allowed_what_it_states_and_exact_is_not():
    given = operands(ONE, CPU)
    exact_N, fast_N = (bound(given.x_ND, given.code_KD, precision) for precision in ("exact", "fast"))
    assert (fast_N > 50 * exact_N).all()
    assert torch.equal(bound(given.x_ND, given.code_KD, "certified"), exact_N)


def test_a_wrong_kernel_has_no_figure(monkeypatch, capsys):
    from vqmm.benchmarks import quantizer

    wrong = people.Outcome(torch.zeros(ONE.n, 1, dtype=torch.int32))
    monkeypatch.setattr(people, "our_search", lambda task, given, precision: wrong)
    monkeypatch.setitem(NAMED, "one", ONE)
    result = bench([(ONE, "search")], device="cpu", rounds=3, memory=False)
    ours = [row for row in result["rows"] if row["contender"] == "vqmm"]
    assert len(ours) == 1 and "ms" not in ours[0] and "farther" in ours[0]["wrong"]
    assert len(wrong_rows(result)) == 1 and "WRONG" in str(list(table(result["rows"])))
    assert any("ms" in row for row in result["rows"])  # the others have theirs
    with pytest.raises(SystemExit) as left:
        quantizer.main(["--shapes", "one", "--tasks", "search", "--device", "cpu", "--rounds", "3"])
    assert left.value.code == 1 and "wrong: one search exact" in capsys.readouterr().err


def test_a_result_has_what_a_reader_needs(tmp_path):
    result = bench([(ONE, "search"), (STACK, "train")], device="cpu", seconds=2, rounds=3)
    assert {"ceilings", "versions", "cpu", "torch", "date", "setup"} <= set(result) and result["threads"] == 1
    for row in result["rows"]:
        if "ms" in row:
            assert 0 < row["ms"]["p20"] <= row["ms"]["median"] <= row["ms"]["p80"] and row["ms"]["rounds"] >= 3
            assert row["times_ours"] > 0 and row["extra_bytes"] >= 0 and row["worst"] <= 1
        if row["contender"] == "vqmm":
            assert row["times_ours"] == 1 and row["path"] == "cpu" and row["roofline"]["share"] > 0
    assert str(Path.home()) not in json.dumps(result) and all(
        len(cells) == len(HEAD) for cells in table(result["rows"])
    )


def test_missing_packages_and_failing_competitors_are_told(monkeypatch):
    monkeypatch.setattr(people, "installed", lambda module: False)

    def fails(*_: object) -> None:
        raise MemoryError("no room\nat all")

    monkeypatch.setattr(people, "naive", fails)
    rows = measure(ONE, "search", TimingPlan(CPU, {"fp32": 1e11}, rounds=3, memory=False))
    told = {row["contender"]: row["skipped"] for row in rows if "skipped" in row}
    assert told == {"faiss": "not installed", "naive": "MemoryError: no room at all"}
    assert len(notes(rows)) == 2


def test_who_does_not_fit_is_measured_on_fewer_vectors_beside_ours_on_as_many(monkeypatch):
    from vqmm.measure import runner as module

    shape = Shape("large", 1000, 64, 4)
    monkeypatch.setattr(module, "free_bytes", lambda device: 8.0 * 64 * 300)
    rows = {row["contender"]: row for row in measure(shape, "search", TimingPlan(CPU, {"fp32": 1e11}, rounds=3))}
    assert rows["naive"]["n"] == 256 and "measured at N 256" in rows["naive"]["note"] and rows["vqmm"]["n"] == 1000
    assert rows["naive"]["times_ours"] == rows["naive"]["ms"]["median"] / rows["naive"]["ours_ms"]
    assert rows["naive"]["ours_ms"] != rows["vqmm"]["ms"]["median"]
    monkeypatch.setattr(module, "free_bytes", lambda device: 1000.0)
    rows = {row["contender"]: row for row in measure(shape, "search", TimingPlan(CPU, {"fp32": 1e11}, rounds=3))}
    assert "ms" not in rows["naive"] and "are free" in rows["naive"]["skipped"]


def test_who_is_slow_gets_fewer_vectors(monkeypatch):
    def sleepy(task, given):
        return lambda: (time.sleep(1e-4 * given.shape.n), Outcome(nearest_code_reference(*given[:2])[:, None]))[1]

    monkeypatch.setattr(people, "naive", sleepy)
    plan = TimingPlan(CPU, {"fp32": 1e11}, seconds=0.8, rounds=3, memory=False)  # 0.1 s a call: about 1,000 vectors
    rows = {row["contender"]: row for row in measure(Shape("long", 8192, 8, 4), "search", plan)}
    assert 256 <= rows["naive"]["n"] <= 1024 and "s a call" in rows["naive"]["note"]


def test_contenders_take_turns():
    seen: list[int] = []
    times = in_turn([lambda i=i: seen.append(i) for i in range(3)], CPU, seconds=10, rounds=4)
    assert seen == [0, 1, 2] * 4 and [t.rounds for t in times] == [4, 4, 4]
    assert summary([5.0, 1.0, 2.0, 3.0, 4.0, 6.0])[1:3] == (2.0, 5.0)


def test_memory_counts_what_a_call_holds_at_its_peak():
    held = extra_bytes(lambda: (torch.ones(2**20), torch.ones(2**20)), CPU)
    freed = extra_bytes(lambda: [torch.ones(2**20).sum() for _ in range(4)], CPU)
    assert 8 * 2**20 <= held < 9 * 2**20 and 4 * 2**20 <= freed < 5 * 2**20
    outside = extra_bytes(lambda: bytearray(b"1") * 2**25, CPU, outside=True)
    assert extra_bytes(lambda: bytearray(b"1") * 2**25, CPU) < 2**20
    assert outside == 0 or 2**24 < outside < 2**26  # 0: the system does not tell, and where it does it rounds


def test_the_roofline_is_the_longest_of_bytes_products_and_compares(monkeypatch):
    from vqmm.measure import roofline

    ceiling = {"fp32": 60e12, "tf32": 400e12, "bf16": 800e12, "copy": 4e12}
    gpu, narrow, wide = torch.device("cuda"), NAMED["image-narrow"], NAMED["image-wide"]
    pairs = narrow.n * narrow.k
    monkeypatch.setattr(roofline, "product_of", lambda shape, precision, device: "split")
    assert floor(narrow, "exact", gpu, ceiling) == (pytest.approx(1e3 * 3 * 16 * pairs / 400e12), "split products")
    assert floor(wide, "exact", gpu, ceiling) == (pytest.approx(1e3 * 3 * wide.flops / 400e12), "split products")
    monkeypatch.setattr(roofline, "product_of", lambda shape, precision, device: "tf32")
    assert floor(narrow, "fast", gpu, ceiling) == (pytest.approx(1e3 * 3 * pairs / 30e12), "compares")
    monkeypatch.setattr(roofline, "product_of", lambda shape, precision, device: "fma")
    assert floor(narrow, "exact", gpu, ceiling).ms == pytest.approx(1e3 * (3 + 8) * pairs / 30e12)
    assert floor(Shape("copy", 10**6, 2, 64), "fast", gpu, {**ceiling, "fp32": 1e18}).unit == "bytes"
    assert floor(wide, "exact", CPU, {"fp32": 1e11}).ms == pytest.approx(1e3 * wide.flops / 1e11)


def test_bits_that_differ_are_told(monkeypatch):
    assert same_bits([ONE, STACK], CPU, 3, ("exact",)).keys() >= {"one search exact", "stack train exact"}
    assert all(same_bits([ONE], CPU, 3, ("exact",)).values())
    zero = torch.zeros(2, 1)
    assert same(Outcome(zero * math.nan), Outcome(zero * math.nan)) and not same(Outcome(zero), Outcome(-zero))


def test_names_choose_shapes_and_tasks():
    assert {shape.name for shape, _ in choose(None, torch.device("cuda"))} == {shape.name for shape in SHAPES}
    assert {task for _, task in choose("text", CPU)} == set(people.TASKS)
    assert all(shape.q > 1 for shape, _ in choose("residual_quantize", CPU))
    assert len(choose(None, CPU, quick=True)) < len(choose(None, CPU))
    with pytest.raises(ValueError, match=r"no shape and no kernel is called 'texts'\. There is: nearest_code"):
        choose("texts", CPU)
    assert [row["runs"][:3] for row in paths([*CPU_SHAPES, NAMED["streaming"]], CPU)] == ["cpu"] * 5


def test_the_plot_is_drawn_from_its_sweep(tmp_path):
    from vqmm.benchmarks.quantizer_plot import plot

    result = bench([(ONE, "search")], device="cpu", rounds=3, memory=False)
    path = plot(CPU, tmp_path / "deep" / "picture.png", result, ((8, 16), 64, (32, 64), 8))
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert {row["k"] for row in result["sweep"]["K"]} == {8, 16} and {row["n"] for row in result["sweep"]["N"]} == {
        32,
        64,
    }


@pytest.mark.filterwarnings(*INTERPRETER_NOISE)
@pytest.mark.skipif(torch.cuda.is_available(), reason="through Triton's interpreter")
def test_tuning_takes_the_fastest_that_is_right(monkeypatch, tmp_path):
    """Of three that seem to take 2, 1 and 0.5 ms, of which the last is wrong, the second."""
    from vqmm.benchmarks import tune_kernels
    from vqmm.kernels.nearest_code.tables import TABLES

    rows = [row for row in TABLES.rows((9, 0)) if row.precision == "exact"][:2]
    slow, best, wrong = rows[0], rows[0]._replace(stages=2), rows[0]._replace(stages=5)
    costs = {slow.stages: 2.0, best.stages: 1.0, wrong.stages: 0.5}
    search = tune_kernels.search

    def spoilt(given, config):
        run = search(given, config)
        if config == wrong:
            run = lambda: Outcome(torch.zeros(given.shape.n, 1, dtype=torch.int32))  # noqa: E731
        run.milliseconds = costs[config.stages]
        return run

    monkeypatch.setattr(TABLES, "rows", Mock(return_value=rows))
    monkeypatch.setattr(tune_kernels, "candidates", lambda row, width: iter((slow, wrong, best)))
    monkeypatch.setattr(tune_kernels, "FEW", 3)
    monkeypatch.setattr(tune_kernels, "search", spoilt)
    monkeypatch.setattr(tune_kernels, "once", lambda run, device: run.milliseconds)
    told = tune_kernels.tune(CPU, 60, small=True, folder=tmp_path)
    assert TABLES.read(tmp_path / told["table"]) == (best._replace(measured=True),) * 2 and told["tried"] == 6
    assert all("farther" in each["failed"][0][1] for each in told["classes"])
    assert json.loads((tmp_path / told["table"]).read_text())["device"] == "Triton's interpreter"


def test_candidates_start_with_what_is_in_use_and_every_one_is_tried_once():
    from vqmm.benchmarks.tune_kernels import candidates, classes, spread
    from vqmm.kernels.nearest_code.tables import TABLES

    made = classes(TABLES.rows((9, 0)))
    assert {c.row for c in made} == set(TABLES.rows((9, 0))) and all(c.shape.d <= c.row.max_width for c in made)
    assert all(c.shape.k <= c.row.max_k for c in made)
    for c in made:
        configs = list(candidates(c.row, c.shape.d))
        assert configs[0] == c.row and len(configs) > 10
        for config in configs:
            TABLES.check(config, "a candidate")
    tried = list(spread(made, None))
    assert len(tried) == len(set(tried)) == sum(len(set(candidates(c.row, c.shape.d))) for c in made)
    assert [config for _, config in tried[: len(made)]] == [c.row for c in made]


def suite(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_suite.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said without a GPU")
def test_without_a_gpu_the_suite_says_so_in_one_line():
    done = suite()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu_suite: there is no GPU here; --dry-run goes through the steps on the CPU\n"


def test_mistakes_get_one_line(tmp_path):
    for given, said in (
        (("--wheels", tmp_path / "nothing"), "is no folder"),
        (("--steps", "tests,bugs"), "no step is called bugs; there is tests, big, bits"),
    ):
        done = suite("--dry-run", *given)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_the_suite_runs_from_a_bare_checkout(tmp_path):
    """In its own copy of the tree, with nothing of this environment's vqmm: the steps that load something of their own,
    at tiny sizes. What the others do is tested below without a process each."""
    done = suite("--dry-run", "--out", tmp_path, "--minutes", 4, "--steps", "tests,tune,bench")
    told = json.loads((tmp_path / "gpu_suite.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(told["steps"]) == ["tests", "tune", "bench"] and told["failures"] == []
    assert told["steps"]["tests"]["test_update_codebook.py"]["tests"] > 0
    assert told["steps"]["tune"]["tried"] > 0 and any("ms" in row for row in told["steps"]["bench"]["rows"])
    assert (tmp_path / "quantizer.json").is_file()


def test_every_check_of_the_suite_passes_at_tiny_sizes():
    pytest.importorskip("triton", reason="Triton is made for Linux only")
    from vqmm.benchmarks.gpu_checks import CHECKS, TINY

    told = {name: check(CPU, TINY, lambda: False) for name, check in CHECKS.items()}
    assert list(told) == ["big", "bits", "graphs", "new-n"] and all(told.values())
    assert {each: why for each, why in told.items() for one in why.values() if not one["passed"]} == {}
    assert told["graphs"]["residual_quantize, aot_eager"]["passed"] is True
    late = {name: check(CPU, TINY, lambda: True) for name, check in CHECKS.items() if name != "new-n"}
    assert {one["why"] for each in late.values() for one in each.values()} == {"time was up"}


def test_a_step_that_fails_is_recorded_and_stops_no_other(tmp_path, monkeypatch):
    from vqmm.benchmarks import gpu_suite

    def step(house, name, out, seconds):
        if name == "big":
            raise OSError("the driver fell asleep")
        if name == "bench":
            return {"rows": [{"name": "text", "task": "sums", "precision": "fast", "wrong": "counts: off by 1"}]}
        return {"passed": False, "why": "time was up"} if name == "bits" else {name: {"passed": True, "why": ""}}

    monkeypatch.setattr(gpu_suite, "step", step)
    monkeypatch.setattr(
        gpu_suite, "tests", lambda house, seconds: {"test_a.py": {"passed": None, "why": "time was up"}}
    )
    result = gpu_suite.suite(gpu_suite.House(tmp_path, {}, True), tmp_path, 1.0, time.monotonic())
    assert len(result["steps"]) == 7 and result["failures"] == [
        "tests: test_a.py: time was up",
        "big: OSError: the driver fell asleep",
        "bits: time was up",
        "bench: text sums fast: counts: off by 1",
    ]
    assert json.loads((tmp_path / "gpu_suite.json").read_text()) == result


def test_a_step_that_hangs_is_stopped(tmp_path):
    from vqmm.benchmarks.gpu_suite import House

    start = time.monotonic()
    code, out, _ = House(tmp_path, {}, True).run(["-c", "import time; print('here', flush=True); time.sleep(60)"], 2.0)
    assert (code, out) == (-1, "here\n") and time.monotonic() - start < 20
