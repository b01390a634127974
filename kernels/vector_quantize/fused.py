"""The gradient of x in one pass on a GPU: x, the code and the gradient are read once, the result is written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqmm.kernels.tables import capability_of
from vqmm.kernels.vector_quantize.tables import TABLES


@triton.jit(do_not_specialize=["N", "x_column", "through_column"])
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
    x_column,
    through_row,
    through_column,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out (N, D) = through + 2 (x - code[row]) pull where keep, else 0.

    x and through (N, D) with any strides: from row to row, and from column to column, None for 1.
    """
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (n[:, None] < N) & (d[None, :] < D)
    keep = tl.load(keep_ptr + n, mask=n < N, other=0).to(tl.int1)
    pull = tl.load(pull_ptr + n, mask=n < N, other=0.0)
    row = tl.load(row_ptr + n, mask=n < N, other=0)
    x_at = x_ptr + n[:, None] * x_row + d[None, :] * (1 if x_column is None else x_column)
    x = tl.load(x_at, mask=inside, other=0.0)
    code = tl.load(code_ptr + row[:, None] * D + d[None, :], mask=inside, other=0.0)
    through_at = through_ptr + n[:, None] * through_row + d[None, :] * (1 if through_column is None else through_column)
    through = tl.load(through_at, mask=inside, other=0.0)
    out = tl.where(keep[:, None], through + 2 * (x - code) * pull[:, None], 0.0)
    tl.store(out_ptr + n[:, None] * D + d[None, :], out, mask=inside)


def strides_of(v_ND: Tensor) -> tuple[int, int | None]:
    """From row to row, and from column to column, None for 1.

    A stride that the number of vectors decides is no compile-time matter: one vector has the stride of two.
    """
    (n, width), (row, column) = v_ND.shape, v_ND.stride()
    return row if n > 1 or row == 0 else width, None if column == 1 or width == 1 else column


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
    config = TABLES.find(capability_of(x_GND.device), max_width=width)
    assert config is not None, "the last row has no limit"
    with torch.cuda.device_of(x_GND):
        pull_kernel[(triton.cdiv(n, config.block_n), triton.cdiv(width, config.block_d))](
            through_ND,
            pull_GN.contiguous(),
            x_ND,
            code_KD.contiguous(),
            row_GN.contiguous(),
            keep_GN.contiguous(),
            out_GND,
            n,
            width,
            *strides_of(x_ND),
            *strides_of(through_ND),
            BLOCK_N=config.block_n,
            BLOCK_D=config.block_d,
            num_warps=config.warps,
        )
    return out_GND
