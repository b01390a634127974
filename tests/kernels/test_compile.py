"""Every kernel compiles for GPUs that are not here, fits, does not spill, and takes the tensor cores.

Of every kind of kernel the narrowest and the widest row each time; every row where kernels, tables or Triton are not
those of the last full run: see compile_all.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import compile_all

INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")


@pytest.fixture(scope="module")
def said():
    """What came out, by script."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compile_all"]
    top = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=top, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stderr.splitlines()[-1])
    return json.loads(done.stdout)


def test_nearest_code(said):
    for name, counted in said["nearest_code"]["variants"].items():  # a new number of vectors compiles nothing
        assert counted[0] > 0 and len(set(counted)) == 1, (name, counted)
    assert {"search_kernel", "merge_kernel", "gather_kernel"} <= set(said["nearest_code"]["variants"])
    kernels = said["nearest_code"]["kernels"]
    assert {k["capability"] for k in kernels} == set(INSTRUCTION)
    assert {k["kernel"] for k in kernels} == {"search", "merge", "gather", "compact", "pack split", "pack tf32"}
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= kernel["limit"], kernel
        assert kernel["spilled"] == 0, kernel
        dot = kernel.get("dot", "fma")
        unit = {"fma": [], "bf16": [[INSTRUCTION[kernel["capability"]], "bf16"]]}
        assert kernel["tensor_core"] == unit.get(dot, [[INSTRUCTION[kernel["capability"]], "tf32"]]), kernel


def test_codebook_softmax(said):
    shared_limit = {80: 99 * 1024, 90: 227 * 1024}  # the tiles of sm_80 serve its smaller sisters too: sm_86, 89, 120
    names = {"forward", "usage", "backward_x", "backward_code"}
    kernels = said["codebook_softmax"]["kernels"]
    assert {(k["capability"], k["kernel"]) for k in kernels} == {(c, k) for c in shared_limit for k in names}
    assert {k["precision"] for k in kernels} == {"exact", "fast"}
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= shared_limit[kernel["capability"]], kernel
        assert kernel["spilled"] == 0, kernel
        assert kernel["tensor_core"], kernel
        if kernel["capability"] == 90:
            assert ["wgmma.mma_async", "tf32"] in kernel["tensor_core"], kernel


def test_residual_quantize(said):
    shared_limit = {80: 99 * 1024, 90: 227 * 1024}  # the first table serves 8.6 and 8.9 too
    assert said["residual"]["variants"] == [1, 1]  # a new batch size, or stage, compiles nothing
    kernels = said["residual"]["kernels"]
    fused = [kernel for kernel in kernels if kernel["kernel"] == "quantize_kernel"]
    assert {kernel["capability"] for kernel in fused} == set(shared_limit) and len(kernels) > len(fused)
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= shared_limit[kernel["capability"]], kernel
        assert kernel["spilled"] == 0, kernel
    for kernel in fused:
        if kernel["dot"] != "fma":
            assert [INSTRUCTION[kernel["capability"]], "tf32"] in kernel["tensor_core"], kernel


def test_code_sums_and_update_codebook(said):
    shared_limit = {80: 163 * 1024, 90: 227 * 1024}
    kernels = said["sums"]["kernels"]
    assert {k["capability"] for k in kernels} == set(shared_limit)
    names = {"slot_kernel", "add_kernel", "fold_kernel", "totals_kernel", "update_kernel"}
    assert {k["kernel"] for k in kernels} == names
    assert set(said["sums"]["variants"]) == names
    for name, counted in said["sums"]["variants"].items():  # packed and strided; a new number of vectors: nothing new
        assert counted == [2 if name in ("slot_kernel", "add_kernel") else 1] * 6, (name, counted)
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= shared_limit[kernel["capability"]], kernel
        assert kernel["spilled"] == 0, kernel
        assert kernel["atomics"] == 0, kernel  # the order of every float sum is fixed
        if kernel["kernel"] == "add_kernel" and kernel["packed"] and kernel["width"] % 4 == 0:
            assert kernel["wide_loads"] > 0, kernel


def test_the_ends_of_every_kind_and_each_trait_are_chosen():
    from tests.kernels.compiling import Job, chosen

    jobs = [Job(("a",), width, (width, trait), frozenset({trait})) for width in (8, 16, 32, 64) for trait in "xyz"]
    few = chosen([*jobs, Job(("b",), 5)])
    assert len(few) == 4 and few[-1].kind == ("b",)
    assert {8, 64} <= {job.width for job in few[:3]} and {job.given[1] for job in few[:3]} == {"x", "y", "z"}


def test_every_row_where_the_kernels_are_not_those_of_the_last_full_run(monkeypatch, tmp_path):
    monkeypatch.delenv(compile_all.EVERY_ROW, raising=False)
    monkeypatch.setattr(compile_all, "RECORD", tmp_path / "compiled.json")
    now = compile_all.state()
    assert now == compile_all.state() and compile_all.every_row("3.6.0"), "nothing is written down"
    compile_all.RECORD.write_text(json.dumps({"3.6.0": now}))
    assert not compile_all.every_row("3.6.0") and compile_all.every_row("3.8.0")
    monkeypatch.setenv(compile_all.EVERY_ROW, "1")
    assert compile_all.every_row("3.6.0")
    monkeypatch.undo()
    for name in ("kernels/one.py", "kernels/deep/rows.json", "tests/kernels/compiling.py"):
        monkeypatch.setattr(compile_all, "TOP", tmp_path)
        before = compile_all.state()
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("0")
        assert compile_all.state() != before, name
