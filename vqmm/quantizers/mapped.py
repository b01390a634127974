"""Codebooks that are one learnt linear map of a fixed matrix, so that every gradient moves all codes at once.

What `simvq` (a random matrix) and the jointly assigned signs of `lfq` and `bsq` (signs and their products) share.
"""

import torch
from torch import Tensor

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, from_rows, grid_size, to_rows
from vqmm.kernels.vector_quantize import vector_quantize


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
    result = vector_quantize(rows, table, mask_N=keep, gradient=gradient)
    elements = max(rows.numel(), 1) if keep is None else keep.sum().clamp(min=1) * rows.shape[1]
    losses = {
        "commitment": commitment * result.error_N.sum() / elements,
        "codebook": result.code_error_N.sum() / elements,
    }
    index = result.index_N.reshape(len(z), 1, *z.shape[2:])
    vectors = from_rows(result.vectors_ND, len(z), z.shape[2:])
    return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)


def look_up(table: Tensor, codes: Codes) -> Tensor:
    """The vectors (B, dim, *grid) of codes (B, 1, *grid)."""
    index = codes.maps[0][:, 0]
    return from_rows(table[index.reshape(-1).long()], len(index), index.shape[1:])


def walsh_sums(coefficients: Tensor) -> Tensor:
    """(2^n, dim) to (2^n, dim): row k is the sum of all coefficients, row j times the product of the signs that the
    bits of j choose among those of k, 1 for plus.

    By the butterflies of a fast Walsh-Hadamard transform: O(n 2^n dim), and no matrix of signs.
    """
    sums, dim = coefficients, coefficients.shape[1]
    for bit in range((len(coefficients) - 1).bit_length()):
        without, product = sums.reshape(-1, 2, 2**bit, dim).unbind(1)
        sums = torch.stack((without - product, without + product), 1)
    return sums.reshape(-1, dim)


@torch.no_grad()
def starting_map(z: Tensor, mask: Tensor | None, spreads: Tensor, codebook_size: int) -> tuple[Tensor, Tensor] | None:
    """A weight (dim, columns) and a bias (dim,) that lay rows of independent numbers, of mean 0 and the standard
    deviations `spreads` (columns,), along the directions in which z (B, dim, *grid) varies most.

    There are log2 K such directions at most: with less than a bit each, codes tell none of them apart. The rows get the
    mean of z and its variance along all those directions together, but shared out by its standard deviations: as codes
    and latents draw each other nearer, a direction of little variance would soon have none.

    None where z holds fewer than two vectors that count.
    """
    rows = to_rows(z)
    rows = rows[torch.isfinite(rows).all(1) & (True if mask is None else mask.reshape(-1))].double()
    if len(rows) < 2:
        return None
    variances, axes = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], -1))
    kept = min(rows.shape[1], len(spreads), max((codebook_size - 1).bit_length(), 1))
    variances, axes = variances[-kept:].clamp(min=0), axes[:, -kept:]  # eigh sorts: the largest come last
    deviations = variances.sqrt()
    lengths = (deviations * (variances.sum() / deviations.sum().clamp(min=1e-300))).sqrt()
    # of its own generator: every process starts the same, whatever it has drawn before
    drawn = torch.randn(len(spreads), kept, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spreads = spreads.double()
    turn = torch.linalg.qr(drawn.to(spreads.device) * spreads[:, None]).Q.T  # at right angles as the rows see them
    return (axes * lengths) @ (turn / spreads), rows.mean(0)
