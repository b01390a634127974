"""The gradient of x in one pass on a GPU: x, the code and the gradient are read once, the result is written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # numbers of x that a program holds at a time


@triton.jit(do_not_specialize=["N", "x_far", "through_far"])
def pull_kernel(  # type: ignore[no-untyped-def]
    through_ptr,
    pull_ptr,
    x_ptr,
    code_ptr,
    row_ptr,
    keep_ptr,
    out_ptr,
    N,
    D,
    x_row,
    x_far,
    through_row,
    through_far,
    X_DENSE: tl.constexpr,
    THROUGH_DENSE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out (N, D) = through + 2 (x - code[row]) pull where keep, else 0.

    x and through (N, D) with any strides: from row to row, and from column to column 1 where DENSE, else far.
    """
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (n[:, None] < N) & (d[None, :] < D)
    keep = tl.load(keep_ptr + n, mask=n < N, other=0).to(tl.int1)
    pull = tl.load(pull_ptr + n, mask=n < N, other=0.0)
    row = tl.load(row_ptr + n, mask=n < N, other=0)
    x_at = x_ptr + n[:, None] * x_row + d[None, :] * (1 if X_DENSE else x_far)
    x = tl.load(x_at, mask=inside, other=0.0)
    code = tl.load(code_ptr + row[:, None] * D + d[None, :], mask=inside, other=0.0)
    through_at = through_ptr + n[:, None] * through_row + d[None, :] * (1 if THROUGH_DENSE else through_far)
    through = tl.load(through_at, mask=inside, other=0.0)
    out = tl.where(keep[:, None], through + 2 * (x - code) * pull[:, None], 0.0)
    tl.store(out_ptr + n[:, None] * D + d[None, :], out, mask=inside)


def blocks(width: int) -> tuple[int, int]:
    """BLOCK_N and BLOCK_D for D dimensions."""
    block_d = min(256, max(16, triton.next_power_of_2(width)))
    return BLOCK // block_d, block_d


def strides_of(v_ND: Tensor) -> tuple[int, int, bool]:
    """From row to row, from column to column, and whether that is 1.

    A stride that the number of vectors decides is no compile-time matter: one vector has the stride of two.
    """
    (n, width), (row, far) = v_ND.shape, v_ND.stride()
    return row if n > 1 or row == 0 else width, far, far == 1 or width == 1


def pull_triton(
    through_GND: Tensor, pull_GN: Tensor, x_GND: Tensor, code_KD: Tensor, row_GN: Tensor, keep_GN: Tensor
) -> Tensor:
    """float32, like x: the gradient of x, straight through and from the errors. row_GN: int64 rows of code_KD."""
    width = x_GND.shape[-1]
    out_GND = torch.empty(x_GND.shape, device=x_GND.device)
    through_ND, x_ND = through_GND.reshape(-1, width), x_GND.reshape(-1, width)
    n = len(x_ND)
    if n == 0:
        return out_GND
    block_n, block_d = blocks(width)
    x_row, x_far, x_dense = strides_of(x_ND)
    through_row, through_far, through_dense = strides_of(through_ND)
    with torch.cuda.device_of(x_GND):
        pull_kernel[(triton.cdiv(n, block_n), triton.cdiv(width, block_d))](
            through_ND,
            pull_GN.contiguous(),
            x_ND,
            code_KD.contiguous(),
            row_GN.contiguous(),
            keep_GN.contiguous(),
            out_GND,
            n,
            width,
            x_row,
            x_far,
            through_row,
            through_far,
            X_DENSE=x_dense,
            THROUGH_DENSE=through_dense,
            BLOCK_N=block_n,
            BLOCK_D=block_d,
            num_warps=4,
        )
    return out_GND
