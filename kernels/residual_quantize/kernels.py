"""The kernels of residual_quantize: all stages on chip, one stage after its search, lookup, and the gradient of x."""

import triton
import triton.language as tl

from vqmm.kernels.nearest_code.scan import scan


@triton.jit
def at_stage(values: tl.constexpr, q):  # type: ignore[no-untyped-def]
    """values[q] for a q known only at run time."""
    value = values[0]
    for i in tl.static_range(1, len(values)):
        value = tl.where(q == i, values[i], value)
    return value


@triton.jit
def step_parked(  # type: ignore[no-untyped-def]
    parked_ptr, master_ptr, n, exists, live, row, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Takes the chosen codes from the residuals in memory, a run of columns at a time; what is left, squared (N,)."""
    error = tl.zeros((BLOCK_N,), tl.float32)
    for column in range(0, D, BLOCK_C):
        d = column + tl.arange(0, BLOCK_C)
        inside = exists[:, None] & (d[None, :] < D)
        at = parked_ptr + n[:, None] * D + d[None, :]
        left = tl.load(at, mask=inside, other=0.0)
        left -= tl.load(master_ptr + row[:, None] * D + d[None, :], mask=inside, other=0.0)
        left = tl.where(live[:, None], left, 0.0)
        tl.store(at, left, mask=inside)
        error += tl.sum(left * left, axis=1)
    return error


@triton.jit(do_not_specialize=["N"])
def quantize_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    keep_ptr,
    used_ptr,
    master_ptr,
    code_ptr,
    bias_ptr,
    shift_ptr,
    index_ptr,
    error_ptr,
    parked_ptr,
    N,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    BOOK: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DOT: tl.constexpr,
):
    """x (N, D) contiguous, keep (N,); writes index (N, Q) and error (N, Q), Q = len(FIRST).

    used (N,): how many stages each vector uses; None: all. shift: as in Codebooks; None: nothing is subtracted.
    FIRST, SIZE, BOOK: of each stage, the first row and the number of rows of its codebook, and the row of its shift.
    parked (N, D): where the residual is while a stage searches, so that the search has its registers; None: it stays in
    them. The tile is a small share of the codes that it reads meanwhile, and does not leave the cache.
    """
    Q: tl.constexpr = len(FIRST)
    start = tl.program_id(0).to(tl.int64) * BLOCK_N
    n = tl.arange(0, BLOCK_N)  # within the tile: 64-bit places of every number would take the registers of the search
    d = tl.arange(0, BLOCK_D)
    exists = n < N - start
    inside = exists[:, None] & (d[None, :] < D)
    here = n[:, None] * D + d[None, :]
    keep = tl.load(keep_ptr + start + n, mask=exists, other=0) != 0
    residual = tl.load(x_ptr + start * D + here, mask=inside, other=0.0).to(tl.float32)
    residual = tl.where(keep[:, None], residual, 0.0)
    if parked_ptr is not None:
        parked_ptr += start * D
        tl.store(parked_ptr + here, residual, mask=inside)
    used = tl.full((BLOCK_N,), Q, tl.int32)
    last = Q
    if used_ptr is not None:
        used = tl.load(used_ptr + start + n, mask=exists, other=0).to(tl.int32)
        last = tl.max(used, axis=0)  # the whole tile stops early
    index_ptr += start * Q
    error_ptr += start * Q
    for q in range(last):
        first = at_stage(FIRST, q)
        if parked_ptr is not None:
            tl.debug_barrier()  # a thread may read what another wrote
            x = tl.load(parked_ptr + here, mask=inside, other=0.0)
        else:
            x = residual
        if shift_ptr is not None:
            x -= tl.load(shift_ptr + at_stage(BOOK, q) * D + d, mask=d < D, other=0.0)[None, :]
        _, index = scan(
            x, code_ptr, bias_ptr, first, first + at_stage(SIZE, q), D, BLOCK_N, BLOCK_K, BLOCK_D, DOT, False
        )
        index = tl.where(keep, index, 0)
        row = (first + index).to(tl.int64)
        active = used > q
        if parked_ptr is not None:
            tl.debug_barrier()  # and the first reading is over
            error = step_parked(parked_ptr, master_ptr, n, exists, keep & active, row, D, BLOCK_N, BLOCK_C)
        else:
            chosen = tl.load(master_ptr + row[:, None] * D + d[None, :], mask=inside, other=0.0)
            residual = tl.where((keep & active)[:, None], residual - chosen, 0.0)
            error = tl.sum(residual * residual, axis=1)
        tl.store(index_ptr + n * Q + q, tl.where(active, index, -1), mask=exists)
        tl.store(error_ptr + n * Q + q, error, mask=exists)
    for q in range(last, Q):
        tl.store(index_ptr + n * Q + q, tl.full((BLOCK_N,), -1, tl.int32), mask=exists)
        tl.store(error_ptr + n * Q + q, tl.zeros((BLOCK_N,), tl.float32), mask=exists)


@triton.jit(do_not_specialize=["N", "first", "q", "Q"])
def step_kernel(  # type: ignore[no-untyped-def]
    residual_ptr,
    chosen_ptr,
    keep_ptr,
    used_ptr,
    master_ptr,
    index_ptr,
    error_ptr,
    N,
    first,
    q,
    Q,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One stage after its search, which chose codes (N,): residual (N, D) in place, column q of index and error.

    used: as in quantize_kernel.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK_N
    n = tl.arange(0, BLOCK_N)
    exists = n < N - start
    index = tl.load(chosen_ptr + start + n, mask=exists, other=0)
    keep = tl.load(keep_ptr + start + n, mask=exists, other=0) != 0
    active = exists
    if used_ptr is not None:
        active = tl.load(used_ptr + start + n, mask=exists, other=0) > q
    index = tl.where(keep, index, 0)
    row = (first + index).to(tl.int64)
    error = step_parked(residual_ptr + start * D, master_ptr, n, exists, keep & active, row, D, BLOCK_N, BLOCK_D)
    at = (start + n) * Q + q
    tl.store(index_ptr + at, tl.where(active, index, -1), mask=exists)
    tl.store(error_ptr + at, error, mask=exists)


@triton.jit(do_not_specialize=["N"])
def lookup_kernel(  # type: ignore[no-untyped-def]
    index_ptr,
    code_ptr,
    out_ptr,
    N,
    index_row,
    FIRST: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Codes added from zero in stage order: index (N, Q) with rows index_row apart, code (K, D), out (N, D)."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (n[:, None] < N) & (d[None, :] < D)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for q in range(len(FIRST)):
        index = tl.load(index_ptr + n * index_row + q, mask=n < N, other=-1).to(tl.int64)
        at = (at_stage(FIRST, q) + index)[:, None] * D + d[None, :]
        total += tl.load(code_ptr + at, mask=inside & (index >= 0)[:, None], other=0.0).to(tl.float32)
    tl.store(out_ptr + n[:, None] * D + d[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["N"])
def pull_kernel(  # type: ignore[no-untyped-def]
    through_ptr,
    pull_ptr,
    x_ptr,
    code_ptr,
    index_ptr,
    keep_ptr,
    out_ptr,
    N,
    index_row,
    FIRST: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """through + sum over stages of 2 pull (r_q - code_q), 0 for vectors not kept; pull (N, Q), keep (N,)."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    keep = tl.load(keep_ptr + n, mask=n < N, other=0) != 0
    inside = keep[:, None] & (d[None, :] < D)
    at_x = n[:, None] * D + d[None, :]
    residual = tl.load(x_ptr + at_x, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(through_ptr + at_x, mask=inside, other=0.0)
    for q in range(len(FIRST)):
        index = tl.load(index_ptr + n * index_row + q, mask=keep, other=-1).to(tl.int64)
        live = index >= 0
        at = (at_stage(FIRST, q) + index)[:, None] * D + d[None, :]
        residual -= tl.load(code_ptr + at, mask=inside & live[:, None], other=0.0).to(tl.float32)
        pull = tl.load(pull_ptr + n * len(FIRST) + q, mask=live, other=0.0)
        grad += tl.where(live[:, None], 2 * pull[:, None] * residual, 0.0)
    tl.store(out_ptr + at_x, grad, mask=(n[:, None] < N) & (d[None, :] < D))
