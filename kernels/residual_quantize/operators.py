"""residual_quantize as torch operators: shapes for the compiler, gradients, and which path a device takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqmm.kernels.finite import finite_rows
from vqmm.kernels.nearest_code import explain as explain_search
from vqmm.kernels.nearest_code import path_for as search_path_for
from vqmm.kernels.nearest_code.cpu import search_cpu
from vqmm.kernels.nearest_code.plain import search_torch
from vqmm.kernels.nearest_code.prepare import Prepared
from vqmm.kernels.residual_quantize.staged import (
    Search,
    books_of,
    code_pull_staged,
    lookup_staged,
    pull_staged,
    quantize_staged,
    sums_staged,
)


def path_for(
    device: torch.device | str, width: int, n: int | None = None, k: int | None = None, precision: str = "exact"
) -> str:
    """Which way residual_quantize goes, for D = width, N = n vectors and codebooks of at most k codes.

    "triton": one kernel that keeps the residual on chip through all stages. "staged-triton", "cpu" and "torch": stage
    by stage through that path of nearest_code. Without n and k: for as many vectors as keep the GPU busy.
    """
    path = search_path_for(device)
    if path != "triton":
        return path
    from vqmm.kernels.residual_quantize.fused import fits

    return "triton" if fits(torch.device(device), width, n, k, precision) else "staged-triton"


def explain(n: int, k: int, width: int, *, device: torch.device | str, precision: str = "exact") -> str:
    """What runs for N vectors, stages of at most k codes and D dimensions on a device, in one line."""
    if path_for(device, width, n, k, precision) == "triton":
        from vqmm.kernels.residual_quantize.fused import explain as explain_fused

        return explain_fused(torch.device(device), width, precision)
    return f"stage by stage: {explain_search(n, k, width, device=device, precision=precision)}"


def search_of(path: str, metric: str, precision: str) -> Search:
    """The search of one stage on a path."""

    def search(x_ND: Tensor, prepared: Prepared) -> Tensor:
        if path == "cpu":
            return search_cpu(x_ND[None], prepared, metric, precision, False)[0][0]
        if path == "torch":
            return search_torch(x_ND[None], prepared, metric, False)[0][0]
        from vqmm.kernels.nearest_code.fused import search_triton

        return search_triton(x_ND[None], prepared, metric, precision, False)[0][0]

    return search


def check_used(stages_N: Tensor, Q: int) -> Tensor:
    """How many stages each vector uses, in 1 to Q. Looked at on a CPU; on a GPU that would wait, so it is clamped."""
    if stages_N.device.type == "cpu" and stages_N.numel():
        low, high = (int(v) for v in stages_N.aminmax())
        if low < 1 or high > Q:
            raise ValueError(f"residual_quantize: stages holds {low} to {high}; with {Q} stages it can be 1 to {Q}.")
    return stages_N.clamp(1, Q)


@torch.library.custom_op("vqmm::residual_quantize", mutates_args=())
def quantize(
    x_ND: Tensor,
    code_KD: Tensor,
    mask_N: Tensor | None,
    stages_N: Tensor | None,
    sizes: Sequence[int],
    offsets: Sequence[int],
    used: int,
    metric: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """vectors (N, D), index (N, Q), error (N, Q), the same again, keep bool (N,), not_finite (). used: of Q stages."""
    with torch.autocast(x_ND.device.type, enabled=False):
        x_ND = x_ND.float() if x_ND.dtype == torch.float64 else x_ND  # it may be finite in one and not in the other
        finite_N = finite_rows(x_ND)
        keep_N = finite_N if mask_N is None else finite_N & mask_N
        not_finite = (~finite_N if mask_N is None else mask_N & ~finite_N).sum()
        stages_N = None if stages_N is None else check_used(stages_N, len(sizes))
        books = books_of(code_KD, sizes[:used], offsets[:used], metric)
        path = path_for(x_ND.device, x_ND.shape[1], x_ND.shape[0], max(books.sizes), precision)
        if path == "triton":
            from vqmm.kernels.residual_quantize.fused import quantize_triton

            vectors_ND, index_NQ, error_NQ = quantize_triton(x_ND, keep_N, books, stages_N, precision)
        elif path == "staged-triton":
            from vqmm.kernels.residual_quantize.fused import quantize_stepwise

            search = search_of(path, metric, precision)
            vectors_ND, index_NQ, error_NQ = quantize_stepwise(x_ND, keep_N, books, stages_N, search)
        else:
            search = search_of(path, metric, precision)
            vectors_ND, index_NQ, error_NQ = quantize_staged(x_ND, keep_N, books, stages_N, search)
        unused = len(sizes) - used
        if unused:
            index_NQ = torch.nn.functional.pad(index_NQ, (0, unused), value=-1)
            error_NQ = torch.nn.functional.pad(error_NQ, (0, unused))
        return vectors_ND, index_NQ, error_NQ, error_NQ.clone(), keep_N, not_finite


@quantize.register_fake
def _(
    x_ND: Tensor,
    code_KD: Tensor,
    mask_N: Tensor | None,
    stages_N: Tensor | None,
    sizes: Sequence[int],
    offsets: Sequence[int],
    used: int,
    metric: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (n, width), q = x_ND.shape, len(sizes)
    error_NQ = x_ND.new_empty(n, q, dtype=torch.float32)
    return (
        x_ND.new_empty(n, width, dtype=torch.float32),
        x_ND.new_empty(n, q, dtype=torch.int32),
        error_NQ,
        torch.empty_like(error_NQ),
        x_ND.new_empty(n, dtype=torch.bool),
        x_ND.new_empty((), dtype=torch.int64),
    )


@torch.library.custom_op("vqmm::residual_quantize_backward", mutates_args=())
def pull_back(
    through_ND: Tensor,
    pull_NQ: Tensor,
    code_pull_NQ: Tensor,
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    sizes: Sequence[int],
    offsets: Sequence[int],
    used: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the codebooks, in their types; empty where not needed. O(N D Q)."""
    grad_x, grad_code = x_ND.new_empty(0), code_KD.new_empty(0)
    index_NQ, sizes, offsets = index_NQ[:, :used], sizes[:used], offsets[:used]
    with torch.autocast(x_ND.device.type, enabled=False):
        if needs[0]:
            saved = x_ND, code_KD, index_NQ, keep_N, offsets
            if search_path_for(x_ND.device) == "triton":
                from vqmm.kernels.residual_quantize.fused import pull_triton

                grad_x = pull_triton(through_ND, pull_NQ[:, :used], *saved).to(x_ND.dtype)
            else:
                grad_x = pull_staged(through_ND, pull_NQ[:, :used], *saved).to(x_ND.dtype)
        if needs[1]:
            pulls = code_pull_NQ[:, :used]
            grad_code = code_pull_staged(pulls, x_ND, code_KD, index_NQ, keep_N, sizes, offsets).to(code_KD.dtype)
    return grad_x.contiguous(), grad_code  # as the shape-only twin says, whatever the strides of x


@pull_back.register_fake
def _(
    through_ND: Tensor,
    pull_NQ: Tensor,
    code_pull_NQ: Tensor,
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    sizes: Sequence[int],
    offsets: Sequence[int],
    used: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    return x_ND.new_empty(x_ND.shape if needs[0] else 0), code_KD.new_empty(code_KD.shape if needs[1] else 0)


def save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    """What autograd's backward needs of a call of quantize."""
    x_ND, code_KD, _, _, ctx.sizes, ctx.offsets, ctx.used, _, _ = inputs
    _, index_NQ, _, _, keep_N, not_finite = output
    ctx.mark_non_differentiable(index_NQ, keep_N, not_finite)
    ctx.save_for_backward(x_ND, code_KD, index_NQ, keep_N)


def backward(ctx: Any, through_ND: Tensor, _i: Any, pull_NQ: Tensor, code_pull_NQ: Tensor, *_: Any) -> tuple:
    """The gradients of quantize's inputs from those of its outputs: of x and of the codebooks, None for the others."""
    needs = list(ctx.needs_input_grad[:2])
    grads = pull_back(through_ND, pull_NQ, code_pull_NQ, *ctx.saved_tensors, ctx.sizes, ctx.offsets, ctx.used, needs)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), *[None] * 7


quantize.register_autograd(backward, setup_context=save_for_backward)


@torch.library.custom_op("vqmm::residual_sums", mutates_args=())
def residual_sums(
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    sizes: Sequence[int],
    offsets: Sequence[int],
    used: int,
) -> tuple[Tensor, Tensor]:
    """counts int64 (K,) and sums float32 (K, D) of the residual that each stage saw."""
    with torch.autocast(x_ND.device.type, enabled=False):
        return sums_staged(x_ND, code_KD, index_NQ[:, :used], keep_N, sizes[:used], offsets[:used])


@residual_sums.register_fake
def _(
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    sizes: Sequence[int],
    offsets: Sequence[int],
    used: int,
) -> tuple[Tensor, Tensor]:
    return (
        code_KD.new_empty(code_KD.shape[0], dtype=torch.int64),
        code_KD.new_empty(code_KD.shape, dtype=torch.float32),
    )


def check_indices(index_NQ: Tensor, sizes: Sequence[int]) -> None:
    """Refuses, on a CPU, an index of a code that its stage does not have; on a GPU looking would wait."""
    if index_NQ.device.type != "cpu" or index_NQ.shape[0] == 0:
        return
    for q, (index_N, size) in enumerate(zip(index_NQ.unbind(1), sizes, strict=True)):
        low, high = (int(v) for v in index_N.aminmax())
        if low < -1 or high >= size:
            raise ValueError(
                f"residual_lookup: stage {q} has indices {low} to {high}; with {size} codes they can be "
                f"-1 to {size - 1}."
            )


@torch.library.custom_op("vqmm::residual_lookup", mutates_args=())
def lookup(index_NQ: Tensor, code_KD: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> Tensor:
    """float32 (N, D)."""
    check_indices(index_NQ, sizes)
    if search_path_for(code_KD.device) == "triton":
        from vqmm.kernels.residual_quantize.fused import lookup_triton

        return lookup_triton(index_NQ, code_KD, offsets)
    return lookup_staged(index_NQ, code_KD, offsets)


@lookup.register_fake
def _(index_NQ: Tensor, code_KD: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> Tensor:
    return code_KD.new_empty(index_NQ.shape[0], code_KD.shape[1], dtype=torch.float32)
