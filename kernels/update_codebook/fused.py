"""How update_codebook_ is fast on a GPU: two passes over what there is, everything in place.

The first adds up each codebook's counts, in tiles of codes; the second adds those tiles, in order, and moves the codes:
it reads and writes each number once.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqmm.kernels.code_sums.fused import codebook_of
from vqmm.kernels.tables import capability_of
from vqmm.kernels.update_codebook.tables import TABLES, Config

TOTALS = 1_024  # codes a program of the first pass adds up


def config_for(device: torch.device, width: int) -> Config | None:
    """The tile of the second pass, whose programs hold whole codes; None for codes that are too wide."""
    return TABLES.find(capability_of(device), max_width=width)


def fits(code_KD: Tensor, ema_count_K: Tensor, ema_sum_KD: Tensor) -> bool:
    """Whether update_triton_ takes them; plain torch takes the rest."""
    config = config_for(code_KD.device, code_KD.shape[1])
    return config is not None and all(m.is_contiguous() for m in (code_KD, ema_count_K, ema_sum_KD))


@triton.jit
def shares(decay_ptr):  # type: ignore[no-untyped-def]
    """What is kept of an EMA and what is added to it; from float64, where 1 - decay keeps its digits."""
    decay = tl.load(decay_ptr)
    return decay.to(tl.float32), (1.0 - decay).to(tl.float32)


@triton.jit
def totals_kernel(  # type: ignore[no-untyped-def]
    count_ptr, ema_ptr, decay_ptr, total_ptr, SIZES: tl.constexpr, BLOCK: tl.constexpr
):
    """Writes total (G, tiles, 4): added over a tile of codes, the counts, the EMA counts before and after, and
    count log count.
    """
    tile, g = tl.program_id(0), tl.program_id(1)
    first, size = codebook_of(g, SIZES)
    k = tile * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(count_ptr + first + k, mask=k < size, other=0).to(tl.float32)
    ema = tl.load(ema_ptr + first + k, mask=k < size, other=0.0)
    kept, added = shares(decay_ptr)
    to_ptr = total_ptr + (g * tl.num_programs(0) + tile) * 4
    tl.store(to_ptr, tl.sum(count, axis=0))
    tl.store(to_ptr + 1, tl.sum(ema, axis=0))
    tl.store(to_ptr + 2, tl.sum(kept * ema + added * count, axis=0))
    tl.store(to_ptr + 3, tl.sum(count * tl.log(tl.where(count > 0, count, 1.0)), axis=0))


@triton.jit
def update_kernel(  # type: ignore[no-untyped-def]
    code_ptr,
    ema_count_ptr,
    ema_sum_ptr,
    count_ptr,
    sum_ptr,
    decay_ptr,
    total_ptr,
    dead_ptr,
    perplexity_ptr,
    epsilon,
    dead_below,
    SIZES: tl.constexpr,
    TILES: tl.constexpr,
    PARTS: tl.constexpr,
    NORMALISE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One tile of codes of one codebook. total (G, TILES, 4) float32; decay float64 (); PARTS is TILES or more."""
    tile, g = tl.program_id(0), tl.program_id(1)
    first, size = codebook_of(g, SIZES)
    part = tl.arange(0, PARTS)
    part_ptr = total_ptr + (g * TILES + part) * 4
    there = part < TILES
    total = tl.sum(tl.load(part_ptr, mask=there, other=0.0), axis=0)
    some = total > 0  # an empty batch moves nothing
    n = tl.sum(tl.load(part_ptr + tl.where(some, 2, 1), mask=there, other=0.0), axis=0)
    kept, added = shares(decay_ptr)
    if tile == 0:
        log_count = tl.sum(tl.load(part_ptr + 3, mask=there, other=0.0), axis=0) / tl.where(some, total, 1.0)
        entropy = tl.log(tl.where(some, total, 1.0)) - log_count
        tl.store(perplexity_ptr + g, tl.where(some, tl.exp(entropy), 0.0))

    k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = k < size
    count = tl.load(count_ptr + first + k, mask=inside, other=0).to(tl.float32)
    ema = tl.load(ema_count_ptr + first + k, mask=inside, other=0.0)
    ema = tl.where(some, kept * ema + added * count, ema)
    tl.store(ema_count_ptr + first + k, ema, mask=inside)
    tl.store(dead_ptr + first + k, (ema < dead_below * (n / size)).to(tl.uint8), mask=inside)

    d = tl.arange(0, BLOCK_D)
    at = (first + k).to(tl.int64)[:, None] * D + d[None, :]
    here = (k < tl.where(some, size, 0))[:, None] & (d < D)[None, :]
    ema_sum = kept * tl.load(ema_sum_ptr + at, mask=here, other=0.0)
    ema_sum += added * tl.load(sum_ptr + at, mask=here, other=0.0).to(tl.float32)
    tl.store(ema_sum_ptr + at, ema_sum, mask=here)
    code = ema_sum / ((ema + epsilon) / (n + size * epsilon) * n)[:, None]
    if NORMALISE:  # the largest entry is divided out first, so that no square overflows or vanishes
        largest = tl.max(tl.abs(code), axis=1)
        code = code / tl.where(largest > 0, largest, 1.0)[:, None]
        length = tl.sqrt(tl.sum(code * code, axis=1))
        code = code / tl.where(length > 0, length, 1.0)[:, None]
    tl.store(code_ptr + at, code, mask=here & (ema > 0)[:, None])


def update_triton_(
    code_KD: Tensor,
    ema_count_K: Tensor,
    ema_sum_KD: Tensor,
    counts_K: Tensor,
    sums_KD: Tensor,
    decay: Tensor,
    epsilon: float,
    dead_below: float,
    normalise: bool,
    sizes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """dead bool (K,) and perplexity (G,); the first three, contiguous, are written. On CUDA, or interpreted."""
    (K, width), device, groups, most = code_KD.shape, code_KD.device, len(sizes), max(sizes)
    config = config_for(device, width)
    assert config is not None, "fits() was asked before"
    tiles = triton.cdiv(most, TOTALS)
    total_GT4 = torch.empty(groups, tiles, 4, device=device)
    dead_K = torch.empty(K, dtype=torch.uint8, device=device)
    perplexity_G = torch.empty(groups, device=device)
    counts_K = counts_K.contiguous()
    with torch.cuda.device_of(code_KD):
        totals_kernel[(tiles, groups)](counts_K, ema_count_K, decay, total_GT4, SIZES=tuple(sizes), BLOCK=TOTALS)
        update_kernel[(triton.cdiv(most, config.block_k), groups)](
            code_KD,
            ema_count_K,
            ema_sum_KD,
            counts_K,
            sums_KD.contiguous(),
            decay,
            total_GT4,
            dead_K,
            perplexity_G,
            epsilon,
            dead_below,
            SIZES=tuple(sizes),
            TILES=tiles,
            PARTS=triton.next_power_of_2(tiles),
            NORMALISE=normalise,
            D=width,
            BLOCK_K=config.block_k,
            BLOCK_D=config.block_d,
            num_warps=config.warps,
        )
    return dead_K.view(torch.bool), perplexity_G
