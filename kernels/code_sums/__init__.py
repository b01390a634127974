"""How many vectors chose each code, and their sum."""

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.code_sums.reference import code_sums_baseline, code_sums_reference
from vqmm.kernels.finite import finite_rows

__all__ = ["code_sums", "code_sums_reference", "code_sums_baseline"]


def sums_in_order(x_ND: Tensor, slot_N: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Vectors are added in the order they come (index_add_ on a CPU sorts stably or walks once; it has no race)."""
    counts_K = torch.bincount(slot_N, minlength=slots)
    sums_KD = x_ND.new_zeros(slots, x_ND.shape[1]).index_add_(0, slot_N, x_ND)
    return counts_K, sums_KD


def sums_by_sorting(x_ND: Tensor, slot_N: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """A stable sort puts each code's vectors side by side, in the order they come; each segment is then added by one
    thread a column. No atomics and no host synchronisation, so a GPU gives the same bits every time.
    """
    sorted_N, order_N = torch.sort(slot_N, stable=True)
    ends_K = torch.searchsorted(sorted_N, torch.arange(slots, device=x_ND.device), right=True)
    counts_K = torch.diff(ends_K, prepend=ends_K.new_zeros(1))
    sums_KD = torch.segment_reduce(x_ND[order_N], "sum", lengths=counts_K, axis=0, unsafe=True)
    return counts_K, sums_KD


def sums_of_kept(x_ND: Tensor, index_N: Tensor, K: int, keep_N: Tensor) -> tuple[Tensor, Tensor]:
    """code_sums of the float32 vectors that keep_N names, whatever they hold: a gradient that is NaN must show."""
    slot_N = torch.where(keep_N, index_N.long(), K)  # one slot more, for those that do not count
    add = sums_in_order if x_ND.device.type == "cpu" else sums_by_sorting
    counts_K, sums_KD = add(x_ND, slot_N, K + 1)
    return counts_K[:K], sums_KD[:K]


@torch.no_grad()
def code_sums(x_ND: Tensor, index_N: Tensor, K: int, *, mask_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many vectors chose each code, and their sum. The same bits on every run.

    Args:
        x_ND: vectors, shape (N, D), any floating type, any strides. N may be 0.
        index_N: int32 or int64 (N,), each in [0, K), as nearest_code gives them.
        K: the number of codes, at least 1.
        mask_N: bool (N,), True where a vector counts.

    Returns:
        counts int64 (K,) and sums float32 (K, D). Vectors that are masked out, or hold a NaN or Inf, are in neither;
        they are selected out, not multiplied by 0. A code's vectors are added in float32, in the order they come.

    Raises:
        ValueError: lengths or devices differ, or K is less than 1.
        TypeError: x_ND is not floating, index_N not int32 or int64, or the mask not bool.
    """
    checks.check_float("code_sums", x_ND=x_ND)
    checks.check_rank("code_sums", 2, x_ND=x_ND)
    checks.check_index("code_sums", index_N, x_ND.shape[0])
    checks.check_mask("code_sums", mask_N, x_ND.shape[0])
    checks.check_device("code_sums", x_ND=x_ND, index_N=index_N, mask_N=mask_N)
    if K < 1:
        raise ValueError(f"code_sums: K is {K}; a codebook has at least 1 code.")
    x_ND = x_ND.float()
    finite_N = finite_rows(x_ND)
    return sums_of_kept(x_ND, index_N, K, finite_N if mask_N is None else finite_N & mask_N)
