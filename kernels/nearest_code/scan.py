"""The search itself, as Triton functions that any kernel can call: a tile of vectors on chip against a run of codes.

Inner loop: a product, one compare and two selects. The best value and the number of its tile are kept for every lane of
the tile through the whole loop; lanes are compared once, at the end.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


class Vectors(NamedTuple):
    """The vectors of one group inside a kernel: where they are, and what is done to each as it is read."""

    ptr: Any  # of the group's first; any floating type
    stride_n: Any  # from vector to vector
    stride_d: Any  # from coordinate to coordinate; None: 1
    shift: Any  # float32 (D,), subtracted; None: nothing is
    scale: Any  # float32 (BLOCK_N,), what each of the tile's vectors is then multiplied by; None: nothing


@triton.jit
def columns(x, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first D columns of a tile as a tuple of vectors, for products without tensor cores."""
    at = tl.arange(0, x.shape[1])
    out = ()
    for d in tl.static_range(D):
        out = out + (tl.sum(tl.where(at[None, :] == d, x, 0.0), axis=1),)  # type: ignore[assignment] # noqa: RUF005
    return out


@triton.jit
def high_part(x):  # type: ignore[no-untyped-def]
    """x rounded to the 11 significant bits of TF32 (to the nearest, halves away from 0); x itself near overflow."""
    bits = x.to(tl.int32, bitcast=True)
    high = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(high) < float("inf"), high, x)


@triton.jit
def as_read(x, DOT: tl.constexpr):  # type: ignore[no-untyped-def]
    """What a tensor core reads of a float32. The interpreter reads all of it, unless it is rounded here."""
    if INTERPRETED and DOT == "tf32":  # the hardware ignores the lowest 13 bits
        x = (x.to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)
    elif INTERPRETED and DOT == "bf16":  # the interpreter multiplies the bits of bfloat16 as integers
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    elif DOT == "bf16":
        x = x.to(tl.bfloat16)
    return x


@triton.jit
def operand(x, D: tl.constexpr, DOT: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile of vectors as `products` takes it: what does not change through the loop."""
    if DOT == "fma":
        parts = columns(x, D)
    elif DOT == "split":
        high = high_part(x)
        parts = (high, as_read(x - high, "tf32"))
    elif DOT == "high" or DOT == "tf32":  # rounded, where the hardware would cut
        parts = (high_part(x),)
    else:
        parts = (as_read(x, DOT),)
    return parts


@triton.jit
def load_code(at, inside, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Numbers of the codebook; MASKED: 0 where they are not inside."""
    return tl.load(at, mask=inside, other=0.0) if MASKED else tl.load(at)


@triton.jit
def biases(bias_ptr, k, last, BLOCK_N: tl.constexpr, TAIL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where the scores start, (BLOCK_N, BLOCK_K). A code past the end has -inf: a zero operand alone could win."""
    bias = tl.load(bias_ptr + k, mask=k < last, other=float("-inf")) if TAIL else tl.load(bias_ptr + k)
    return tl.broadcast_to(bias[None, :], (BLOCK_N, k.shape[0]))


@triton.jit
def products(  # type: ignore[no-untyped-def]
    parts, score, code_ptr, k, d, last, D: tl.constexpr, DOT: tl.constexpr, TAIL: tl.constexpr, MASKED_D: tl.constexpr
):
    """score + x . code over the columns d, for the codes in the rows k; with TAIL only those before `last` are read."""
    PITCH: tl.constexpr = 2 * D if DOT == "split" or DOT == "high" else D
    row = code_ptr + k.to(tl.int64) * PITCH
    if DOT == "fma":
        for i in tl.static_range(D):
            code = load_code(row + i, k < last, TAIL)
            score += parts[i][:, None] * code[None, :]
    else:
        at = row[None, :] + d[:, None]
        inside = (d[:, None] < D) & (k[None, :] < last)
        code = load_code(at, inside, TAIL or MASKED_D)
        if DOT == "split":
            low = as_read(load_code(at + D, inside, TAIL or MASKED_D), "tf32")
            score = tl.dot(parts[1], code, score, input_precision="tf32")
            score = tl.dot(parts[0], low, score, input_precision="tf32")
            score = tl.dot(parts[0], code, score, input_precision="tf32")
        elif DOT == "high":
            score = tl.dot(parts[0], code, score, input_precision="tf32")
        elif DOT == "bf16":
            score = tl.dot(parts[0], as_read(code, DOT), score, input_precision="ieee")
        else:
            score = tl.dot(parts[0], as_read(code, DOT), score, input_precision=DOT)
    return score


@triton.jit
def lanes_of(BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # type: ignore[no-untyped-def]
    """What a search starts from: best, tile and second of every lane."""
    nothing = tl.full((BLOCK_N, BLOCK_K), float("-inf"), tl.float32)
    return nothing, tl.zeros((BLOCK_N, BLOCK_K), tl.int32), nothing


@triton.jit
def as_compared(score):  # type: ignore[no-untyped-def]
    """The hardware's maximum passes over NaN; the interpreter's does not, unless there is none."""
    if INTERPRETED:
        score = tl.where(score == score, score, float("-inf"))
    return score


@triton.jit
def keep_best(score, t, best, tile, second, MARGIN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Lane by lane: the best so far, the tile it came from and, with MARGIN, the second best."""
    score = as_compared(score)
    if MARGIN:
        second = tl.maximum(second, tl.minimum(score, best))
    tile = tl.where(score > best, t, tile)  # strict: the earlier tile keeps a tie, and NaN never wins
    return tl.maximum(best, score), tile, second  # a maximum, so that no predicate outlives its select


@triton.jit
def across_lanes(best, tile, second, MARGIN: tl.constexpr):  # type: ignore[no-untyped-def]
    """(best_N, index_N[, second_N]) of what keep_best kept: the highest value, the lowest index among equals."""
    lane = tl.arange(0, best.shape[1])
    most = tl.max(best, axis=1)
    at = tile * best.shape[1] + lane[None, :]
    index = tl.min(tl.where(best == most[:, None], at, 2147483647), axis=1)
    if MARGIN:
        other = tl.max(tl.where(at == index[:, None], second, best), axis=1)
    any_score = (most > float("-inf")) & (most < float("inf"))  # else the vector is not finite, or no code is
    index = tl.where(any_score, index, 0)
    return (most, index, other) if MARGIN else (most, index)


@triton.jit
def scan(  # type: ignore[no-untyped-def]
    x,
    code_ptr,
    bias_ptr,
    first,
    last,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT: tl.constexpr,
    MARGIN: tl.constexpr,
):
    """The best code of rows first to last (excluded) for each vector of a tile on chip.

    x: (BLOCK_N, BLOCK_D) float32, already centred or scaled, 0 beyond D. BLOCK_D >= D, a power of two, 16 or more.
    code_ptr: the codebook as packed() makes it for DOT, contiguous: (K, D) float32 for "tf32x3", "tf32" and "fma"
        (what prepare() leaves), (K, D) bfloat16 or float32 for "bf16", (K, 2 D) float32 for "split" and "high".
    bias_ptr: (K,) float32, -inf for a code that may not win.
    first, last: integers; int32 is enough. The loop loads wider where the compiler can see that `first` is even.
    DOT: float32-equivalent: "split" (three TF32 products of high and low parts, the codebook's made beforehand: half
        the instructions of tf32x3), "tf32x3" (the same, parts made here), "fma" (no tensor cores; D up to 16).
        One product: "tf32", "bf16", or "high" (the high parts of "split" alone).

    Returns best_N (float32, -inf when no score is a number), index_N (int32, counted from `first`; the lowest among
    equals; 0 when the best is not finite) and, with MARGIN, second_N (float32, -inf when there is no second).
    """
    lane = tl.arange(0, BLOCK_K)
    d = tl.arange(0, BLOCK_D)
    best, tile, second = lanes_of(BLOCK_N, BLOCK_K)
    parts = operand(x, D, DOT)
    codes = last - first
    full = codes // BLOCK_K
    for t in range(full):
        k = first + t * BLOCK_K + lane
        score = biases(bias_ptr, k, last, BLOCK_N, False)
        score = products(parts, score, code_ptr, k, d, last, D, DOT, False, D < BLOCK_D)
        best, tile, second = keep_best(score, t, best, tile, second, MARGIN)
    # The tail by itself, so that the loop needs no masks. Asked of the number alone, which the compiler may know: where
    # it learns only later that a tail is empty (from first + codes < last), Triton 3.6 trips over the masks.
    if full * BLOCK_K < codes:
        k = first + full * BLOCK_K + lane
        score = biases(bias_ptr, k, last, BLOCK_N, True)
        score = products(parts, score, code_ptr, k, d, last, D, DOT, True, D < BLOCK_D)
        best, tile, second = keep_best(score, full, best, tile, second, MARGIN)
    return across_lanes(best, tile, second, MARGIN)


@triton.jit
def load_x(x, n, live, d, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Columns d of the vectors n (BLOCK_N,) as float32, shifted and scaled; what is not live reads as 0."""
    inside = live[:, None] & (d[None, :] < D)
    at = x.ptr + n[:, None] * x.stride_n + d[None, :] * (1 if x.stride_d is None else x.stride_d)
    tile = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if x.shift is not None:
        tile -= tl.load(x.shift + d, mask=d < D, other=0.0)[None, :]
    if x.scale is not None:
        tile *= x.scale[:, None]
    return tile


@triton.jit
def keep_best_of_tile(score, start, best, index, second, MARGIN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row by row, for searches whose products cost so much that a reduction of every tile does not count."""
    score = as_compared(score)
    lane = tl.arange(0, score.shape[1])
    most = tl.max(score, axis=1)
    at = tl.min(tl.where(score == most[:, None], lane[None, :], 2147483647), axis=1)
    if MARGIN:
        other = tl.max(tl.where(lane[None, :] == at[:, None], float("-inf"), score), axis=1)
        second = tl.maximum(tl.maximum(second, other), tl.minimum(best, most))
    index = tl.where(most > best, start + at, index)  # strict: the earlier tile keeps a tie
    return tl.maximum(best, most), index, second


@triton.jit
def scan_tiled(  # type: ignore[no-untyped-def]
    x,
    n,
    live,
    code_ptr,
    bias_ptr,
    first,
    last,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT: tl.constexpr,
    MARGIN: tl.constexpr,
):
    """As scan, for vectors too wide to stay on chip: they are read, shifted and scaled again for each tile of codes.

    Not for DOT "fma". x: Vectors. n, live: (BLOCK_N,), the rows of x and which of them exist.
    """
    best = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    second = best
    index = tl.zeros((BLOCK_N,), tl.int32)
    for start in range(0, last - first, BLOCK_K):
        k = first + start + tl.arange(0, BLOCK_K)
        score = biases(bias_ptr, k, last, BLOCK_N, True)
        for column in range(0, D, BLOCK_D):
            d = column + tl.arange(0, BLOCK_D)
            parts = operand(load_x(x, n, live, d, D), D, DOT)
            score = products(parts, score, code_ptr, k, d, last, D, DOT, True, True)
        best, index, second = keep_best_of_tile(score, start, best, index, second, MARGIN)
    index = tl.where((best > float("-inf")) & (best < float("inf")), index, 0)
    return (best, index, second) if MARGIN else (best, index)


@triton.jit
def pack_kernel(  # type: ignore[no-untyped-def]
    code_ptr, split_ptr, size_ptr, K, D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr
):
    """size (2, K): |c|, and the length of what one TF32 product drops of c, of code (K, D).

    split (K, 2 D), or None: the codebook as products() reads it for "split" and "high", which multiply the high parts
    that are rounded here; others multiply what the hardware cuts off.
    """
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    size = tl.zeros((BLOCK_K,), tl.float32)
    dropped = size
    for column in range(0, D, BLOCK_G):
        d = column + tl.arange(0, BLOCK_G)
        inside = (k[:, None] < K) & (d[None, :] < D)
        code = tl.load(code_ptr + k.to(tl.int64)[:, None] * D + d[None, :], mask=inside, other=0.0)
        if split_ptr is not None:
            high = high_part(code)
            at = split_ptr + k.to(tl.int64)[:, None] * (2 * D) + d[None, :]
            tl.store(at, high, mask=inside)
            tl.store(at + D, code - high, mask=inside)
        else:  # the hardware ignores the lowest 13 bits
            high = (code.to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)
        size += tl.sum(code * code, axis=1)
        dropped += tl.sum((code - high) * (code - high), axis=1)
    tl.store(size_ptr + k, tl.sqrt(size), mask=k < K)
    tl.store(size_ptr + K + k, tl.sqrt(dropped), mask=k < K)
