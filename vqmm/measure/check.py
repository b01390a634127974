"""Is a result right? Asked before a figure is taken: float64 on a sample of the vectors, formulas on all of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.measure.shapes import Operands

UNIT = {"cpu": 2.0**-24, "cuda": 2.0**-22}  # of float32 sums: tensor cores may cut them off instead of rounding
MOST_PAIRS = 2**24  # float64 distances held at a time
MOST_ROWS = 1024
TERMS = 1.0e-5  # relative error allowed to a float32 sum of a few thousand terms


class Outcome(NamedTuple):
    """What a contender computed, as far as its task has it. Stages are columns of index."""

    index_NQ: Tensor
    vectors_ND: Tensor | None = None
    counts_K: Tensor | None = None
    sums_KD: Tensor | None = None
    grad_ND: Tensor | None = None  # of COMMITMENT x mean squared error + vectors . grad_ND


class Verdict(NamedTuple):
    """wrong: why the result breaks the contract, or empty."""

    wrong: str
    checked: int  # vectors that were searched again in float64
    differ: float  # the share of their indices that is not the lowest of the nearest in float64
    worst: float  # the largest excess of a squared distance over its bound; at most 1 is right


COMMITMENT = 0.25


def bound(x_ND: Tensor, code_KD: Tensor, precision: str, rounding: float = 2.0**-9) -> Tensor:
    """How much farther than the nearest a chosen code may be, squared, (N,) float64: as nearest_code states it.

    rounding: what a fast score may be off by, in |x'| C; TF32's, or 2^-7.9 for bfloat16.
    """
    prepared = prepare(code_KD, "euclidean")
    assert prepared.shift_GD is not None
    x_N = (x_ND.double() - prepared.shift_GD[0].double()).norm(dim=1)
    code = prepared.code_KD.double().norm(dim=1).amax()
    exact_N = 4 * (x_ND.shape[1] + 16) * UNIT[x_ND.device.type] * (x_N * code + code**2)
    # two scores are off by as much, and a squared distance is twice a score
    return exact_N + 4 * rounding * x_N * code if precision == "fast" else exact_N


def distances(x_ND: Tensor, code_KD: Tensor) -> Tensor:
    """Squared distances less |x|^2, (N, K) float64."""
    x_ND, code_KD = x_ND.double(), code_KD.double()
    return torch.addmm(code_KD.square().sum(1), x_ND, code_KD.T, alpha=-2)


def sample(n: int, k: int, device: torch.device) -> Tensor:
    """Rows to look at: spread over all, the last one among them (the ragged end of a tile)."""
    rows = max(1, min(n, MOST_ROWS, MOST_PAIRS // k))
    return torch.linspace(0, n - 1, rows, device=device, dtype=torch.float64).round().long()


def residuals(given: Operands, index_NQ: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(what a stage saw, its codebook, what it chose) by the indices themselves, in float32, stage by stage."""
    left_ND = given.x_ND
    for book_KD, index_N in zip(given.books, index_NQ.long().unbind(1), strict=True):
        yield left_ND, book_KD, index_N
        left_ND = left_ND - book_KD[index_N]


@torch.no_grad()
def verdict(
    given: Operands, outcome: Outcome, precision: str, *, formulas: bool = True, rounding: float = 2.0**-9
) -> Verdict:
    """The sample against float64; with formulas, everything else against its own, by the contender's indices."""
    shape, index_NQ = given.shape, outcome.index_NQ
    if tuple(index_NQ.shape) != (shape.n, shape.q):
        return Verdict(f"{tuple(index_NQ.shape)} indices, not {(shape.n, shape.q)}", 0, 1.0, float("inf"))
    if index_NQ.numel() and not (int(index_NQ.min()) >= 0 and int(index_NQ.max()) < shape.k):
        return Verdict(f"indices outside 0 to {shape.k - 1}", 0, 1.0, float("inf"))
    rows = sample(shape.n, shape.k, given.x_ND.device)
    differ, worst = 0.0, 0.0
    for left_ND, book_KD, index_N in residuals(Operands(given.x_ND[rows], *given[1:]), index_NQ[rows]):
        distance_NK = distances(left_ND, book_KD)
        best_N, truth_N = distance_NK.min(1)
        excess_N = distance_NK.gather(1, index_N[:, None])[:, 0] - best_N
        differ += float((index_N != truth_N).double().mean()) / shape.q
        worst = max(worst, float((excess_N / bound(left_ND, book_KD, precision, rounding)).amax()))
    wrong = f"a code is {worst:.3g} times as much farther as the bound allows" if not worst <= 1 else ""
    return Verdict(wrong or (_off(given, outcome) if formulas else ""), len(rows), differ, worst)


def _off(given: Operands, outcome: Outcome) -> str:
    """The first of the results that is not what the indices make it; empty: all are."""
    shape = given.shape
    quantized_ND, counts, sums, pull_ND = torch.zeros_like(given.x_ND), [], [], torch.zeros_like(given.x_ND)
    for left_ND, book_KD, index_N in residuals(given, outcome.index_NQ):
        quantized_ND += book_KD[index_N]
        if outcome.grad_ND is not None:
            pull_ND += left_ND - book_KD[index_N]
        if outcome.sums_KD is not None:
            counts.append(torch.bincount(index_N, minlength=shape.k))
            zeros_KD = torch.zeros(book_KD.shape, dtype=torch.float64, device=book_KD.device)
            sums.append(zeros_KD.index_add_(0, index_N, left_ND.double()))
    wanted: dict[str, tuple[Any, Any]] = {
        "quantized vectors": (outcome.vectors_ND, quantized_ND),
        "counts": (outcome.counts_K, torch.cat(counts) if counts else None),
        "sums": (outcome.sums_KD, torch.cat(sums) if sums else None),
        "gradient": (outcome.grad_ND, given.grad_ND + 2 * COMMITMENT / given.x_ND.numel() * pull_ND),
    }
    for name, (got, right) in wanted.items():
        if got is not None:
            off = float((got.double() - right.double()).abs().amax()) if got.numel() else 0.0
            allowed = TERMS * float(right.double().abs().amax().clamp_min(1.0)) if name != "counts" else 0.0
            if not off <= allowed:
                return f"{name}: off by {off:.3g}, at most {allowed:.3g} is right"
    return ""
