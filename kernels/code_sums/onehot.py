"""code_sums without a sort, for few codes: a product of a one-hot matrix, made in registers a tile at a time, and x.

2 N K D operations for each part of x, so it is for small K D only; nothing but the partial sums is written.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqmm.kernels.code_sums.fused import rows_at, slots_of, strides_of

PARTITIONS = 128  # of the vectors, each with partial sums of its own: as many as a large GPU has processors
BLOCK_N, BLOCK_K, WARPS = 64, 64, 8
# x is cut into bfloat16 parts of 8 bits each, which together are x: the sum keeps float32
PARTS = {torch.bfloat16: 1, torch.float16: 2}


# whose products are exact in either type; the interpreter's arrays have no bfloat16
PRODUCT = tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16


def width_of_tile(width: int) -> int:
    return min(max(triton.next_power_of_2(width), 16), 32)


@triton.jit(do_not_specialize=["M", "N", "tiles", "x_g", "x_n", "x_d"])
def onehot_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    slot_ptr,
    count_ptr,
    partial_ptr,
    M,
    N,
    K,
    tiles,
    x_g,
    x_n,
    x_d,
    PACKED: tl.constexpr,
    PARTS: tl.constexpr,
    PRODUCT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes partial (partitions, K, D) and count (partitions, K) from slot (M,), where K does not count."""
    partition = tl.program_id(0)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    acc = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    count = tl.zeros((BLOCK_K,), tl.int32)
    for tile in range(partition * tiles, (partition + 1) * tiles):
        at = tile * BLOCK_N + tl.arange(0, BLOCK_N).to(tl.int64)
        slot = tl.load(slot_ptr + at, mask=at < M, other=0).to(tl.int32)
        counts = (at < M) & (slot < K)
        chosen = (slot[None, :] == k[:, None]) & counts[None, :]
        count += tl.sum(chosen.to(tl.int32), axis=1)
        x_at = rows_at(x_ptr, at, d, N, x_g, x_n, x_d, PACKED, D)
        rest = tl.load(x_at, mask=counts[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
        for _ in tl.static_range(PARTS):
            part = (rest.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)  # cut off: never overflows
            acc = tl.dot(chosen.to(PRODUCT), part.to(PRODUCT), acc, input_precision="ieee")
            rest -= part
    row = partition.to(tl.int64) * K + k
    tl.store(partial_ptr + row[:, None] * D + d[None, :], acc, mask=(k < K)[:, None] & (d < D)[None, :])
    if tl.program_id(2) == 0:
        tl.store(count_ptr + row, count, mask=k < K)


def sums_by_onehot(
    x_GND: Tensor, index_GN: Tensor, keep_GN: Tensor | None, sizes: Sequence[int], only_finite: bool
) -> tuple[Tensor, Tensor]:
    """Takes and gives what sums_by_items does. A tensor core may cut where float32 rounds: the bound is twice as wide.
    A NaN that is kept, with only_finite False, spoils the 64 sums around its own.
    """
    (groups, n, width), K, device = x_GND.shape, sum(sizes), x_GND.device
    if groups * n == 0:
        return torch.zeros(K, dtype=torch.int64, device=device), torch.zeros(K, width, device=device)
    slot_M = slots_of(x_GND, index_GN, keep_GN, sizes, only_finite)
    tiles = triton.cdiv(groups * n, BLOCK_N)
    partitions = min(PARTITIONS, tiles)
    block_d = width_of_tile(width)
    count_PK = torch.empty(partitions, K, dtype=torch.int32, device=device)
    partial_PKD = torch.empty(partitions, K, width, device=device)
    with torch.cuda.device_of(x_GND):
        onehot_kernel[(partitions, triton.cdiv(K, BLOCK_K), triton.cdiv(width, block_d))](
            x_GND,
            slot_M,
            count_PK,
            partial_PKD,
            M=groups * n,
            K=K,
            tiles=triton.cdiv(tiles, partitions),
            **strides_of(x_GND),
            PARTS=PARTS.get(x_GND.dtype, 3),
            PRODUCT=PRODUCT,
            D=width,
            BLOCK_N=BLOCK_N,
            BLOCK_K=BLOCK_K,
            BLOCK_D=block_d,
            num_warps=WARPS,
        )
    return count_PK.sum(0), partial_PKD.sum(0)
