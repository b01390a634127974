"""What vector_quantize means: the truth in float64, in plain differentiable torch."""

import torch
from torch import Tensor

from vqmm.kernels.code_sums import code_sums_baseline, code_sums_reference
from vqmm.kernels.nearest_code import nearest_code_baseline, nearest_code_reference


def unit(v_ND: Tensor) -> Tensor:
    """Vectors divided by their length; a zero vector stays zero and gets no gradient."""
    length_N1 = torch.where((v_ND != 0).any(1, keepdim=True), v_ND, 1.0).norm(dim=1, keepdim=True)
    return torch.where((v_ND != 0).any(1, keepdim=True), v_ND / length_N1, 0.0)


def vector_quantize_reference(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    mask_N: Tensor | None = None,
    index_N: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(vectors, index, error, code_error, counts, sums, not_finite) in float64; gradients by autograd.

    index_N: take these instead of searching, to compare a path that chose otherwise between two equally near codes.
    """
    x_ND, code_KD = x_ND.double(), code_KD.double()
    finite_N = torch.isfinite(x_ND).all(1)
    mask_N = torch.ones_like(finite_N) if mask_N is None else mask_N
    keep_N1 = (finite_N & mask_N)[:, None]
    if index_N is None:
        index_N = nearest_code_reference(x_ND.detach(), code_KD.detach(), metric=metric, mask_N=mask_N)
    x_ND = torch.where(keep_N1, x_ND, 0.0)
    if metric == "cosine":
        code_KD = torch.where(torch.isfinite(code_KD).all(1, keepdim=True), code_KD, 0.0)
        x_ND, code_KD = unit(x_ND), unit(code_KD)
    chosen_ND = code_KD[index_N.long()]
    through_ND = torch.where(keep_N1, x_ND - x_ND.detach(), 0.0)
    error_N = torch.where(keep_N1, x_ND - chosen_ND.detach(), 0.0).square().sum(1)
    code_error_N = torch.where(keep_N1, x_ND.detach() - chosen_ND, 0.0).square().sum(1)
    counts_K, sums_KD = code_sums_reference(x_ND.detach(), index_N, code_KD.shape[0], mask_N=keep_N1[:, 0])
    not_finite = (mask_N & ~finite_N).sum()
    return chosen_ND.detach() + through_ND, index_N, error_N, code_error_N, counts_K, sums_KD, not_finite


def vector_quantize_baseline(
    x_ND: Tensor, code_KD: Tensor, *, metric: str = "euclidean", mask_N: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(vectors, index, error, code_error, counts, sums): the best plain torch, gradients by autograd.

    The products of nearest_code_baseline, then the lines that every tutorial has: x + (q - x).detach() and two errors.
    """
    index_N = nearest_code_baseline(x_ND.detach(), code_KD.detach(), metric=metric, mask_N=mask_N)
    keep_N = torch.isfinite(x_ND).all(1) & (mask_N if mask_N is not None else True)
    x_ND = torch.where(keep_N[:, None], x_ND, 0.0)
    if metric == "cosine":
        x_ND, code_KD = unit(x_ND), unit(code_KD)
    chosen_ND = code_KD[index_N.long()]
    error_N = torch.where(keep_N[:, None], x_ND - chosen_ND.detach(), 0.0).square().sum(1)
    code_error_N = torch.where(keep_N[:, None], x_ND.detach() - chosen_ND, 0.0).square().sum(1)
    counts_K, sums_KD = code_sums_baseline(x_ND.detach(), index_N, code_KD.shape[0], mask_N=keep_N)
    vectors_ND = x_ND + (chosen_ND - x_ND).detach()
    return vectors_ND, index_N, error_N, code_error_N, counts_K, sums_KD
