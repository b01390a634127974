"""Search, look up, measure and count in one call, with gradients."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqmm.kernels import checks
from vqmm.kernels.code_sums import sums_of_kept
from vqmm.kernels.finite import finite_rows
from vqmm.kernels.nearest_code import PRECISIONS, nearest_code
from vqmm.kernels.vector_quantize.reference import vector_quantize_reference

__all__ = ["vector_quantize", "VectorQuantized", "vector_quantize_reference"]


class VectorQuantized(NamedTuple):
    """What vector_quantize gives back."""

    vectors_ND: Tensor  # float32 (N, D): code[index], to the bit; its gradient goes to x as it comes
    index_N: Tensor  # int32 (N,)
    error_N: Tensor  # float32 (N,): |x - code[index]|^2; its gradient goes to x only
    code_error_N: Tensor  # the same numbers; their gradient goes to the codebook only
    counts_K: Tensor | None  # int64 (K,), with statistics=True
    sums_KD: Tensor | None  # float32 (K, D), with statistics=True; of the normalised vectors for "cosine"
    not_finite: Tensor  # int64 (): how many vectors that were not masked out hold a NaN or Inf


class StraightThrough(torch.autograd.Function):
    """Lookup and squared errors. Forward and backward are O(N D): K x N is never seen."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, code_KD: Tensor, index_N: Tensor, keep_N: Tensor) -> tuple[Tensor, ...]:
        vectors_ND = code_KD[index_N.long()]
        error_N = torch.where(keep_N[:, None], x_ND - vectors_ND, 0.0).square_().sum(1)
        ctx.save_for_backward(x_ND, code_KD, index_N, keep_N)
        return vectors_ND, error_N, error_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        through_ND, pull_N, code_pull_N = grads
        x_ND, code_KD, index_N, keep_N = ctx.saved_tensors
        difference_ND = (x_ND - code_KD[index_N.long()]).mul_(2)
        grad_x = grad_code = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.where(keep_N[:, None], torch.addcmul(through_ND, difference_ND, pull_N[:, None]), 0.0)
        if ctx.needs_input_grad[1]:
            pull_ND = difference_ND.mul_(-code_pull_N[:, None])
            _, grad_code = sums_of_kept(pull_ND, index_N, code_KD.shape[0], keep_N)
        return grad_x, grad_code, None, None


def unit(v_ND: Tensor) -> Tensor:
    """Vectors divided by their length, differentiable. A zero vector stays zero and gets no gradient."""
    largest_N1 = v_ND.detach().abs().amax(1, keepdim=True)
    zero_N1 = largest_N1 == 0
    v_ND = torch.where(zero_N1, 1.0, v_ND / torch.where(zero_N1, 1.0, largest_N1))
    return torch.where(zero_N1, 0.0, v_ND / torch.linalg.vector_norm(v_ND, dim=1, keepdim=True))


def vector_quantize(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    precision: str = "exact",
    mask_N: Tensor | None = None,
    statistics: bool = False,
) -> VectorQuantized:
    """Replace every vector by its nearest code, and say how far it was. Differentiable, straight through.

    Args:
        x_ND: vectors, shape (N, D), any floating type, any strides; computed in float32, autocast or not. N may be 0.
        code_KD: the codebook, shape (K, D), any floating type, same device. K and D at least 1.
        metric: "euclidean", "dot" or "cosine", as in nearest_code. With "cosine" both sides are normalised first:
            vectors_ND are normalised codes, errors are between normalised vectors, and gradients flow back through
            the normalisation.
        precision: as in nearest_code.
        mask_N: bool (N,), True where a vector counts.
        statistics: also give counts_K and sums_KD, what an EMA of the codebook needs.

    Returns:
        VectorQuantized. A vector that is masked out or not finite has index 0, the vector code[0], error 0, no gradient
        of any kind, and is in no count and no sum. Add error_N with the commitment weight and code_error_N with the
        codebook's to a loss, each divided as the caller sees fit.

    Raises:
        ValueError, TypeError: as nearest_code.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), equations 1 to 3; Bengio et al. 2013 (arXiv 1308.3432).
    """
    checks.check_codebook("vector_quantize", x_ND, code_KD)
    checks.check_mask("vector_quantize", mask_N, x_ND.shape[0])
    checks.check_device("vector_quantize", x_ND=x_ND, code_KD=code_KD, mask_N=mask_N)
    checks.check_choice("vector_quantize", "metric", metric, checks.METRICS)
    checks.check_choice("vector_quantize", "precision", precision, PRECISIONS)
    x_ND, code_KD = x_ND.float(), code_KD.float()
    finite_N = finite_rows(x_ND.detach())
    keep_N = finite_N if mask_N is None else finite_N & mask_N
    not_finite = (~finite_N if mask_N is None else mask_N & ~finite_N).sum()
    index_N = nearest_code(x_ND.detach(), code_KD.detach(), metric=metric, precision=precision, mask_N=keep_N)
    if metric == "cosine":
        x_ND = unit(torch.where(keep_N[:, None], x_ND, 0.0))
        code_KD = unit(torch.where(finite_rows(code_KD.detach())[:, None], code_KD, 0.0))
    vectors_ND, error_N, code_error_N = StraightThrough.apply(x_ND, code_KD, index_N, keep_N)
    counts_K = sums_KD = None
    if statistics:
        with torch.no_grad():
            counts_K, sums_KD = sums_of_kept(x_ND, index_N, code_KD.shape[0], keep_N)
    return VectorQuantized(vectors_ND, index_N, error_N, code_error_N, counts_K, sums_KD, not_finite)
