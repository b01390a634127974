"""How nearest_code is fast on a GPU: one Triton kernel that never writes a score.

Plain torch writes N K scores and reads them back; this reads N D + K D (the codes once for each tile of vectors, from
L2) and writes N indices. The inner loop after the product is one compare and two selects.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqmm.kernels.nearest_code.prepare import Prepared, arrange


class Config(NamedTuple):
    """A tile of vectors by codes, the width taken at a time, and how the compiler should pipeline it."""

    block_n: int
    block_k: int
    block_d: int
    warps: int
    stages: int


# Widths whose vectors stay on chip through the whole search; other widths are taken 32 at a time. Products are tf32x3
# throughout: as good as float32, on the tensor cores, where "ieee" products spill kilobytes. Every entry is compiled by
# the tests: no spills, and less shared memory than the chip has.
RESIDENT = {16: Config(128, 64, 16, 8, 3), 32: Config(128, 64, 32, 8, 3)}
RESIDENT_HOPPER = {
    **RESIDENT,
    64: Config(128, 64, 64, 8, 2),
    128: Config(64, 64, 128, 8, 2),
    256: Config(64, 32, 256, 8, 2),
}
TILED = Config(128, 64, 32, 8, 3)


def padded_width(width: int) -> int:
    """The width the kernel works at: 16 (the least that a tensor core takes) or a multiple of 32."""
    return 16 if width <= 16 else -(-width // 32) * 32


def config_for(width: int, capability: tuple[int, int]) -> Config:
    """The tile for a padded width, on a GPU of a compute capability such as (9, 0)."""
    resident = RESIDENT_HOPPER if capability[0] == 9 else RESIDENT
    return resident.get(width, TILED)


@triton.jit
def nearest_code_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    code_ptr,
    bias_ptr,
    index_ptr,
    N,
    K,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """x (N, D) and code (K, D) contiguous, D a multiple of BLOCK_D; bias (K,); writes index (N,)."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    lane = tl.arange(0, BLOCK_K)
    d = tl.arange(0, BLOCK_D)
    x_at = x_ptr + n[:, None] * D + d[None, :]
    best = tl.full((BLOCK_N, BLOCK_K), float("-inf"), tl.float32)  # the best score seen in each lane of the tile,
    tile = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)  # and the number of the tile where it was
    if BLOCK_D == D:
        x = tl.load(x_at, mask=n[:, None] < N, other=0.0)  # stays on chip
    for t in range(tl.cdiv(K, BLOCK_K)):
        k = t * BLOCK_K + lane
        code_at = code_ptr + k.to(tl.int64)[None, :] * D + d[:, None]
        # a code past the end has score -inf, from its bias: a zero operand alone could win
        bias = tl.load(bias_ptr + k, mask=k < K, other=float("-inf"))
        score = tl.zeros((BLOCK_N, BLOCK_K), tl.float32) + bias[None, :]
        if BLOCK_D == D:
            code = tl.load(code_at, mask=k[None, :] < K, other=0.0)
            score = tl.dot(x, code, score, input_precision="tf32x3")
        else:
            for first in range(0, D, BLOCK_D):
                part = tl.load(x_at + first, mask=n[:, None] < N, other=0.0)
                code = tl.load(code_at + first, mask=k[None, :] < K, other=0.0)
                score = tl.dot(part, code, score, input_precision="tf32x3")
        better = score > best  # strict: the earlier tile keeps a tie, and NaN never wins
        best = tl.where(better, score, best)
        tile = tl.where(better, t, tile)
    most = tl.max(best, axis=1)
    index = tl.min(tl.where(best == most[:, None], tile * BLOCK_K + lane[None, :], K), axis=1)  # lowest among equals
    # nothing finite was found: the vector is not finite, or no code is
    index = tl.where((most > float("-inf")) & (most < float("inf")), index, 0)
    tl.store(index_ptr + n, index, mask=n < N)


def nearest_code_fused(x_ND: Tensor, prepared: Prepared, metric: str) -> Tensor:
    """int32 indices (N,): the highest score, the lowest among equals. Runs on CUDA, or in Triton's interpreter."""
    (n, width), (k, _) = x_ND.shape, prepared.code_KD.shape
    index_N = torch.empty(n, dtype=torch.int32, device=x_ND.device)
    if n == 0:
        return index_N
    wide = padded_width(width)
    x_NW = torch.zeros(n, wide, device=x_ND.device)
    arrange(x_ND, metric, prepared.shift_D, out=x_NW[:, :width])
    code_KW = torch.nn.functional.pad(prepared.code_KD, (0, wide - width)).contiguous()
    capability = torch.cuda.get_device_capability(x_ND.device) if x_ND.is_cuda else (0, 0)
    config = config_for(wide, capability)
    with torch.cuda.device_of(x_ND):
        nearest_code_kernel[(triton.cdiv(n, config.block_n),)](
            x_NW,
            code_KW,
            prepared.bias_K,
            index_N,
            n,
            k,
            D=wide,
            BLOCK_N=config.block_n,
            BLOCK_K=config.block_k,
            BLOCK_D=config.block_d,
            num_warps=config.warps,
            num_stages=config.stages,
        )
    return index_N
