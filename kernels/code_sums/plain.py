"""code_sums in plain torch, on a device without a kernel of its own."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from vqmm.kernels.finite import finite_rows


def sums_by_sorting(x_ND: Tensor, slot_N: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """A stable sort puts each code's vectors side by side, in the order they come; each segment is then added by one
    thread a column. No atomics and no host synchronisation, so a GPU without Triton gives the same bits every time.
    """
    sorted_N, order_N = torch.sort(slot_N, stable=True)
    ends_K = torch.searchsorted(sorted_N, torch.arange(slots, device=x_ND.device), right=True)
    counts_K = torch.diff(ends_K, prepend=ends_K.new_zeros(1))
    sums_KD = torch.segment_reduce(x_ND[order_N], "sum", lengths=counts_K, axis=0, unsafe=True)
    return counts_K, sums_KD


def sums_torch(
    x_GND: Tensor, index_GN: Tensor, keep_GN: Tensor | None, sizes: Sequence[int], only_finite: bool
) -> tuple[Tensor, Tensor]:
    """Where Triton is not. Takes and gives what sums_cpu does; an index that names no code is in no count."""
    x_MD, K = x_GND.float().flatten(0, 1), sum(sizes)
    firsts = [0, *accumulate(sizes)][:-1]
    slots = [
        torch.where((index_N >= 0) & (index_N < size), index_N.long() + first, K)
        for index_N, first, size in zip(index_GN, firsts, sizes, strict=True)
    ]
    slot_M = torch.cat(slots)
    if keep_GN is not None:
        slot_M = torch.where(keep_GN.flatten(), slot_M, K)
    if only_finite:
        slot_M = torch.where(finite_rows(x_MD), slot_M, K)
    counts_K, sums_KD = sums_by_sorting(x_MD, slot_M, K + 1)
    return counts_K[:K], sums_KD[:K]
