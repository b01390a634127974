"""How code_sums is fast on a GPU: a stable sort of the indices, and sums with nothing contended and no atomics.

A slot is a code, or one more for the vectors that do not count. Sorted by slot, each code's vectors lie side by side in
the order they came: its segment. A segment is cut into items of at most 256 vectors, counted from its own start, so the
bits of a code's sum depend on nothing but its own vectors. One program adds one item, so a hot code is many programs.

How many items there are is known only on the GPU, yet the grid is fixed. The first item of code k is program k. A
later item starts more than 255 places after its segment does, so that in each window of 256 places of the sorted order
at most one later item starts, and it belongs to the code found at the window's first place: window w is program K + w.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqmm.kernels.code_sums.tables import TABLES, Config
from vqmm.kernels.tables import capability_of

ITEM = 256


def config_for(device: torch.device, width: int) -> Config:
    """The tile for vectors of a width; wide ones are taken a run of coordinates at a time."""
    config = TABLES.find(capability_of(device), max_width=width)
    assert config is not None, "the last row has no limit"
    return config


def slot_type(slots: int) -> torch.dtype:
    """The smallest integer type with room for the numbers 0 to slots: a radix sort makes a pass a byte."""
    return next(t for t in (torch.uint8, torch.int16, torch.int32) if slots <= torch.iinfo(t).max)


@triton.jit
def codebook_of(g, SIZES: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first row and the number of rows of codebook g."""
    first, size = 0, 0
    for i in tl.static_range(len(SIZES)):
        first += tl.where(i < g, SIZES[i], 0)
        size += tl.where(i == g, SIZES[i], 0)
    return first, size


@triton.jit
def rows_at(x_ptr, at, d, N, x_g, x_n, x_d, PACKED: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where vectors number at (int64, of the G N) keep coordinates d. N and the strides are taken at run time, so that
    a new N compiles nothing; PACKED (x is contiguous) does without them, and lets loads be wide.
    """
    if PACKED:
        return x_ptr + at[:, None] * D + d[None, :]
    return x_ptr + (at // N * x_g + at % N * x_n)[:, None] + (d.to(tl.int64) * x_d)[None, :]


@triton.jit(do_not_specialize=["N", "x_g", "x_n", "x_d"])
def slot_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    index_ptr,
    keep_ptr,
    slot_ptr,
    N,
    x_g,
    x_n,
    x_d,
    D: tl.constexpr,
    K: tl.constexpr,
    SIZES: tl.constexpr,
    PACKED: tl.constexpr,
    ONLY_FINITE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """x (G, N, D) with strides x_g, x_n, x_d; index and keep (G, N) contiguous, keep None: all; writes
    slot (G, N).
    """
    g = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    first, size = codebook_of(g, SIZES)
    index = tl.load(index_ptr + g * N + n, mask=n < N, other=0)
    counts = (n < N) & (index >= 0) & (index < size)
    if keep_ptr is not None:
        counts = counts & (tl.load(keep_ptr + g * N + n, mask=n < N, other=0) != 0)
    slot = tl.where(counts, first + index.to(tl.int32), K)
    if ONLY_FINITE:
        for at in range(0, D, BLOCK_D):
            d = at + tl.arange(0, BLOCK_D)
            inside = counts[:, None] & (d < D)[None, :]
            x = tl.load(rows_at(x_ptr, g * N + n, d, N, x_g, x_n, x_d, PACKED, D), mask=inside, other=0.0)
            bad = tl.where(tl.abs(x.to(tl.float32)) < float("inf"), 0, 1)  # NaN compares false
            slot = tl.where(tl.max(bad, axis=1) > 0, K, slot)
    tl.store(slot_ptr + g * N + n, slot.to(slot_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def item_of(code, window, start_ptr, K, ITEM: tl.constexpr):  # type: ignore[no-untyped-def]
    """The item of a code that starts in a window: its number in the segment, its first place, and the segment's end."""
    begin = tl.load(start_ptr + code)
    end = tl.load(start_ptr + code + 1, mask=code < K, other=0)  # the slot of those that do not count has no items
    number = tl.cdiv(window * ITEM - begin, ITEM)
    return number, begin + number * ITEM, end


@triton.jit(do_not_specialize=["N", "x_g", "x_n", "x_d"])
def add_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    order_ptr,
    sorted_ptr,
    start_ptr,
    sums_ptr,
    partial_ptr,
    N,
    K,
    x_g,
    x_n,
    x_d,
    PACKED: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ITEM: tl.constexpr,
):
    """Adds the vectors of one item: to sums (K, D) the first of a code, to partial (windows, D) a later one."""
    item = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    if item < K:
        to_ptr = sums_ptr + item.to(tl.int64) * D
        begin = tl.load(start_ptr + item)
        end = tl.load(start_ptr + item + 1)
    else:
        window = item - K
        to_ptr = partial_ptr + window.to(tl.int64) * D
        code = tl.load(sorted_ptr + window * ITEM).to(tl.int32)
        number, begin, end = item_of(code, window, start_ptr, K, ITEM)
        end = tl.where(number > 0, end, 0)  # number 0 is the first item, of another program
    acc = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for row in range(begin, min(begin + ITEM, end), ROWS):
        place = row + tl.arange(0, ROWS)
        inside = place < min(begin + ITEM, end)
        at = tl.load(order_ptr + place, mask=inside, other=0)
        x_at = rows_at(x_ptr, at, d, N, x_g, x_n, x_d, PACKED, D)
        acc += tl.load(x_at, mask=inside[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
    tl.store(to_ptr + d, tl.sum(acc, axis=0), mask=d < D)


@triton.jit
def fold_kernel(  # type: ignore[no-untyped-def]
    sorted_ptr,
    start_ptr,
    sums_ptr,
    partial_ptr,
    K,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ITEM: tl.constexpr,
):
    """Adds a code's later items to its first. The window where its second item starts does it for all of them."""
    window = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    code = tl.load(sorted_ptr + window * ITEM).to(tl.int32)
    number, begin, end = item_of(code, window, start_ptr, K, ITEM)
    if (number == 1) & (begin < end):
        acc = tl.zeros((ROWS, BLOCK_D), tl.float32)
        last = begin // ITEM + tl.cdiv(end - begin, ITEM)
        for row in range(begin // ITEM, last, ROWS):
            at = row + tl.arange(0, ROWS)
            inside = (at < last)[:, None] & (d < D)[None, :]
            acc += tl.load(partial_ptr + at.to(tl.int64)[:, None] * D + d[None, :], mask=inside, other=0.0)
        to_ptr = sums_ptr + code.to(tl.int64) * D + d
        tl.store(to_ptr, tl.load(to_ptr, mask=d < D, other=0.0) + tl.sum(acc, axis=0), mask=d < D)


def strides_of(x_GND: Tensor) -> dict[str, object]:
    """What rows_at asks for."""
    group, row, column = x_GND.stride()
    return {"N": x_GND.shape[1], "x_g": group, "x_n": row, "x_d": column, "PACKED": x_GND.is_contiguous()}


def slots_of(
    x_GND: Tensor, index_GN: Tensor, keep_GN: Tensor | None, sizes: Sequence[int], only_finite: bool
) -> Tensor:
    """The row of all K codes that each vector chose, K for one that does not count: (G N,), in slot_type."""
    (groups, n, width), K = x_GND.shape, sum(sizes)
    config = config_for(x_GND.device, width)
    slot_M = torch.empty(groups * n, dtype=slot_type(K), device=x_GND.device)
    with torch.cuda.device_of(x_GND):
        slot_kernel[(triton.cdiv(n, config.block_n), groups)](
            x_GND,
            index_GN.contiguous(),
            None if keep_GN is None else keep_GN.contiguous().view(torch.uint8),
            slot_M,
            **strides_of(x_GND),
            D=width,
            K=K,
            SIZES=tuple(sizes),
            ONLY_FINITE=only_finite,
            BLOCK_N=config.block_n,
            BLOCK_D=config.block_d,
            num_warps=config.warps,
        )
    return slot_M


def sums_triton(
    x_GND: Tensor, index_GN: Tensor, keep_GN: Tensor | None, sizes: Sequence[int], only_finite: bool
) -> tuple[Tensor, Tensor]:
    """Counts int64 (K,) and sums float32 (K, D) of the vectors that keep_GN names; if so asked, of the finite ones.

    Runs on CUDA, or in Triton's interpreter. An index that names no code is in no count: looking would synchronise.
    """
    (groups, n, width), K, device = x_GND.shape, sum(sizes), x_GND.device
    if groups * n == 0:
        return torch.zeros(K, dtype=torch.int64, device=device), torch.zeros(K, width, device=device)
    sorted_M, order_M = torch.sort(slots_of(x_GND, index_GN, keep_GN, sizes, only_finite), stable=True)
    places = torch.arange(K + 1, dtype=sorted_M.dtype, device=device)
    start_K = torch.searchsorted(sorted_M, places, out_int32=True)  # K + 1: the last is where those that count end
    config = config_for(x_GND.device, width)
    tile = {"D": width, "ROWS": config.block_n, "BLOCK_D": config.block_d, "ITEM": ITEM, "num_warps": config.warps}
    windows, chunks = triton.cdiv(groups * n, ITEM), triton.cdiv(width, config.block_d)
    sums_KD = torch.empty(K, width, device=device)
    partial_WD = torch.empty(windows, width, device=device)
    segments = (sorted_M, start_K, sums_KD, partial_WD)
    with torch.cuda.device_of(x_GND):
        add_kernel[(K + windows, chunks)](x_GND, order_M, *segments, K=K, **strides_of(x_GND), **tile)
        if windows > 1:
            fold_kernel[(windows, chunks)](*segments, K=K, **tile)
    return torch.diff(start_K).long(), sums_KD
