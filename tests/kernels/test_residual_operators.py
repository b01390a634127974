"""residual_quantize as torch operators; which path it takes, what it holds, and what it refuses."""

import pytest
import torch
from kernel_cases import LargestTensor, integers, opcheck
from residual_cases import SIZES, case, per_vector, weighted
from torch import Tensor

from vqmm.kernels.residual_quantize import (
    explain,
    operators,
    path_for,
    residual_lookup,
    residual_quantize,
    residual_quantize_baseline,
    residual_quantize_reference,
    staged,
)
from vqmm.kernels.tables import triton_version


def test_blocks_of_the_cpu_change_nothing(generator, monkeypatch):
    x, code = (v.detach() for v in case(generator, n=500))
    used = per_vector(generator, 500, 3)
    whole = residual_quantize(x, code, SIZES, stages=used)
    monkeypatch.setattr(staged, "BLOCK_NUMBERS", 1)
    blocks = residual_quantize(x, code, SIZES, stages=used)
    assert all(torch.equal(a, b) for a, b in zip(whole[:4], blocks[:4], strict=True))


def test_the_baseline_agrees(generator):
    x, code = integers(generator, 50, 6, reach=9), integers(generator, 24, 6)
    vectors, index, error = residual_quantize_baseline(x, code, SIZES)
    true = residual_quantize_reference(x, code, SIZES)
    assert torch.equal(index, true.index_NQ) and torch.equal(error.double(), true.error_NQ)
    assert torch.equal(vectors, residual_lookup(index, code, SIZES))


def test_the_same_bits_every_time_backward_too(generator):
    sizes = (30, 30, 30)
    x, code = case(generator, 1_000, 16, sizes)

    def run() -> tuple[Tensor, ...]:
        got = residual_quantize(x, code, sizes, offsets=(0, 30, 0), statistics=True)
        return *got, *torch.autograd.grad((got.error_NQ + got.code_error_NQ).sum(), (x, code))

    first = run()
    assert all(torch.equal(a, b) for _ in range(20) for a, b in zip(run(), first, strict=True))


def test_no_residual_is_stored(generator):
    n, width, sizes = 4_096, 8, (2_048,) * 6
    x, code = case(generator, n, width, sizes)
    with LargestTensor() as seen:
        got = residual_quantize(x, code, sizes, statistics=True)
        (got.vectors_ND.sum() + got.error_NQ.sum() + got.code_error_NQ.sum()).backward()
    assert seen.numel <= max(code.numel(), 2 * n * width) < n * width * len(sizes)


def test_it_is_a_well_made_operator(generator):
    x, code = case(generator)
    mask, used = torch.rand(40, generator=generator) < 0.8, per_vector(generator, 40, 3)
    rows, first = list(SIZES), [0, 11, 16]
    for arguments in ((None, None, rows, first, 2), (mask, used, rows, first, 3)):
        opcheck(operators.quantize, (x, code, *arguments, "euclidean", "exact"))
    got = residual_quantize(x, code, SIZES)
    through, pull = torch.randn(40, 6), torch.randn(40, 3)
    x, code, keep = x.detach(), code.detach(), torch.ones(40, dtype=torch.bool)
    index = got.index_NQ
    for needs in ([True, True], [True, False], [False, True]):
        both = (through, pull, pull, x, code, index, keep, rows, first, 3, needs)
        opcheck(operators.pull_back, both)
    opcheck(operators.residual_sums, (x, code, index, keep, rows, first, 3))
    opcheck(operators.lookup, (index, code, rows, first))


def test_torch_compile_takes_it_whole(generator):
    x, code = case(generator)
    used = per_vector(generator, 40, 3)

    def loss(x: Tensor, code: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        got = residual_quantize(2 * x, code, SIZES, stages=used, statistics=True)
        again = residual_lookup(got.index_NQ, code, SIZES)
        return weighted(got), (got.sums_KD + again.sum() + got.counts_K[:, None])

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(x, code, used), loss(x, code, used)
    assert torch.equal(ours[1], theirs[1])
    grads = (torch.autograd.grad(total, (x, code)) for total, _ in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_which_path():
    assert [path_for("cpu", 64), path_for("mps", 64)] == ["cpu", "torch"]
    assert explain(100, 1_024, 64, device="cpu").startswith("stage by stage: cpu")


@pytest.mark.parametrize(
    "capability, precision, widest",
    [
        ((8, 0), "exact", 64),
        ((9, 0), "exact", 128),
        ((9, 0), "certified", 64),
        ((8, 9), "fast", 256),
        ((9, 0), "fast", 256),
        ((10, 0), "fast", 256),
    ],
)
def test_which_shapes_the_fused_kernel_takes(capability, precision, widest, monkeypatch):
    from vqmm.kernels.residual_quantize import fused

    monkeypatch.setattr(fused, "processors_of", lambda device: 132)
    monkeypatch.setattr(fused, "capability_of", lambda device: capability)
    if (capability, precision) == ((9, 0), "exact") and triton_version() >= (3, 8):
        widest = 64  # 128 spills: its row is for older ones
    widths = (1, 8, 17, 64, 65, 128, 200, 256, 257)
    assert [w for w in widths if fused.fits(torch.device("cuda"), w, None, None, precision)] == [
        w for w in widths if w <= widest
    ]
    assert "products" in fused.explain(torch.device("cuda"), widest, precision)


def test_few_vectors_with_large_codebooks_go_stage_by_stage(monkeypatch):
    """One program would go through every code by itself while the rest of the GPU waits."""
    from vqmm.kernels.residual_quantize import fused

    monkeypatch.setattr(fused, "processors_of", lambda device: 132)
    monkeypatch.setattr(fused, "capability_of", lambda device: (9, 0))
    assert not fused.fits(torch.device("cuda"), 64, 16, 4_096)
    assert fused.fits(torch.device("cuda"), 8, 16, 1_024) and fused.fits(torch.device("cuda"), 64, 12_800, 4_096)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, r"sizes \(3, 2\) make 5 codes, there are 6", {"sizes": (3, 2)}),
        (ValueError, r"sizes are \(6, 0\)", {"sizes": (6, 0)}),
        (ValueError, r"sizes are \(\)", {"sizes": ()}),
        (ValueError, "1 offsets for 2 sizes", {"offsets": (0,)}),
        (ValueError, "stage 1 has offset 4 and 3 codes; they must lie in the 6 rows", {"offsets": (0, 4)}),
        (ValueError, "stages is 3; with 2 stages it can be 1 to 2", {"stages": 3}),
        (ValueError, "stages is 0; with 2 stages it can be 1 to 2", {"stages": 0}),
        (TypeError, "stages is 1.5; give a whole number", {"stages": 1.5}),
        (TypeError, "stages is torch.float32", {"stages": torch.ones(2)}),
        (ValueError, r"stages has shape \(3,\)", {"stages": torch.ones(3).long()}),
        (ValueError, "stages holds 0 to 4; with 2 stages it can be 1 to 2", {"stages": torch.tensor([4, 0])}),
        (ValueError, "metric is 'cosine'; it can be 'euclidean', 'dot'", {"metric": "cosine"}),
        (ValueError, "precision is 'half'", {"precision": "half"}),
        (ValueError, "x_ND has width 3", {"x_ND": torch.ones(2, 3)}),
        (ValueError, r"x_ND has shape \(2, 4, 1\)", {"x_ND": torch.ones(2, 4, 1)}),
        (TypeError, "x_ND is torch.int64", {"x_ND": torch.ones(2, 4).long()}),
        (TypeError, "mask_N is torch.float32", {"mask_N": torch.ones(2)}),
        (ValueError, "x_ND on cpu, code_KD on meta", {"code_KD": torch.ones(6, 4, device="meta")}),
    ],
)
def test_mistakes_are_answered_in_one_line(error, message, arguments):
    with pytest.raises(error, match=message) as caught:
        residual_quantize(**{"x_ND": torch.ones(2, 4), "code_KD": torch.ones(6, 4), "sizes": (3, 3), **arguments})
    assert str(caught.value).startswith("residual_quantize: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error, message, index",
    [
        (ValueError, "stage 1 has indices 0 to 3; with 3 codes they can be -1 to 2", torch.tensor([[0, 0], [0, 3]])),
        (ValueError, "stage 0 has indices -2 to 0", torch.tensor([[-2, 0], [0, 0]])),
        (ValueError, "index_NQ has 3 columns; with 2 stages it can have 1 to 2", torch.zeros(2, 3).long()),
        (TypeError, "index_NQ is torch.float32", torch.zeros(2, 2)),
        (ValueError, r"index_NQ has shape \(2,\)", torch.zeros(2).long()),
    ],
)
def test_mistakes_in_a_lookup(error, message, index):
    with pytest.raises(error, match=message) as caught:
        residual_lookup(index, torch.ones(6, 4), (3, 3))
    assert str(caught.value).startswith("residual_lookup: ") and "\n" not in str(caught.value)
