"""The kernels of nearest_code around the scan: what is done to a tile before it is searched, and after."""

import triton
import triton.language as tl

from vqmm.kernels.nearest_code.scan import high_part, load_x, scan, scan_tiled


@triton.jit
def power_of_two_below(largest):  # type: ignore[no-untyped-def]
    """A power of two that brings `largest` near 1, so that scaling by it rounds nothing."""
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 0xFF
    return (tl.minimum(tl.maximum(254 - exponent, 1), 253) << 23).to(tl.float32, bitcast=True)


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
def lengths(  # type: ignore[no-untyped-def]
    x_ptr,
    n,
    live,
    stride_n,
    stride_d,
    shift_ptr,
    scale,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    SHIFTED: tl.constexpr,
    SCALED: tl.constexpr,
):
    """|x'| and the length of what rounding to one TF32 operand takes off x', both (BLOCK_N,)."""
    length = tl.zeros((BLOCK_N,), tl.float32)
    low = tl.zeros((BLOCK_N,), tl.float32)
    for column in tl.range(0, D, BLOCK_G, num_stages=1):
        x = load_x(x_ptr, n, live, column + tl.arange(0, BLOCK_G), stride_n, stride_d, shift_ptr, D, SHIFTED)
        if SCALED:
            x *= scale[:, None]
        dropped = x - high_part(x)
        length += tl.sum(x * x, axis=1)
        low += tl.sum(dropped * dropped, axis=1)
    return tl.sqrt(length), tl.sqrt(low)


@triton.jit
def gather(  # type: ignore[no-untyped-def]
    x_ptr,
    n,
    live,
    stride_n,
    stride_d,
    keep,
    row,
    master_ptr,
    vectors_ptr,
    error_ptr,
    out,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """The chosen codes to the bit, and |x - c|^2 as the direct sum; 0 where x is not finite or not kept."""
    error = tl.zeros((BLOCK_N,), tl.float32)
    broken = tl.zeros((BLOCK_N,), tl.int32)
    for column in tl.range(0, D, BLOCK_G, num_stages=1):
        d = column + tl.arange(0, BLOCK_G)
        x = load_x(x_ptr, n, live, d, stride_n, stride_d, x_ptr, D, False)
        inside = live[:, None] & (d[None, :] < D)
        code = tl.load(master_ptr + row[:, None] * D + d[None, :], mask=inside, other=0.0)
        tl.store(vectors_ptr + out[:, None] * D + d[None, :], code, mask=inside)
        error += tl.sum((x - code) * (x - code), axis=1)
        broken = tl.maximum(broken, tl.max((x - x != 0.0).to(tl.int32), axis=1))
    tl.store(error_ptr + out, tl.where(keep & (broken == 0), error, 0.0), mask=live)


@triton.jit
def finish(  # type: ignore[no-untyped-def]
    x_ptr,
    n,
    live,
    stride_n,
    stride_d,
    index,
    margin,
    first,
    out,
    keep_ptr,
    master_ptr,
    index_ptr,
    margin_ptr,
    vectors_ptr,
    error_ptr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    KEPT: tl.constexpr,
    MARGIN: tl.constexpr,
    GATHER: tl.constexpr,
):
    """Writes what was found for the vectors n, which are rows `out` of the outputs."""
    keep = live
    if KEPT:
        keep = tl.load(keep_ptr + out, mask=live, other=0) != 0
        index = tl.where(keep, index, 0)
    tl.store(index_ptr + out, index, mask=live)
    if MARGIN:
        tl.store(margin_ptr + out, margin, mask=live)
    if GATHER:
        row = (first + index).to(tl.int64)
        gather(
            x_ptr, n, live, stride_n, stride_d, keep, row, master_ptr, vectors_ptr, error_ptr, out, D, BLOCK_N, BLOCK_G
        )


@triton.jit
def margin_of(best, second):  # type: ignore[no-untyped-def]
    """How far ahead the best score is: inf with no second, 0 with no best."""
    return tl.where((best > float("-inf")) & (best < float("inf")), best - second, 0.0)


@triton.jit
def doubtful(margin, length, low, limit_ptr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether the fast winner could lose an exact search: its margin lies within twice the two bounds.

    length, low: |x'| and what rounding took off x'; limit_ptr: max |c'|, and the most that rounding took off a code.
    The bounds: x'.c' - h.k = (x' - h).c' + h.(c' - k) for the parts h, k that were multiplied, and (D + 16) 2^-22 of
    the largest partial sum for the additions of a tensor core, which cuts where float32 rounds. The last factor covers
    the rounding of this sum itself.
    """
    code, code_low = tl.load(limit_ptr), tl.load(limit_ptr + 1)
    rounding = low * code + (length + low) * code_low
    sums = 2.0 * (D + 16) * 2.0**-22 * (length * code + 0.5 * code * code)
    bound = 2.0 * (rounding + sums) * 1.001
    return ((margin <= bound) | (bound - bound != 0.0)).to(tl.int8)


@triton.jit(do_not_specialize=["N", "stride_g", "stride_far", "programs", "slots"])
def search_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    code_ptr,
    bias_ptr,
    shift_ptr,
    first_ptr,
    limit_ptr,
    rows_ptr,
    count_ptr,
    keep_ptr,
    master_ptr,
    index_ptr,
    margin_ptr,
    vectors_ptr,
    error_ptr,
    doubt_ptr,
    part_best_ptr,
    part_index_ptr,
    part_second_ptr,
    N,
    stride_g,
    stride_n,
    stride_far,
    programs,
    slots,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_G: tl.constexpr,
    DOT: tl.constexpr,
    DENSE: tl.constexpr,
    ALIGNED: tl.constexpr,
    SHIFTED: tl.constexpr,
    COSINE: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    CERTIFY: tl.constexpr,
    KEPT: tl.constexpr,
    MARGIN: tl.constexpr,
    GATHER: tl.constexpr,
):
    """One tile of vectors (axis 0; with SPLIT, and one part of the codes) of one group (axis 1).

    x (G, N, D) with any strides; DENSE: the last is 1, else stride_far. code as packed() makes it. first (G + 1,):
    where each codebook starts; ALIGNED: at multiples of 16. ROWS: only the vectors rows (G, N), of which count (G,).
    Writes index (G, N) and, as the flags ask, margin, vectors, error, or doubt; with SPLIT instead best, index and
    second of each part, for merge_kernel. limit: see doubtful.
    """
    g = tl.program_id(1)
    first, end = tl.load(first_ptr + g), tl.load(first_ptr + g + 1)
    if ALIGNED:
        first = tl.multiple_of(first, 16)
    total = N
    if ROWS:
        total = tl.load(count_ptr + g)
    p = tl.program_id(0)
    tile, part, tiles, parts = work(p, total, end - first, programs, BLOCK_N, BLOCK_K, SPLIT)
    if (part >= parts) | (tile * BLOCK_N >= total):
        return
    i = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    live = i < total
    n = i.to(tl.int64)
    if ROWS:
        n = tl.load(rows_ptr + g.to(tl.int64) * N + i, mask=live, other=0).to(tl.int64)
    start, last = first, end
    if SPLIT:
        run = tl.cdiv(tl.cdiv(end - first, BLOCK_K), parts) * BLOCK_K
        start = tl.minimum(first + part * run, end)
        last = tl.minimum(start + run, end)
    stride_d = 1 if DENSE else stride_far
    SECOND: tl.constexpr = MARGIN or CERTIFY
    RESIDENT: tl.constexpr = BLOCK_D >= D
    x_ptr += g.to(tl.int64) * stride_g
    if SHIFTED:
        shift_ptr += g * D
    scale = tl.full((BLOCK_N,), 1.0, tl.float32)
    x = load_x(x_ptr, n, live, tl.arange(0, BLOCK_D), stride_n, stride_d, shift_ptr, D, SHIFTED)
    if COSINE:  # the winner does not depend on |x|, as long as nothing overflows
        largest = tl.max(tl.where(x == x, tl.abs(x), 0.0), axis=1)
        if not RESIDENT:
            for column in range(BLOCK_D, D, BLOCK_D):
                d = column + tl.arange(0, BLOCK_D)
                wide = load_x(x_ptr, n, live, d, stride_n, stride_d, shift_ptr, D, SHIFTED)
                largest = tl.maximum(largest, tl.max(tl.where(wide == wide, tl.abs(wide), 0.0), axis=1))
        scale = power_of_two_below(largest)
        x *= scale[:, None]
    if RESIDENT:
        found = scan(x, code_ptr, bias_ptr, start, last, D, BLOCK_N, BLOCK_K, BLOCK_D, DOT, SECOND)
    else:
        found = scan_tiled(
            x_ptr, n, live, stride_n, stride_d, shift_ptr, scale, code_ptr, bias_ptr, start, last,
            D, BLOCK_N, BLOCK_K, BLOCK_D, DOT, SECOND, SHIFTED, COSINE,
        )  # fmt: skip
    best, index = found[0], found[1] + (start - first)
    length, low = best, best
    if CERTIFY or (COSINE and MARGIN):  # read once more: kept through the loop, they would crowd the registers
        length, low = lengths(
            x_ptr, n, live, stride_n, stride_d, shift_ptr, scale, D, BLOCK_N, BLOCK_G, SHIFTED, COSINE
        )
    out = g.to(tl.int64) * N + n
    if SPLIT:
        at = g.to(tl.int64) * slots + (part * tiles + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        tl.store(part_best_ptr + at, best)
        tl.store(part_index_ptr + at, index)
        if MARGIN:
            tl.store(part_second_ptr + at, found[2])
            if COSINE:  # for the merge; every part writes the same
                tl.store(margin_ptr + out, length, mask=live)
    else:
        margin = best
        if SECOND:
            margin = margin_of(best, found[2])
        if CERTIFY:
            tl.store(doubt_ptr + out, doubtful(margin, length, low, limit_ptr + 2 * g, D), mask=live)
        if COSINE and MARGIN:
            margin = margin / tl.where(length > 0.0, length, 1.0)
        finish(
            x_ptr, n, live, stride_n, stride_d, index, margin, first, out, keep_ptr, master_ptr,
            index_ptr, margin_ptr, vectors_ptr, error_ptr, D, BLOCK_N, BLOCK_G, KEPT, MARGIN, GATHER,
        )  # fmt: skip


@triton.jit(do_not_specialize=["N", "stride_g", "stride_far", "programs", "slots"])
def merge_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    first_ptr,
    rows_ptr,
    count_ptr,
    keep_ptr,
    master_ptr,
    index_ptr,
    margin_ptr,
    vectors_ptr,
    error_ptr,
    part_best_ptr,
    part_index_ptr,
    part_second_ptr,
    N,
    stride_g,
    stride_n,
    stride_far,
    programs,
    slots,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_G: tl.constexpr,
    DENSE: tl.constexpr,
    COSINE: tl.constexpr,
    ROWS: tl.constexpr,
    KEPT: tl.constexpr,
    MARGIN: tl.constexpr,
    GATHER: tl.constexpr,
):
    """Puts together, in their order, the parts that search_kernel left, and writes what it would have written."""
    g = tl.program_id(1)
    first, end = tl.load(first_ptr + g), tl.load(first_ptr + g + 1)
    total = N
    if ROWS:
        total = tl.load(count_ptr + g)
    tile = tl.program_id(0)
    if tile * BLOCK_N >= total:
        return
    _, _, tiles, parts = work(tile, total, end - first, programs, BLOCK_N, BLOCK_K, True)
    i = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    live = i < total
    n = i.to(tl.int64)
    if ROWS:
        n = tl.load(rows_ptr + g.to(tl.int64) * N + i, mask=live, other=0).to(tl.int64)
    best = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    second = best
    index = tl.zeros((BLOCK_N,), tl.int32)
    for part in range(parts):
        at = g.to(tl.int64) * slots + (part * tiles + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        score = tl.load(part_best_ptr + at)
        if MARGIN:
            second = tl.maximum(tl.maximum(second, tl.load(part_second_ptr + at)), tl.minimum(best, score))
        index = tl.where(score > best, tl.load(part_index_ptr + at), index)  # strict: the earlier part keeps a tie
        best = tl.maximum(best, score)
    index = tl.where(best < float("inf"), index, 0)
    out = g.to(tl.int64) * N + n
    margin = best
    if MARGIN:
        margin = margin_of(best, second)
        if COSINE:
            length = tl.load(margin_ptr + out, mask=live, other=1.0)
            margin = margin / tl.where(length > 0.0, length, 1.0)
    finish(
        x_ptr + g.to(tl.int64) * stride_g, n, live, stride_n, 1 if DENSE else stride_far, index, margin, first, out,
        keep_ptr, master_ptr, index_ptr, margin_ptr, vectors_ptr, error_ptr,
        D, BLOCK_N, BLOCK_G, KEPT, MARGIN, GATHER,
    )  # fmt: skip


@triton.jit(do_not_specialize=["N"])
def compact_kernel(doubt_ptr, order_ptr, rows_ptr, N, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """rows (G, N): the numbers of the vectors in doubt, in their order; order (G, N): how many there are up to each."""
    i = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    base = tl.program_id(1).to(tl.int64) * N
    doubt = tl.load(doubt_ptr + base + i, mask=i < N, other=0) != 0
    order = tl.load(order_ptr + base + i, mask=i < N, other=1)
    tl.store(rows_ptr + base + order - 1, i, mask=doubt)


@triton.jit(do_not_specialize=["N", "stride_g", "stride_far"])
def gather_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    first_ptr,
    keep_ptr,
    master_ptr,
    index_ptr,
    vectors_ptr,
    error_ptr,
    N,
    stride_g,
    stride_n,
    stride_far,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    DENSE: tl.constexpr,
    KEPT: tl.constexpr,
):
    """vectors and error for indices that were found before; those not kept become 0."""
    g = tl.program_id(1)
    i = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = i < N
    n = i.to(tl.int64)
    out = g.to(tl.int64) * N + n
    index = tl.load(index_ptr + out, mask=live, other=0)
    finish(
        x_ptr + g.to(tl.int64) * stride_g, n, live, stride_n, 1 if DENSE else stride_far, index, index,
        tl.load(first_ptr + g), out, keep_ptr, master_ptr, index_ptr, index_ptr, vectors_ptr, error_ptr,
        D, BLOCK_N, BLOCK_G, KEPT, False, True,
    )  # fmt: skip
