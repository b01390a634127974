"""How many vectors chose each code, and their sum."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.code_sums.cpu import sums_cpu, sums_in_order
from vqmm.kernels.code_sums.plain import sums_by_sorting, sums_torch
from vqmm.kernels.code_sums.reference import code_sums_baseline, code_sums_reference
from vqmm.kernels.nearest_code import path_for

__all__ = [
    "code_sums",
    "sums_of_kept",
    "sums_in_order",
    "sums_by_sorting",
    "code_sums_reference",
    "code_sums_baseline",
]


@torch.library.custom_op("vqmm::code_sums", mutates_args=())
def code_sums_op(
    x_GND: Tensor, index_GN: Tensor, keep_GN: Tensor | None, sizes: Sequence[int], only_finite: bool
) -> tuple[Tensor, Tensor]:
    """Counts int64 (K,) and sums float32 (K, D) of x (G, N, D), on the path of its device. No checks."""
    path = path_for(x_GND.device)
    if path == "cpu":
        return sums_cpu(x_GND, index_GN, keep_GN, sizes, only_finite)
    if path == "triton":
        from vqmm.kernels.code_sums.fused import sums_triton

        return sums_triton(x_GND, index_GN, keep_GN, sizes, only_finite)
    return sums_torch(x_GND, index_GN, keep_GN, sizes, only_finite)


@code_sums_op.register_fake
def _(
    x_GND: Tensor, index_GN: Tensor, keep_GN: Tensor | None, sizes: Sequence[int], only_finite: bool
) -> tuple[Tensor, Tensor]:
    K = sum(sizes)
    return x_GND.new_empty(K, dtype=torch.int64), x_GND.new_empty(K, x_GND.shape[2], dtype=torch.float32)


def sums_of_kept(
    x_ND: Tensor, index_N: Tensor, K: int, keep_N: Tensor | None, sizes: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """code_sums of the vectors that keep_N names, whatever they hold: a gradient that is NaN must show. No checks."""
    return code_sums_grouped(x_ND, index_N, K, keep_N, sizes, only_finite=False)


@torch.no_grad()
def code_sums_grouped(
    x_ND: Tensor, index_N: Tensor, K: int, keep_N: Tensor | None, sizes: Sequence[int] | None, only_finite: bool
) -> tuple[Tensor, Tensor]:
    """code_sums of one codebook or of several, without checks or gradients. keep_N: bool, None for all."""
    if sizes is None:
        x_ND, index_N, keep_N = x_ND[None], index_N[None], None if keep_N is None else keep_N[None]
    return code_sums_op(x_ND.detach(), index_N, keep_N, [K] if sizes is None else list(sizes), only_finite)


def code_sums(
    x_ND: Tensor,
    index_N: Tensor,
    K: int,
    *,
    mask_N: Tensor | None = None,
    sizes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """How many vectors chose each code, and their sum. The same bits on every run.

    Args:
        x_ND: vectors, shape (N, D), or with sizes (G, N, D); any floating type, any strides. N may be 0.
        index_N: int32 or int64 (N,) or (G, N), each in [0, K), as nearest_code gives them; with sizes, of group g in
            [0, K_g).
        K: the number of codes, at least 1.
        mask_N: bool, the shape of index_N, True where a vector counts.
        sizes: the rows K_1 to K_G of each of G codebooks that lie one after the other in the K; their sum is K.

    Returns:
        counts int64 (K,) and sums float32 (K, D). Vectors that are masked out, or hold a NaN or Inf, are in neither;
        they are selected out, not multiplied by 0. A code's vectors are added in float32, in an order that depends on
        nothing but their number: with n of them, a sum is off by at most (n - 1) u / (1 - (n - 1) u) times the sum of
        their absolute values, u = 2^-24.

    Raises:
        ValueError: lengths or devices differ, K is less than 1, or sizes do not make K; on a CPU, an index that names
            no code (on a GPU, where looking would make the host wait, its vector is in no count).
        TypeError: x_ND is not floating, index_N not int32 or int64, or the mask not bool.
    """
    checks.check_float("code_sums", x_ND=x_ND)
    if K < 1:
        raise ValueError(f"code_sums: K is {K}; a codebook has at least 1 code.")
    if sizes is not None:
        checks.check_sizes("code_sums", sizes, K)
    checks.check_rank("code_sums", 2 if sizes is None else 3, x_ND=x_ND)
    if x_ND.shape[-1] == 0 or (sizes is not None and x_ND.shape[0] != len(sizes)):
        raise ValueError(
            f"code_sums: x_ND has shape {checks.shape_of(x_ND)}; it needs "
            f"{'(N, D)' if sizes is None else f'({len(sizes)}, N, D) for {len(sizes)} codebooks'}, D at least 1."
        )
    checks.check_index("code_sums", index_N, x_ND.shape[:-1])
    checks.check_mask("code_sums", mask_N, x_ND.shape[:-1])
    checks.check_device("code_sums", x_ND=x_ND, index_N=index_N, mask_N=mask_N)
    return code_sums_grouped(x_ND, index_N, K, mask_N, sizes, only_finite=True)
