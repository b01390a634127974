"""Codebooks that are one learnt linear map of a fixed matrix, so that every gradient moves all codes at once.

What `simvq` (a random matrix) and the jointly assigned signs of `lfq` and `bsq` (signs and their products) share.
"""

import torch
from torch import Tensor, nn

from vqmm.batch import Codes
from vqmm.kernels.vector_quantize import vector_quantize
from vqmm.quantizers.base import Quantized, from_rows, grid_size, to_rows


def quantize_to(
    table: Tensor,
    rows: Tensor,
    z: Tensor,
    *,
    commitment: float,
    mask: Tensor | None = None,
    keep: Tensor | None = None,
    gradient: str = "straight-through",
) -> Quantized:
    """The nearest row of `table` (K, dim) to each of `rows` (N, dim), which stand on the grid of z (B, dim, *grid).

    `mask` is that of the grid, `keep` (N,) says which rows count, the same unless told. The loss "commitment" moves the
    rows, "codebook" the table: both of them mean squared errors of a coordinate.
    """
    keep = keep if keep is not None or mask is None else mask.reshape(-1)
    found = vector_quantize(rows, table, mask_N=keep, gradient=gradient)
    elements = max(rows.numel(), 1) if keep is None else keep.sum().clamp(min=1) * rows.shape[1]
    losses = {
        "commitment": commitment * found.error_N.sum() / elements,
        "codebook": found.code_error_N.sum() / elements,
    }
    index = found.index_N.reshape(len(z), 1, *z.shape[2:])
    vectors = from_rows(found.vectors_ND, len(z), z.shape[2:])
    return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)


def look_up(table: Tensor, codes: Codes) -> Tensor:
    """The vectors (B, dim, *grid) of codes (B, 1, *grid)."""
    index = codes.maps[0][:, 0]
    return from_rows(table[index.reshape(-1).long()], len(index), index.shape[1:])


@torch.no_grad()
def matching_map(z: Tensor, mask: Tensor | None, columns: int) -> tuple[Tensor, Tensor] | None:
    """A weight (dim, columns) and a bias (dim,) that give rows of independent numbers, each of mean 0 and variance 1,
    the mean and the covariance of z (B, dim, *grid); with fewer columns than dim, of its largest variances.

    None where z holds fewer than two vectors that count.
    """
    rows = to_rows(z)
    rows = rows[torch.isfinite(rows).all(1) & (True if mask is None else mask.reshape(-1))].double()
    if len(rows) < 2:
        return None
    variances, axes = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], -1))
    kept = min(rows.shape[1], columns)  # eigh sorts: the largest come last
    # of its own generator: every process starts the same, whatever it has drawn before
    turn = nn.init.orthogonal_(torch.empty(kept, columns).double(), generator=torch.Generator().manual_seed(0))
    return (axes * variances.clamp(min=0).sqrt())[:, -kept:] @ turn.to(rows.device), rows.mean(0)
