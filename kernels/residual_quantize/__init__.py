"""A stack of quantizers: each stage replaces what the stages before it left by its nearest code."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.nearest_code import PRECISIONS
from vqmm.kernels.residual_quantize.operators import explain, lookup, path_for, quantize, residual_sums
from vqmm.kernels.residual_quantize.reference import (
    ResidualQuantized,
    first_rows,
    residual_quantize_baseline,
    residual_quantize_reference,
)

__all__ = [
    "residual_quantize",
    "residual_lookup",
    "ResidualQuantized",
    "path_for",
    "explain",
    "residual_quantize_reference",
    "residual_quantize_baseline",
]

METRICS = ("euclidean", "dot")


def check_stack(function: str, K: int, sizes: Sequence[int], offsets: Sequence[int] | None) -> list[int]:
    """The first row of every stage's codebook; refuses codebooks that are not in K rows."""
    if offsets is None:
        checks.check_sizes(function, sizes, K)
        return first_rows(sizes, None)
    checks.check_sizes(function, sizes, sum(sizes))
    offsets = list(offsets)
    if len(offsets) != len(sizes):
        raise ValueError(f"{function}: {len(offsets)} offsets for {len(sizes)} sizes; give one of each for each stage.")
    for q, (first, size) in enumerate(zip(offsets, sizes, strict=True)):
        if isinstance(first, bool) or not isinstance(first, int) or first < 0 or first + size > K:
            raise ValueError(
                f"{function}: stage {q} has offset {first} and {size} codes; they must lie in the {K} rows of code_KD."
            )
    return offsets


def check_stages(stages: int | Tensor | None, n: int, Q: int) -> None:
    """Refuse what is neither a number of stages from 1 to Q nor one number for each of n vectors (not looked at)."""
    name = "residual_quantize"
    if isinstance(stages, Tensor):
        if stages.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name}: stages is {stages.dtype}; it can be torch.int32 or torch.int64.")
        checks.check_vectors(name, "stages", stages, n)
    elif stages is not None:
        if isinstance(stages, bool) or not isinstance(stages, int):
            raise TypeError(f"{name}: stages is {stages!r}; give a whole number of stages, or one for each vector.")
        if not 1 <= stages <= Q:
            raise ValueError(f"{name}: stages is {stages}; with {Q} stages it can be 1 to {Q}.")


def residual_quantize(
    x_ND: Tensor,
    code_KD: Tensor,
    sizes: Sequence[int],
    *,
    offsets: Sequence[int] | None = None,
    metric: str = "euclidean",
    precision: str = "exact",
    mask_N: Tensor | None = None,
    stages: int | Tensor | None = None,
    statistics: bool = False,
) -> ResidualQuantized:
    """Quantize every vector by a stack of codebooks, each on what those before it left. Differentiable.

    r_0 = x; stage q picks code_q, the nearest to r_q among its own codes; r_(q+1) = r_q - code_q, in float32.

    Args:
        x_ND: vectors, shape (N, D), any floating type, any strides; computed in float32, autocast or not. N may be 0.
        code_KD: the codebooks, one after the other, shape (K, D), any floating type, same device.
        sizes: rows of the codebook of each of the Q stages; they may differ.
        offsets: the row where each stage's codebook begins; None: they follow one another and fill code_KD. Stages
            may share rows: sizes (1024,) * 8 with offsets (0,) * 8 is one codebook for 8 stages.
        metric: "euclidean", or "dot" (the largest dot product with the residual). Not "cosine": it hides how long a
            residual is, and the length is what the next stages are there to make small.
        precision: as in nearest_code, for each stage: its bound holds with r_q, as computed, for x. The fused kernel
            searches exactly for "certified".
        mask_N: bool (N,), True where a vector counts.
        stages: how many stages are used: a number from 1 to Q, or int32 or int64 (N,), one for each vector (refused
            on a CPU when out of range, clamped on a GPU, where looking would wait). None: all.
        statistics: also give counts_K and sums_KD, what an EMA of the codebooks needs; rows that stages share hold
            the total, added in stage order.

    Returns:
        ResidualQuantized. vectors_ND is what residual_lookup gives for index_NQ, to the bit. It is straight through
        around the whole stack, and an error's gradient goes to x from every stage: 2 (r_q - code_q). A vector that is
        masked out or not finite has index 0 at each stage it uses, so vectors of each stage's code 0; error 0, no
        gradient of any kind, and is in no count and no sum. Backward is O(N D Q) and recomputes the residuals.

    Raises:
        ValueError: widths or devices differ, codebooks that are not in code_KD, stages out of range, an unknown
            metric or precision; on a CPU, a codebook with no finite code.
        TypeError: an input is not floating, the mask not bool, stages not whole.

    Source: Zeghidour et al. 2021 (arXiv 2107.03312), algorithm 1, and its stage dropout.
    """
    name = "residual_quantize"
    checks.check_codebook(name, x_ND, code_KD)
    rows = check_stack(name, code_KD.shape[0], sizes, offsets)
    checks.check_mask(name, mask_N, x_ND.shape[0])
    check_stages(stages, x_ND.shape[0], len(sizes))
    stages_N = stages if isinstance(stages, Tensor) else None
    checks.check_device(name, x_ND=x_ND, code_KD=code_KD, mask_N=mask_N, stages=stages_N)
    checks.check_choice(name, "metric", metric, METRICS)
    checks.check_choice(name, "precision", precision, PRECISIONS)
    used = stages if isinstance(stages, int) else len(sizes)
    vectors_ND, index_NQ, error_NQ, code_error_NQ, keep_N, not_finite = quantize(
        x_ND, code_KD, mask_N, stages_N, list(sizes), rows, used, metric, precision
    )
    counts_K = sums_KD = None
    if statistics:
        with torch.no_grad():
            counts_K, sums_KD = residual_sums(x_ND, code_KD, index_NQ, keep_N, list(sizes), rows, used)
    return ResidualQuantized(vectors_ND, index_NQ, error_NQ, code_error_NQ, counts_K, sums_KD, not_finite)


@torch.no_grad()
def residual_lookup(
    index_NQ: Tensor, code_KD: Tensor, sizes: Sequence[int], *, offsets: Sequence[int] | None = None
) -> Tensor:
    """The vectors that indices stand for: each stage's code, added in stage order from zero.

    Args:
        index_NQ: int32 or int64 (N, Q) as residual_quantize gives them: each in [0, sizes[q]), or -1, which adds
            nothing. Fewer columns than sizes are the first stages.
        code_KD, sizes, offsets: as in residual_quantize.

    Returns:
        float32 (N, D): the same bits as residual_quantize's vectors_ND.

    Raises:
        ValueError, TypeError: as residual_quantize; on a CPU also an index out of range.
    """
    name = "residual_lookup"
    checks.check_float(name, code_KD=code_KD)
    checks.check_rank(name, 2, index_NQ=index_NQ, code_KD=code_KD)
    rows = check_stack(name, code_KD.shape[0], sizes, offsets)
    if index_NQ.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: index_NQ is {index_NQ.dtype}; it can be torch.int32 or torch.int64.")
    if not 1 <= index_NQ.shape[1] <= len(sizes):
        raise ValueError(
            f"{name}: index_NQ has {index_NQ.shape[1]} columns; with {len(sizes)} stages it can have 1 to {len(sizes)}."
        )
    checks.check_device(name, index_NQ=index_NQ, code_KD=code_KD)
    q = index_NQ.shape[1]
    return lookup(index_NQ, code_KD, list(sizes[:q]), rows[:q])
