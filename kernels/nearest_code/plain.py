"""nearest_code in plain torch: on a device without a kernel of its own (search_torch), and on a CPU without the
compiled helper of cpu.py (search_in_tiles, at about twice its time).

On a CPU a tile of scores is a matrix product that stays in the L2 cache, codes down and vectors across. Reducing it
with argmax takes two thirds as long as the product itself (D 64); max pooling over the codes returns the same indices
seven times sooner, because torch vectorises it over the last dimension, and it keeps the first of equals.

The libraries behind the product add in another order at the ragged edge of a matrix, so two equal codes could score
differently by where they stand. Tiles whose sides are multiples of 16 have no such edge: hence the padding.
"""

import torch
from torch import Tensor

from vqmm.kernels.nearest_code.prepare import Prepared, arrange
from vqmm.kernels.products import full_float32

TILE_K = 512
TILE_N = 512  # scores: 512 x 512 x 4 bytes = 1 MiB, an L2 cache
EDGE = 16
INF = float("inf")


def padded(length: int) -> int:
    """The least multiple of EDGE that is no less."""
    return -(-length // EDGE) * EDGE


def search_tile(
    x_TnD: Tensor, code_KD: Tensor, bias_K1: Tensor, scratch: Tensor, margin: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Best score, its index and (with margin) the second best for a tile of vectors per thread: each (T n,).

    x_TnD: (T, n, D); scratch: T n TILE_K numbers.
    """
    tiles, n, _ = x_TnD.shape
    best_n, second_n = torch.full((2, tiles * n), -INF)
    index_n = torch.zeros(tiles * n, dtype=torch.int64)
    for first in range(0, code_KD.shape[0], TILE_K):
        code_kD, bias_k1 = code_KD[first : first + TILE_K], bias_K1[first : first + TILE_K]
        k = code_kD.shape[0]
        score_Tkn = scratch[: tiles * k * n].view(tiles, k, n)
        torch.baddbmm(bias_k1, code_kD.expand(tiles, -1, -1), x_TnD.transpose(1, 2), out=score_Tkn)
        picture = score_Tkn[:, :, None].permute(0, 3, 1, 2)  # T pictures, n channels, k high, 1 wide, channels last
        value, at = torch.ops.aten.max_pool2d_with_indices(picture, [k, 1])
        value_n, at_n = value.view(-1), at.view(-1)
        if margin:
            other_n = score_Tkn.scatter_(1, at.view(tiles, 1, n), -INF).amax(1).view(-1)  # the best without the winner
            second_n = torch.maximum(torch.maximum(second_n, other_n), torch.minimum(best_n, value_n))
        better_n = value_n > best_n  # strict: an earlier tile keeps a tie, and NaN never wins
        best_n = torch.where(better_n, value_n, best_n)
        index_n = torch.where(better_n, at_n.add_(first), index_n)
    return best_n, index_n, second_n


@full_float32()
def search_in_tiles(x_ND: Tensor, prepared: Prepared, metric: str, index_N: Tensor, margin_N: Tensor | None) -> None:
    """Searches one codebook, and writes what it found. Holds one tile of scores for each thread."""
    n, width = x_ND.shape
    if n == 0:
        return
    code_KD, bias_K1 = prepared.code_KD, prepared.bias_K[:, None]
    if more := padded(len(code_KD)) - len(code_KD):
        code_KD = torch.nn.functional.pad(code_KD, (0, 0, 0, more))
        bias_K1 = torch.nn.functional.pad(bias_K1, (0, 0, 0, more), value=-INF)
    tiles = torch.get_num_threads()
    rows = min(TILE_N, padded(-(-n // tiles)))  # vectors of each tile
    scratch = torch.empty(tiles * rows * min(TILE_K, code_KD.shape[0]))
    arranged = torch.zeros(tiles * rows, width)
    for start in range(0, n, tiles * rows):
        part_ND = x_ND[start : start + tiles * rows]
        m = len(part_ND)
        rows_here = min(rows, padded(-(-m // tiles)))
        arrange(part_ND, metric, prepared.shift_GD, out=arranged[:m])
        x_TnD = arranged[: tiles * rows_here].view(tiles, rows_here, width)
        best_n, at_n, second_n = (v[:m] for v in search_tile(x_TnD, code_KD, bias_K1, scratch, margin_N is not None))
        finite_n = torch.isfinite(best_n)  # a vector that is not finite has no finite score
        index_N[start : start + m] = torch.where(finite_n, at_n, 0)
        if margin_N is not None:
            margin_N[start : start + m] = torch.where(finite_n & (second_n > -INF), best_n - second_n, INF)


@full_float32()
def search_torch(
    x_GND: Tensor, prepared: Prepared, metric: str, margin: bool, chunk_bytes: int = 64 * 2**20
) -> tuple[Tensor, Tensor]:
    """int32 indices (G, N) and, with margin, the difference of the two best scores (else an empty tensor)."""
    index_GN = torch.empty(x_GND.shape[:-1], dtype=torch.int32, device=x_GND.device)
    margin_GN = torch.empty(x_GND.shape[:-1] if margin else 0, device=x_GND.device)
    for g, (code_KD, bias_K, shift_1D, _) in enumerate(prepared.groups):
        rows = max(1, chunk_bytes // (4 * code_KD.shape[0]))
        for first in range(0, x_GND.shape[1], rows):
            arranged_ND = arrange(x_GND[g, first : first + rows], metric, shift_1D)
            score_NK = torch.addmm(bias_K, arranged_ND, code_KD.T)
            best_N, index_N = score_NK.max(1)
            if x_GND.device.type != "cpu":  # elsewhere max promises no order among equals: the first that equals it
                index_N = (score_NK == best_N[:, None]).byte().argmax(1)
            index_GN[g, first : first + rows] = torch.where(torch.isfinite(best_N), index_N, 0)
            if margin:
                second_N = score_NK.scatter_(1, index_N[:, None], float("-inf")).amax(1)
                margin_GN[g, first : first + rows] = best_N - second_N
    return index_GN, margin_GN
