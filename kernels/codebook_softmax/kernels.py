"""The Triton kernels of codebook_softmax: each recomputes a tile of scores from the two operands.

What a launch has no use for is None, and no part of the kernel that is compiled for it.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from vqmm.kernels.codebook_softmax.plain import ABSENT

LOWEST: tl.constexpr = tl.constexpr(-1e36)  # score of a lane past the last code: below NEVER
ABSENT_PEAK: tl.constexpr = tl.constexpr(ABSENT)


class Noise(NamedTuple):
    """Where the Gumbel noise of a pair comes from."""

    row: Any  # int32 (N,): hashes of the vectors
    column: Any  # int32 (K,): hashes of the codes
    rate: Any  # float32 (1,): what noise is multiplied by


class Pulls(NamedTuple):
    """Gradients of the outputs, as in plain.Pulls; None: there is none."""

    base: Any  # (N,)
    entropy: Any  # (N,)
    cross: Any  # (N,)
    usage: Any  # (K,)
    vectors: Any  # (N, D), padded as the queries are


@triton.jit
def noise_of(h):  # type: ignore[no-untyped-def]
    """Gumbel noise of a pair's hash, uint32. The same uniform numbers as reference.uniform, to the bit."""
    h = h ^ (h >> 16)
    h = h * 0x7FEB352D
    h = h ^ (h >> 15)
    h = h * 0x846CA68B
    h = h ^ (h >> 16)
    u = ((h & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10  # 2^-31
    u = tl.minimum(u, 0.99999994)
    # -log(1 - u): its series where 1 - u would round u away (the terms left out are below 1e-8 of it)
    small = u * (1 + u * (0.5 + u * (0.33333333 + u * (0.25 + u * (0.2 + u * 0.16666667)))))
    return -tl.log(tl.where(u < 0.0625, small, -tl.log(1 - u)))


@triton.jit
def rows(ptr, at, here, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whole rows of a contiguous matrix of width D; 0 where there is none."""
    return tl.load(ptr + at[:, None] * D + tl.arange(0, D)[None, :], mask=here[:, None], other=0.0)


@triton.jit
def scores(left, right, bias, hash_left, hash_right, rate, PRODUCT: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile of scores, codes and vectors either way round: product, bias and, where there is a rate, noise."""
    s = tl.dot(left, right, input_precision=PRODUCT) + bias
    if rate is not None:
        h = hash_left[:, None].to(tl.uint32, bitcast=True) ^ hash_right[None, :].to(tl.uint32, bitcast=True)
        s += rate * noise_of(h)
    return s


@triton.jit(do_not_specialize=["N", "K", "WIDTH"])
def forward_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    code_ptr,
    bias_ptr,
    keep_ptr,
    target_ptr,
    noise,
    log_sum_ptr,
    entropy_ptr,
    cross_ptr,
    vectors_ptr,
    index_ptr,
    peak_ptr,
    rest_ptr,
    N,
    K,
    WIDTH,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """query (N, D) and code (K, D) contiguous, D a power of two; vectors (N, WIDTH). One program: BLOCK_N vectors."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, D)
    here = n < N
    query = rows(query_ptr, n, here, D)
    row = tl.load(noise.row + n, mask=here, other=0) if noise is not None else None
    rate = tl.load(noise.rate) if noise is not None else None
    peak = tl.full((BLOCK_N,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)  # sum of exp(s - peak)
    slope = tl.zeros((BLOCK_N,), tl.float32)  # sum of exp(s - peak) (s - peak)
    index = tl.zeros((BLOCK_N,), tl.int32)
    if target_ptr is not None:
        target = tl.load(target_ptr + n, mask=here, other=-1)
        aim = tl.full((BLOCK_N,), LOWEST, tl.float32)
    if vectors_ptr is not None:
        soft = tl.zeros((BLOCK_N, D), tl.float32)
    for first in range(0, K, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        code = rows(code_ptr, k.to(tl.int64), k < K, D)
        bias = tl.load(bias_ptr + k, mask=k < K, other=LOWEST)
        column = tl.load(noise.column + k, mask=k < K, other=0) if noise is not None else None
        s = scores(query, code.T, bias[None, :], row, column, rate, PRODUCT)
        top = tl.max(s, 1)
        at = tl.min(tl.where(s == top[:, None], k[None, :], K), 1)  # the lowest of equals
        index = tl.where(top > peak, at, index)  # strict: an earlier tile keeps a tie
        if target_ptr is not None:
            aim = tl.maximum(aim, tl.max(tl.where(k[None, :] == target[:, None], s, LOWEST), 1))
        new = tl.maximum(peak, top)
        drop = peak - new
        scale = tl.exp(drop)
        s -= new[:, None]
        e = tl.exp(s)
        slope = scale * (slope + drop * total) + tl.sum(e * s, 1)
        total = scale * total + tl.sum(e, 1)
        if vectors_ptr is not None:
            soft = tl.dot(e, code, soft * scale[:, None], input_precision=PRODUCT)
        peak = new
    keep = tl.load(keep_ptr + n, mask=here, other=0) != 0
    rest = tl.log(total)
    tl.store(log_sum_ptr + n, tl.where(keep, peak + rest, 0.0), mask=here)
    tl.store(entropy_ptr + n, tl.where(keep, tl.maximum(rest - slope / total, 0.0), 0.0), mask=here)
    tl.store(index_ptr + n, tl.where(keep, index, 0), mask=here)
    tl.store(peak_ptr + n, tl.where(keep, peak, ABSENT_PEAK), mask=here)
    tl.store(rest_ptr + n, tl.where(keep, rest, 0.0), mask=here)
    if target_ptr is not None:
        tl.store(cross_ptr + n, tl.where(keep, rest + (peak - aim), 0.0), mask=here)
    if vectors_ptr is not None:
        soft = tl.where(keep[:, None], soft / total[:, None], 0.0)
        tl.store(vectors_ptr + n[:, None] * WIDTH + d[None, :], soft, mask=here[:, None] & (d[None, :] < WIDTH))


@triton.jit(do_not_specialize=["N", "K", "SHARE"])
def usage_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    code_ptr,
    bias_ptr,
    noise,
    peak_ptr,
    rest_ptr,
    part_ptr,
    N,
    K,
    SHARE,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """part (shares, K): the sum of p over a share of SHARE vectors. One program: BLOCK_K codes, one share."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    begin = tl.program_id(1).to(tl.int64) * SHARE
    end = tl.minimum(begin + SHARE, N)
    code = rows(code_ptr, k.to(tl.int64), k < K, D)
    bias = tl.load(bias_ptr + k, mask=k < K, other=LOWEST)
    column = tl.load(noise.column + k, mask=k < K, other=0) if noise is not None else None
    rate = tl.load(noise.rate) if noise is not None else None
    used = tl.zeros((BLOCK_K,), tl.float32)
    for first in range(begin, end, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        here = n < end
        query = rows(query_ptr, n, here, D)
        row = tl.load(noise.row + n, mask=here, other=0) if noise is not None else None
        peak = tl.load(peak_ptr + n, mask=here, other=ABSENT_PEAK)
        rest = tl.load(rest_ptr + n, mask=here, other=0.0)
        s = scores(code, query.T, bias[:, None], column, row, rate, PRODUCT)
        used += tl.sum(tl.exp(s - peak[None, :] - rest[None, :]), 1)
    tl.store(part_ptr + tl.program_id(1).to(tl.int64) * K + k, used, mask=k < K)


@triton.jit(do_not_specialize=["N", "K", "WIDTH"])
def backward_x_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    code_ptr,
    bias_ptr,
    target_ptr,
    noise,
    peak_ptr,
    rest_ptr,
    pulls,
    grad_ptr,
    N,
    K,
    WIDTH,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """grad (N, WIDTH) of the vectors; base (N,) loses sum_j p_j usage_j, for backward_code_kernel. Tiles as forward."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, D)
    here = n < N
    query = rows(query_ptr, n, here, D)
    row = tl.load(noise.row + n, mask=here, other=0) if noise is not None else None
    rate = tl.load(noise.rate) if noise is not None else None
    peak = tl.load(peak_ptr + n, mask=here, other=ABSENT_PEAK)
    rest = tl.load(rest_ptr + n, mask=here, other=0.0)
    base = tl.load(pulls.base + n, mask=here, other=0.0)
    if pulls.usage is not None:
        mean = tl.zeros((BLOCK_N,), tl.float32)
        for first in range(0, K, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            code = rows(code_ptr, k.to(tl.int64), k < K, D)
            bias = tl.load(bias_ptr + k, mask=k < K, other=LOWEST)
            column = tl.load(noise.column + k, mask=k < K, other=0) if noise is not None else None
            s = scores(query, code.T, bias[None, :], row, column, rate, PRODUCT)
            pull_usage = tl.load(pulls.usage + k, mask=k < K, other=0.0)
            mean += tl.sum(tl.exp(s - peak[:, None] - rest[:, None]) * pull_usage[None, :], 1)
        base -= mean
        tl.store(pulls.base + n, base, mask=here)
    if grad_ptr is not None:
        if pulls.entropy is not None:
            pull_entropy = tl.load(pulls.entropy + n, mask=here, other=0.0)
        if pulls.cross is not None:
            target = tl.load(target_ptr + n, mask=here, other=-1)
            pull_cross = tl.load(pulls.cross + n, mask=here, other=0.0)
        if pulls.vectors is not None:
            pull_vectors = rows(pulls.vectors, n, here, D)
        grad = tl.zeros((BLOCK_N, D), tl.float32)
        for first in range(0, K, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            code = rows(code_ptr, k.to(tl.int64), k < K, D)
            bias = tl.load(bias_ptr + k, mask=k < K, other=LOWEST)
            column = tl.load(noise.column + k, mask=k < K, other=0) if noise is not None else None
            s = scores(query, code.T, bias[None, :], row, column, rate, PRODUCT)
            log_p = s - peak[:, None] - rest[:, None]
            p = tl.exp(log_p)
            pull = tl.zeros((BLOCK_N, BLOCK_K), tl.float32) + base[:, None]
            if pulls.usage is not None:
                pull += tl.load(pulls.usage + k, mask=k < K, other=0.0)[None, :]
            if pulls.vectors is not None:
                pull = tl.dot(pull_vectors, code.T, pull, input_precision=PRODUCT)
            pull *= p
            if pulls.entropy is not None:
                pull -= pull_entropy[:, None] * (p * log_p)  # the small product first: it is 0, not NaN, where p is 0
            if pulls.cross is not None:
                pull -= tl.where(k[None, :] == target[:, None], pull_cross[:, None], 0.0)
            grad = tl.dot(pull, code, grad, input_precision=PRODUCT)
        tl.store(grad_ptr + n[:, None] * WIDTH + d[None, :], grad, mask=here[:, None] & (d[None, :] < WIDTH))


@triton.jit(do_not_specialize=["N", "K", "WIDTH", "SHARE"])
def backward_code_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    code_ptr,
    bias_ptr,
    target_ptr,
    noise,
    peak_ptr,
    rest_ptr,
    pulls,
    part_ptr,
    part_bias_ptr,
    N,
    K,
    WIDTH,
    SHARE,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """part (shares, K, WIDTH) and part_bias (shares, K): gradients from a share of SHARE vectors. Tiles as usage."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    begin = tl.program_id(1).to(tl.int64) * SHARE
    end = tl.minimum(begin + SHARE, N)
    d = tl.arange(0, D)
    code = rows(code_ptr, k.to(tl.int64), k < K, D)
    bias = tl.load(bias_ptr + k, mask=k < K, other=LOWEST)
    column = tl.load(noise.column + k, mask=k < K, other=0) if noise is not None else None
    rate = tl.load(noise.rate) if noise is not None else None
    if pulls.usage is not None:
        pull_usage = tl.load(pulls.usage + k, mask=k < K, other=0.0)
    grad = tl.zeros((BLOCK_K, D), tl.float32)
    grad_bias = tl.zeros((BLOCK_K,), tl.float32)
    for first in range(begin, end, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        here = n < end
        query = rows(query_ptr, n, here, D)
        row = tl.load(noise.row + n, mask=here, other=0) if noise is not None else None
        peak = tl.load(peak_ptr + n, mask=here, other=ABSENT_PEAK)
        rest = tl.load(rest_ptr + n, mask=here, other=0.0)
        s = scores(code, query.T, bias[:, None], column, row, rate, PRODUCT)
        log_p = s - peak[None, :] - rest[None, :]
        p = tl.exp(log_p)
        pull = tl.zeros((BLOCK_K, BLOCK_N), tl.float32) + tl.load(pulls.base + n, mask=here, other=0.0)[None, :]
        if pulls.usage is not None:
            pull += pull_usage[:, None]
        if pulls.vectors is not None:
            pull_vectors = rows(pulls.vectors, n, here, D)
            pull = tl.dot(code, pull_vectors.T, pull, input_precision=PRODUCT)
            grad = tl.dot(p, pull_vectors, grad, input_precision=PRODUCT)
        pull *= p
        if pulls.entropy is not None:
            pull -= tl.load(pulls.entropy + n, mask=here, other=0.0)[None, :] * (p * log_p)
        if pulls.cross is not None:
            target = tl.load(target_ptr + n, mask=here, other=-1)
            pull_cross = tl.load(pulls.cross + n, mask=here, other=0.0)
            pull -= tl.where(k[:, None] == target[None, :], pull_cross[None, :], 0.0)
        grad_bias += tl.sum(pull, 1)
        grad = tl.dot(pull, query, grad, input_precision=PRODUCT)
    at = tl.program_id(1).to(tl.int64) * K + k
    tl.store(part_ptr + at[:, None] * WIDTH + d[None, :], grad, mask=(k[:, None] < K) & (d[None, :] < WIDTH))
    tl.store(part_bias_ptr + at, grad_bias, mask=k < K)
