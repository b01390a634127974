"""How nearest_code is fast on a CPU, in plain torch.

A tile of scores is a matrix product that stays in the L2 cache, codes down and vectors across. Reducing it with argmax
takes two thirds as long as the product itself (D 64); max pooling over the codes returns the same indices seven times
sooner, because torch vectorises it over the last dimension, and it keeps the first of equals.

The libraries behind the product add in another order at the ragged edge of a matrix, so two equal codes could score
differently by where they stand. Tiles whose sides are multiples of 16 have no such edge: hence the padding.
"""

import torch
from torch import Tensor

from vqmm.kernels.nearest_code.prepare import Prepared, arrange

TILE_K = 512
TILE_N = 512  # scores: 512 x 512 x 4 bytes = 1 MiB, an L2 cache
EDGE = 16


def padded(length: int) -> int:
    return -(-length // EDGE) * EDGE


def search_tile(x_TnD: Tensor, code_KD: Tensor, bias_K1: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Best score and its index for a tile of vectors per thread: (T, n, D) -> (T n), (T n). scratch: T n TILE_K."""
    tiles, n, _ = x_TnD.shape
    best_n = index_n = torch.zeros(0)
    for first in range(0, code_KD.shape[0], TILE_K):
        code_kD, bias_k1 = code_KD[first : first + TILE_K], bias_K1[first : first + TILE_K]
        k = code_kD.shape[0]
        score_Tkn = scratch[: tiles * k * n].view(tiles, k, n)
        torch.baddbmm(bias_k1, code_kD.expand(tiles, -1, -1), x_TnD.transpose(1, 2), out=score_Tkn)
        picture = score_Tkn[:, :, None].permute(0, 3, 1, 2)  # T pictures, n channels, k high, 1 wide, channels last
        value, at = torch.ops.aten.max_pool2d_with_indices(picture, [k, 1])
        value_n, at_n = value.view(-1), at.view(-1)
        if first == 0:
            best_n, index_n = value_n, at_n
        else:
            better_n = value_n > best_n  # strict: an earlier tile keeps a tie
            best_n = torch.where(better_n, value_n, best_n)
            index_n = torch.where(better_n, at_n.add_(first), index_n)
    return best_n, index_n


def nearest_code_cpu(x_ND: Tensor, prepared: Prepared, metric: str) -> Tensor:
    """int32 indices (N,): the highest score, the lowest among equals. Holds one tile of scores for each thread."""
    (n, width), (k, _) = x_ND.shape, prepared.code_KD.shape
    if n == 0:
        return torch.empty(0, dtype=torch.int32)
    code_KD, bias_K1 = prepared.code_KD, prepared.bias_K[:, None]
    if padded(k) > k:
        code_KD = torch.nn.functional.pad(code_KD, (0, 0, 0, padded(k) - k))
        bias_K1 = torch.nn.functional.pad(bias_K1, (0, 0, 0, padded(k) - k), value=float("-inf"))
    tiles = torch.get_num_threads()
    rows = min(TILE_N, padded(-(-n // tiles)))  # vectors of each tile
    scratch = torch.empty(tiles * rows * min(TILE_K, code_KD.shape[0]))
    arranged = torch.zeros(tiles * rows, width)
    best_N, index_N = torch.empty(n), torch.empty(n, dtype=torch.int32)
    for part_ND, best_n, found_n in zip(*(v.split(tiles * rows) for v in (x_ND, best_N, index_N)), strict=True):
        m = len(part_ND)
        rows = min(rows, padded(-(-m // tiles)))
        arrange(part_ND, metric, prepared.shift_D, out=arranged[:m])
        x_TnD = arranged[: tiles * rows].view(tiles, rows, width)
        score_n, at_n = search_tile(x_TnD, code_KD, bias_K1, scratch)
        best_n.copy_(score_n[:m])
        found_n.copy_(at_n[:m])
    return index_N.masked_fill_(best_N - best_N != 0, 0)  # a vector that is not finite has no finite score
