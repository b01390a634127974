"""Search, look up, measure and count in one call, with gradients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.code_sums import sums_of_kept
from vqmm.kernels.finite import finite_rows
from vqmm.kernels.nearest_code import check_search, flat_index, nearest_code, path_for
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.vector_quantize.reference import vector_quantize_baseline, vector_quantize_reference
from vqmm.kernels.vector_quantize.rotation import rotated_back

__all__ = ["vector_quantize", "VectorQuantized", "unit", "vector_quantize_reference", "vector_quantize_baseline"]

GRADIENTS = ("straight-through", "rotation")


class VectorQuantized(NamedTuple):
    """What vector_quantize gives back; with sizes, N stands for (G, N)."""

    vectors_ND: Tensor  # float32 (N, D): code[index], to the bit; its gradient goes to x
    index_N: Tensor  # int32 (N,)
    error_N: Tensor  # float32 (N,): |x - code[index]|^2; its gradient goes to x only
    code_error_N: Tensor  # the same numbers; their gradient goes to the codebook only
    counts_K: Tensor | None  # int64 (K,), with statistics=True
    sums_KD: Tensor | None  # float32 (K, D), with statistics=True; of the normalised vectors for "cosine"
    not_finite: Tensor  # int64 (): how many vectors that were not masked out hold a NaN or Inf


@torch.library.custom_op("vqmm::vector_quantize", mutates_args=())
def quantize(
    x_GND: Tensor,
    code_KD: Tensor,
    keep_GN: Tensor,
    given_GN: Tensor,
    sizes: Sequence[int],
    metric: str,
    precision: str,
    rotate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(vectors, index, error, error again) of float32 operands; with given_GN not empty, those are the indices."""
    with torch.autocast(x_GND.device.type, enabled=False):
        if given_GN.numel() == 0 and path_for(x_GND.device) == "triton":
            from vqmm.kernels.nearest_code.fused import quantize_triton

            prepared = prepare(code_KD, metric, sizes)
            index_GN, vectors_GND, error_GN = quantize_triton(x_GND, code_KD, prepared, metric, precision, keep_GN)
            return vectors_GND, index_GN, error_GN, error_GN.clone()
        index_GN = (
            given_GN.clone()
            if given_GN.numel()
            else torch.ops.vqmm.nearest_code(x_GND, code_KD, sizes, metric, precision, False)[0]
        )
        if not all_of(keep_GN):
            index_GN = torch.where(keep_GN, index_GN, 0)
        vectors_GND = code_KD[flat_index(index_GN, sizes)]
        error_GN = kept(x_GND - vectors_GND, keep_GN).square_().sum(-1).contiguous()
        return vectors_GND.contiguous(), index_GN.contiguous(), error_GN, error_GN.clone()


@quantize.register_fake
def _(x_GND: Tensor, code_KD: Tensor, keep_GN: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index_GN = x_GND.new_empty(keep_GN.shape, dtype=torch.int32)
    return (
        torch.empty_like(x_GND.contiguous()),
        index_GN,
        x_GND.new_empty(keep_GN.shape),
        x_GND.new_empty(keep_GN.shape),
    )


@torch.library.custom_op("vqmm::vector_quantize_backward", mutates_args=())
def quantize_backward(
    through_GND: Tensor,
    pull_GN: Tensor,
    code_pull_GN: Tensor,
    x_GND: Tensor,
    code_KD: Tensor,
    index_GN: Tensor,
    keep_GN: Tensor,
    sizes: Sequence[int],
    rotate: bool,
    need: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the codebook (empty where not needed), in O(N D): K x N is never seen."""
    row_GN = flat_index(index_GN, sizes)
    grad_x, grad_code = x_GND.new_empty(0), code_KD.new_empty(0)
    if need[0] and path_for(x_GND.device) == "triton" and not rotate:
        from vqmm.kernels.vector_quantize.fused import pull_triton

        grad_x = pull_triton(through_GND, pull_GN, x_GND, code_KD, row_GN, keep_GN)
    elif need[0]:
        chosen_GND = code_KD[row_GN]
        if rotate:
            through_GND = rotated_back(through_GND, x_GND, chosen_GND)
        grad_x = kept(torch.addcmul(through_GND, x_GND - chosen_GND, pull_GN[..., None], value=2), keep_GN)
    if need[1]:
        pull_GND = (x_GND - code_KD[row_GN]).mul_(-2 * code_pull_GN[..., None])
        slots = flat_rows(pull_GND), row_GN.flatten(), code_KD.shape[0], keep_GN.flatten()
        _, grad_code = sums_of_kept(*slots)
    return grad_x.contiguous(), grad_code  # as the shape-only twin says, whatever the strides of x


@quantize_backward.register_fake
def _(
    through_GND: Tensor,
    pull_GN: Tensor,
    code_pull_GN: Tensor,
    x_GND: Tensor,
    code_KD: Tensor,
    index_GN: Tensor,
    keep_GN: Tensor,
    sizes: Sequence[int],
    rotate: bool,
    need: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    grads = zip((x_GND, code_KD), need, strict=True)
    grad_x, grad_code = (of.new_empty(of.shape if needed else 0) for of, needed in grads)
    return grad_x, grad_code


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """What autograd's backward needs of a call of quantize."""
    x_GND, code_KD, keep_GN, _, ctx.sizes, _, _, ctx.rotate = inputs
    ctx.save_for_backward(x_GND, code_KD, output[1], keep_GN)


def backward(ctx: Any, through: Tensor, _: Any, pull: Tensor, code_pull: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of quantize's inputs from those of its outputs: of x and of the codebook, None for the others."""
    need = list(ctx.needs_input_grad[:2])
    grads = quantize_backward(through, pull, code_pull, *ctx.saved_tensors, ctx.sizes, ctx.rotate, need)
    return *(grad if needed else None for grad, needed in zip(grads, need, strict=True)), *[None] * 6


quantize.register_autograd(backward, setup_context=save)


def all_of(keep_GN: Tensor) -> bool:
    """Whether everything counts, where asking costs nothing: a GPU would have to be waited for."""
    return keep_GN.device.type == "cpu" and bool(keep_GN.all())


def kept(v_GND: Tensor, keep_GN: Tensor) -> Tensor:
    """v, and 0 where a vector does not count: selected, since 0 x NaN is NaN."""
    return v_GND if all_of(keep_GN) else torch.where(keep_GN[..., None], v_GND, 0.0)


def flat_rows(v_GND: Tensor) -> Tensor:
    """(..., D) as (N, D)."""
    return v_GND.reshape(-1, v_GND.shape[-1])


def unit(v_ND: Tensor) -> Tensor:
    """Vectors divided by their length, differentiable. A zero vector stays zero and gets no gradient."""
    largest_N1 = v_ND.detach().abs().amax(-1, keepdim=True)
    zero_N1 = largest_N1 == 0
    v_ND = torch.where(zero_N1, 1.0, v_ND / torch.where(zero_N1, 1.0, largest_N1))
    return torch.where(zero_N1, 0.0, v_ND / torch.linalg.vector_norm(v_ND, dim=-1, keepdim=True))


def vector_quantize(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    precision: str = "exact",
    mask_N: Tensor | None = None,
    sizes: Sequence[int] | None = None,
    gradient: str = "straight-through",
    statistics: bool = False,
) -> VectorQuantized:
    """Replace every vector by its nearest code, and say how far it was. Differentiable; backward never sees K x N.

    Args:
        x_ND: vectors, shape (N, D), any floating type, any strides; computed in float32, autocast or not. N may be 0.
            With sizes, (G, N, D): group g has codebook g.
        code_KD: the codebook, shape (K, D), any floating type, same device. K and D at least 1.
        metric: "euclidean", "dot" or "cosine", as in nearest_code. With "cosine" both sides are normalised first:
            vectors_ND are normalised codes, errors are between normalised vectors, and gradients flow back through
            the normalisation.
        precision: as in nearest_code.
        mask_N: bool (N,), True where a vector counts; with sizes (G, N).
        sizes: rows of each of G codebooks that lie one after the other in code_KD.
        gradient: how the gradient of vectors_ND reaches x: "straight-through" (as it comes) or "rotation" (turned
            and scaled as x was, to become its code; straight through where x or the code is 0 or they are opposite).
        statistics: also give counts_K and sums_KD, what an EMA of the codebook needs.

    Returns:
        VectorQuantized. A vector that is masked out or not finite has index 0, the vector code[0], error 0, no gradient
        of any kind, and is in no count and no sum. Add error_N with the commitment weight and code_error_N with the
        codebook's to a loss, each divided as the caller sees fit.

    Raises:
        ValueError, TypeError: as nearest_code; an unknown gradient.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), equations 1 to 3; Bengio et al. 2013 (arXiv 1308.3432); Fifty
    et al. 2024 (arXiv 2410.06424), section 4.2, for the rotation.
    """
    check_search("vector_quantize", x_ND, code_KD, metric, precision, mask_N, sizes)
    checks.check_choice("vector_quantize", "gradient", gradient, GRADIENTS)
    rows = list(sizes or [len(code_KD)])
    x_GND, code_KD = (x_ND if sizes is not None else x_ND[None]).float(), code_KD.float()
    finite_GN = finite_rows(x_GND.detach())
    mask_GN = torch.ones_like(finite_GN) if mask_N is None else mask_N.view(finite_GN.shape)
    keep_GN = finite_GN & mask_GN
    given_GN = x_ND.new_zeros(0, dtype=torch.int32)  # search
    if metric == "cosine":
        searched = x_GND.detach() if sizes is not None else x_GND[0].detach()
        given_GN = nearest_code(searched, code_KD.detach(), metric=metric, precision=precision, sizes=sizes)
        given_GN = torch.where(keep_GN, given_GN.view(keep_GN.shape), 0)
        x_GND = unit(torch.where(keep_GN[..., None], x_GND, 0.0))
        code_KD = unit(torch.where(finite_rows(code_KD.detach())[:, None], code_KD, 0.0))
    quantized = quantize(x_GND, code_KD, keep_GN, given_GN, rows, metric, precision, gradient == "rotation")
    vectors_ND, index_N, error_N, code_error_N = quantized if sizes is not None else (part[0] for part in quantized)
    counts_K = sums_KD = None
    if statistics:
        with torch.no_grad():
            slot_N = flat_index(quantized[1], sizes).flatten()
            counts_K, sums_KD = sums_of_kept(flat_rows(x_GND), slot_N, code_KD.shape[0], keep_GN.flatten())
    return VectorQuantized(vectors_ND, index_N, error_N, code_error_N, counts_K, sums_KD, (mask_GN & ~finite_GN).sum())
