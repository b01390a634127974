"""What residual_quantize means: the truth in float64, and the best that plain torch does in float32."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.code_sums import code_sums_reference
from vqmm.kernels.finite import finite_rows
from vqmm.kernels.nearest_code import nearest_code_baseline, nearest_code_reference


class ResidualQuantized(NamedTuple):
    """What residual_quantize gives back. r_q is x less the codes of the stages before q."""

    vectors_ND: Tensor  # float32 (N, D): the chosen codes added in stage order; its gradient goes to x as it comes
    index_NQ: Tensor  # int32 (N, Q), within each stage's codebook; -1 at a stage that a vector does not use
    error_NQ: Tensor  # float32 (N, Q): |r_q - code_q|^2, 0 at a stage not used; its gradient goes to x only
    code_error_NQ: Tensor  # the same numbers; their gradient goes to the codebooks only, each stage's to its own code
    counts_K: Tensor | None  # int64 (K,), with statistics=True: how many r_q chose each code
    sums_KD: Tensor | None  # float32 (K, D), with statistics=True: their sums
    not_finite: Tensor  # int64 (): how many vectors that were not masked out hold a NaN or Inf


def first_rows(sizes: Sequence[int], offsets: Sequence[int] | None) -> list[int]:
    """The row of the codebooks where each stage's begins."""
    return [sum(sizes[:q]) for q in range(len(sizes))] if offsets is None else list(offsets)


def stages_used(x_ND: Tensor, stages: int | Tensor | None, Q: int) -> Tensor:
    """How many stages each vector uses, int64 (N,)."""
    if isinstance(stages, Tensor):
        return stages.long().clamp(1, Q)
    return torch.full(x_ND.shape[:1], Q if stages is None else stages, dtype=torch.int64, device=x_ND.device)


def residual_quantize_reference(
    x_ND: Tensor,
    code_KD: Tensor,
    sizes: Sequence[int],
    *,
    offsets: Sequence[int] | None = None,
    metric: str = "euclidean",
    mask_N: Tensor | None = None,
    stages: int | Tensor | None = None,
    index_NQ: Tensor | None = None,
) -> ResidualQuantized:
    """The truth in float64, with statistics; gradients by autograd. Same rules as residual_quantize.

    index_NQ: take these instead of searching, to compare a path that chose otherwise between two equally near codes.
    """
    x_ND, code_KD = x_ND.double(), code_KD.double()
    finite_N = torch.isfinite(x_ND).all(1)
    mask_N = torch.ones_like(finite_N) if mask_N is None else mask_N
    keep_N = finite_N & mask_N
    used_N = stages_used(x_ND, stages, len(sizes))
    residual_ND = torch.where(keep_N[:, None], x_ND, 0.0)
    vectors_ND = torch.where(keep_N[:, None], x_ND - x_ND.detach(), 0.0)  # zero; carries the straight-through gradient
    counts_K = torch.zeros(len(code_KD), dtype=torch.int64, device=x_ND.device)
    sums_KD = torch.zeros_like(code_KD)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for q, (first, size) in enumerate(zip(first_rows(sizes, offsets), sizes, strict=True)):
        stage_KD, active_N = code_KD[first : first + size], used_N > q
        if index_NQ is None:
            chosen_N = nearest_code_reference(residual_ND.detach(), stage_KD.detach(), metric=metric, mask_N=keep_N)
        else:
            chosen_N = index_NQ[:, q].clamp_min(0)
        chosen_ND, count_N = stage_KD[chosen_N.long()], active_N & keep_N
        counts_k, sums_kD = code_sums_reference(residual_ND.detach(), chosen_N, size, mask_N=count_N)
        counts_K[first : first + size] += counts_k
        sums_KD[first : first + size] += sums_kD
        ours_ND = torch.where(count_N[:, None], residual_ND - chosen_ND.detach(), 0.0)
        theirs_ND = torch.where(count_N[:, None], residual_ND.detach() - chosen_ND, 0.0)
        columns.append((torch.where(active_N, chosen_N, -1).int(), ours_ND.square().sum(1), theirs_ND.square().sum(1)))
        vectors_ND = vectors_ND + torch.where(active_N[:, None], chosen_ND.detach(), 0.0)
        residual_ND = ours_ND
    index, error, code_error = (torch.stack(parts, 1) for parts in zip(*columns, strict=True))
    not_finite = (mask_N & ~finite_N).sum()
    return ResidualQuantized(vectors_ND, index, error, code_error, counts_K, sums_KD, not_finite)


@torch.no_grad()
def residual_quantize_baseline(
    x_ND: Tensor,
    code_KD: Tensor,
    sizes: Sequence[int],
    *,
    offsets: Sequence[int] | None = None,
    metric: str = "euclidean",
    mask_N: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best plain torch, forward only and every stage: (vectors_ND, index_NQ, error_NQ) in float32.

    Each stage is a product with half norms and an argmax in chunks; the residual makes a round trip through memory
    for every stage.
    """
    x_ND, code_KD = x_ND.float(), code_KD.float()
    keep_N = finite_rows(x_ND) if mask_N is None else finite_rows(x_ND) & mask_N
    residual_ND = torch.where(keep_N[:, None], x_ND, 0.0)
    vectors_ND, indices, errors = torch.zeros_like(residual_ND), [], []
    for first, size in zip(first_rows(sizes, offsets), sizes, strict=True):
        stage_KD = code_KD[first : first + size]
        index_N = nearest_code_baseline(residual_ND, stage_KD, metric=metric, mask_N=keep_N)
        chosen_ND = stage_KD[index_N.long()]
        vectors_ND += chosen_ND
        residual_ND = torch.where(keep_N[:, None], residual_ND - chosen_ND, 0.0)
        indices.append(index_N)
        errors.append(residual_ND.square().sum(1))
    return vectors_ND, torch.stack(indices, 1), torch.stack(errors, 1)
