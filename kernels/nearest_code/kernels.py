"""The kernels of nearest_code around the scan: what is done to a tile before it is searched, and after.

What a launch has no use for is None, and no part of the kernel that is compiled for it.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from vqmm.kernels.nearest_code.scan import Vectors, high_part, load_x, scan, scan_tiled


class Codebooks(NamedTuple):
    """G codebooks, one after the other."""

    code: Any  # (K, D) or (K, 2 D), as packed() makes it
    bias: Any  # float32 (K,)
    shift: Any  # float32 (G, D), subtracted from every vector of a group; None: nothing is
    first: Any  # int32 (G + 1,): the row where each begins, and where the last one ends


class Rows(NamedTuple):
    """A selection: of each group g the vectors row[g, :count[g]]."""

    row: Any  # int32 (G, N)
    count: Any  # int32 (G,)


class Gather(NamedTuple):
    """The codes to copy, and what is written with them."""

    master: Any  # float32 (K, D)
    vectors: Any  # float32 (G, N, D)
    error: Any  # float32 (G, N)


class Doubt(NamedTuple):
    """Which vectors a fast search is not sure of, and what that depends on."""

    limit: Any  # float32 (G, 2): max |c'|, and the most that rounding took off a code
    mark: Any  # int8 (G, N), written


class Parts(NamedTuple):
    """What a search of the codes in parts leaves for the merge, (G, slots), see slots_of; nothing of one that is whole.

    (Triton 3.6 cannot ask whether a tuple that holds a None is None.)
    """

    best: Any = None  # float32
    index: Any = None  # int32
    second: Any = None  # float32; None: no margins
    length: Any = None  # float32, |x'|; None: no margins of unit vectors


@triton.jit
def power_of_two_below(largest):  # type: ignore[no-untyped-def]
    """A power of two that brings `largest` near 1, so that scaling by it rounds nothing."""
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 0xFF
    return (tl.minimum(tl.maximum(254 - exponent, 1), 253) << 23).to(tl.float32, bitcast=True)


@triton.jit
def scale_of(first, x, n, live, D: tl.constexpr, BLOCK_D: tl.constexpr):  # type: ignore[no-untyped-def]
    """What brings each vector's largest number near 1, (BLOCK_N,). first: the first BLOCK_D columns."""
    largest = tl.max(tl.where(first == first, tl.abs(first), 0.0), axis=1)
    for column in range(BLOCK_D, D, BLOCK_D):
        tile = load_x(x, n, live, column + tl.arange(0, BLOCK_D), D)
        largest = tl.maximum(largest, tl.max(tl.where(tile == tile, tl.abs(tile), 0.0), axis=1))
    return power_of_two_below(largest)


@triton.jit
def work(p, total, codes, programs, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """(tile, part, tiles, parts) of program p: `total` vectors in tiles, and the codes in parts when tiles are few.

    A function of the sizes alone, so that the same sizes give the same sums, and the merge finds what the search left.
    """
    tiles = tl.maximum(tl.cdiv(total, BLOCK_N), 1)
    parts = 1
    if SPLIT:
        parts = tl.maximum(tl.minimum(programs // tiles, codes // (2 * BLOCK_K)), 1)
    return p % tiles, p // tiles, tiles, parts


@triton.jit
def slots_of(g, part, tile, tiles, N, programs, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where one part of one tile is in Parts: there is room for all tiles, and for as many parts as programs."""
    slots = tl.maximum(tl.cdiv(N, BLOCK_N), programs) * BLOCK_N
    return g.to(tl.int64) * slots + (part * tiles + tile) * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def vectors_of(g, i, live, rows, N):  # type: ignore[no-untyped-def]
    """The numbers, int64 (BLOCK_N,), of the vectors in places i of a group's search: all, or a selection."""
    n = i.to(tl.int64)
    if rows is not None:
        n = tl.load(rows.row + g.to(tl.int64) * N + i, mask=live, other=0).to(tl.int64)
    return n


@triton.jit
def lengths(x, n, live, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr):  # type: ignore[no-untyped-def]
    """|x'| and the length of what rounding to one TF32 operand takes off x', both (BLOCK_N,)."""
    length = tl.zeros((BLOCK_N,), tl.float32)
    low = tl.zeros((BLOCK_N,), tl.float32)
    for column in tl.range(0, D, BLOCK_G, num_stages=1):
        tile = load_x(x, n, live, column + tl.arange(0, BLOCK_G), D)
        dropped = tile - high_part(tile)
        length += tl.sum(tile * tile, axis=1)
        low += tl.sum(dropped * dropped, axis=1)
    return tl.sqrt(length), tl.sqrt(low)


@triton.jit
def gather_codes(x, n, live, keep, row, gather, out, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr):  # type: ignore[no-untyped-def]
    """The chosen codes to the bit, and |x - c|^2 as the direct sum; 0 where x is not finite or not kept."""
    error = tl.zeros((BLOCK_N,), tl.float32)
    broken = tl.zeros((BLOCK_N,), tl.int32)
    as_given = Vectors(x.ptr, x.stride_n, x.stride_d, None, None)
    for column in tl.range(0, D, BLOCK_G, num_stages=1):
        d = column + tl.arange(0, BLOCK_G)
        tile = load_x(as_given, n, live, d, D)
        inside = live[:, None] & (d[None, :] < D)
        code = tl.load(gather.master + row[:, None] * D + d[None, :], mask=inside, other=0.0)
        tl.store(gather.vectors + out[:, None] * D + d[None, :], code, mask=inside)
        error += tl.sum((tile - code) * (tile - code), axis=1)
        broken = tl.maximum(broken, tl.max((tile - tile != 0.0).to(tl.int32), axis=1))
    tl.store(gather.error + out, tl.where(keep & (broken == 0), error, 0.0), mask=live)


@triton.jit
def finish(  # type: ignore[no-untyped-def]
    x,
    n,
    live,
    index,
    first,
    out,
    keep_ptr,
    index_ptr,
    gather,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """Writes the codes that were chosen for the vectors n, which are rows `out` of the outputs."""
    keep = live
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + out, mask=live, other=0) != 0
        index = tl.where(keep, index, 0)
    tl.store(index_ptr + out, index, mask=live)
    if gather is not None:
        row = (first + index).to(tl.int64)
        gather_codes(x, n, live, keep, row, gather, out, D, BLOCK_N, BLOCK_G)


@triton.jit
def margin_of(best, second):  # type: ignore[no-untyped-def]
    """How far ahead the best score is: inf with no second, 0 with no best."""
    return tl.where((best > float("-inf")) & (best < float("inf")), best - second, 0.0)


@triton.jit
def of_unit_vectors(margin, length):  # type: ignore[no-untyped-def]
    """A margin between scores of vectors of this length, as if they had length 1."""
    return margin / tl.where(length > 0.0, length, 1.0)


@triton.jit
def doubtful(margin, length, low, limit_ptr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether the fast winner could lose an exact search: its margin lies within twice the two bounds.

    length, low: |x'| and what rounding took off x'; limit: of the group's codebook, as in Doubt.
    The bounds: x'.c' - h.k = (x' - h).c' + h.(c' - k) for the parts h, k that were multiplied, and (D + 16) 2^-22 of
    the largest partial sum for the additions of a tensor core, which cuts where float32 rounds. The last factor covers
    the rounding of this sum itself.
    """
    code, code_low = tl.load(limit_ptr), tl.load(limit_ptr + 1)
    rounding = low * code + (length + low) * code_low
    sums = 2.0 * (D + 16) * 2.0**-22 * (length * code + 0.5 * code * code)
    bound = 2.0 * (rounding + sums) * 1.001
    return ((margin <= bound) | (bound - bound != 0.0)).to(tl.int8)


@triton.jit(do_not_specialize=["N", "programs", "stride_g", "stride_d"])
def search_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    keep_ptr,
    codebooks,
    rows,
    index_ptr,
    margin_ptr,
    gather,
    doubt,
    parts,
    N,
    programs,
    stride_g,
    stride_n,
    stride_d,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_G: tl.constexpr,
    DOT: tl.constexpr,
    ALIGNED: tl.constexpr,
    COSINE: tl.constexpr,
):
    """One tile of vectors (axis 0; with parts, and one part of the codes) of one group (axis 1).

    x (G, N, D) with any strides, stride_d None for 1. codebooks: Codebooks, which begin at multiples of 16 where
    ALIGNED. keep bool (G, N), or None: all count. rows: Rows, or None: all vectors. COSINE: vectors are scaled.

    Writes index int32 (G, N) and, of what is not None, margin float32 (G, N), gather (Gather) and doubt (Doubt); with
    parts (Parts, not empty) instead what merge_kernel puts together. programs: how many share a tile's codes at most.
    """
    g = tl.program_id(1)
    first, end = tl.load(codebooks.first + g), tl.load(codebooks.first + g + 1)
    if ALIGNED:
        first = tl.multiple_of(first, 16)
    total = N
    if rows is not None:
        total = tl.load(rows.count + g)
    SPLIT: tl.constexpr = parts.best is not None
    tile, part, tiles, count = work(tl.program_id(0), total, end - first, programs, BLOCK_N, BLOCK_K, SPLIT)
    if (part >= count) | (tile * BLOCK_N >= total):
        return
    i = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    live = i < total
    n = vectors_of(g, i, live, rows, N)
    start, last = first, end
    if SPLIT:
        run = tl.cdiv(tl.cdiv(end - first, BLOCK_K), count) * BLOCK_K
        start = tl.minimum(first + part * run, end)
        last = tl.minimum(start + run, end)
    MARGIN: tl.constexpr = margin_ptr is not None
    SECOND: tl.constexpr = MARGIN or doubt is not None
    RESIDENT: tl.constexpr = BLOCK_D >= D
    shift = codebooks.shift
    if shift is not None:
        shift += g * D
    x = Vectors(x_ptr + g.to(tl.int64) * stride_g, stride_n, stride_d, shift, None)
    resident = load_x(x, n, live, tl.arange(0, BLOCK_D), D)
    if COSINE:  # the winner does not depend on |x|, as long as nothing overflows
        x = Vectors(x.ptr, stride_n, stride_d, shift, scale_of(resident, x, n, live, D, BLOCK_D))
        resident *= x.scale[:, None]
    code, bias = codebooks.code, codebooks.bias
    if RESIDENT:
        scanned = scan(resident, code, bias, start, last, D, BLOCK_N, BLOCK_K, BLOCK_D, DOT, SECOND)
    else:
        scanned = scan_tiled(x, n, live, code, bias, start, last, D, BLOCK_N, BLOCK_K, BLOCK_D, DOT, SECOND)
    best, index = scanned[0], scanned[1] + (start - first)
    if doubt is not None or (COSINE and MARGIN):  # read once more: kept through the loop, they would crowd registers
        length, low = lengths(x, n, live, D, BLOCK_N, BLOCK_G)
    out = g.to(tl.int64) * N + n
    if SPLIT:
        at = slots_of(g, part, tile, tiles, N, programs, BLOCK_N)
        tl.store(parts.best + at, best)
        tl.store(parts.index + at, index)
        if MARGIN:
            tl.store(parts.second + at, scanned[2])
            if COSINE:
                tl.store(parts.length + at, length)
    else:
        if SECOND:
            margin = margin_of(best, scanned[2])
            if doubt is not None:
                tl.store(doubt.mark + out, doubtful(margin, length, low, doubt.limit + 2 * g, D), mask=live)
            if MARGIN:
                if COSINE:
                    margin = of_unit_vectors(margin, length)
                tl.store(margin_ptr + out, margin, mask=live)
        finish(x, n, live, index, first, out, keep_ptr, index_ptr, gather, D, BLOCK_N, BLOCK_G)


@triton.jit(do_not_specialize=["N", "programs", "stride_g", "stride_d"])
def merge_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    keep_ptr,
    first_ptr,
    rows,
    index_ptr,
    margin_ptr,
    gather,
    parts,
    N,
    programs,
    stride_g,
    stride_n,
    stride_d,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """Puts together, in their order, the parts that search_kernel left, and writes what it would have written."""
    g = tl.program_id(1)
    first, end = tl.load(first_ptr + g), tl.load(first_ptr + g + 1)
    total = N
    if rows is not None:
        total = tl.load(rows.count + g)
    tile = tl.program_id(0)
    if tile * BLOCK_N >= total:
        return
    _, _, tiles, count = work(tile, total, end - first, programs, BLOCK_N, BLOCK_K, True)
    i = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    live = i < total
    n = vectors_of(g, i, live, rows, N)
    best = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    second = best
    index = tl.zeros((BLOCK_N,), tl.int32)
    for part in range(count):
        at = slots_of(g, part, tile, tiles, N, programs, BLOCK_N)
        score = tl.load(parts.best + at)
        if margin_ptr is not None:
            second = tl.maximum(tl.maximum(second, tl.load(parts.second + at)), tl.minimum(best, score))
        index = tl.where(score > best, tl.load(parts.index + at), index)  # strict: the earlier part keeps a tie
        best = tl.maximum(best, score)
    index = tl.where(best < float("inf"), index, 0)
    out = g.to(tl.int64) * N + n
    if margin_ptr is not None:
        margin = margin_of(best, second)
        if parts.length is not None:  # every part left the same
            margin = of_unit_vectors(margin, tl.load(parts.length + slots_of(g, 0, tile, tiles, N, programs, BLOCK_N)))
        tl.store(margin_ptr + out, margin, mask=live)
    x = Vectors(x_ptr + g.to(tl.int64) * stride_g, stride_n, stride_d, None, None)
    finish(x, n, live, index, first, out, keep_ptr, index_ptr, gather, D, BLOCK_N, BLOCK_G)


@triton.jit(do_not_specialize=["N"])
def compact_kernel(doubt_ptr, order_ptr, rows_ptr, N, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """rows (G, N): the numbers of the vectors in doubt, in their order; order (G, N): how many there are up to each."""
    i = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    base = tl.program_id(1).to(tl.int64) * N
    doubt = tl.load(doubt_ptr + base + i, mask=i < N, other=0) != 0
    order = tl.load(order_ptr + base + i, mask=i < N, other=1)
    tl.store(rows_ptr + base + order - 1, i, mask=doubt)


@triton.jit(do_not_specialize=["N", "stride_g", "stride_d"])
def gather_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    keep_ptr,
    first_ptr,
    index_ptr,
    gather,
    N,
    stride_g,
    stride_n,
    stride_d,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """What gather asks for, of indices that were chosen before; those not kept become 0."""
    g = tl.program_id(1)
    i = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = i < N
    n = i.to(tl.int64)
    out = g.to(tl.int64) * N + n
    index = tl.load(index_ptr + out, mask=live, other=0)
    x = Vectors(x_ptr + g.to(tl.int64) * stride_g, stride_n, stride_d, None, None)
    finish(x, n, live, index, tl.load(first_ptr + g), out, keep_ptr, index_ptr, gather, D, BLOCK_N, BLOCK_G)
