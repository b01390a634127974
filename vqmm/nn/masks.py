"""Masks of padding: their extent, coarser ones, and means over what they show."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def mask_size(mask: Tensor) -> Tensor:
    """int64 (B, rank) on the CPU: the extent of each sample's box in a mask (B, *extent)."""
    rank = mask.ndim - 1
    lengths = []
    for axis in range(1, rank + 1):
        others = [a for a in range(1, rank + 1) if a != axis]
        line = mask.any(dim=others) if others else mask  # (B, length of that axis)
        lengths.append(line.sum(dim=1))
    return torch.stack(lengths, dim=1).cpu()


def pool_mask(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """A mask (B, *extent) on a coarser grid: True where any of the positions that a cell covers is True.

    A cell covers extent / grid positions of an axis, rounded up; the last one of an axis may cover fewer.
    """
    extent = mask.shape[1:]
    cells = [-(-have // want) if want else 0 for have, want in zip(extent, grid, strict=True)]
    if any(cell == 0 or -(-have // cell) != want for have, want, cell in zip(extent, grid, cells, strict=True)):
        raise ValueError(f"pool_mask: an extent of {tuple(extent)} does not divide into a grid of {tuple(grid)}")
    spare = [n for have, want, cell in zip(extent, grid, cells, strict=True) for n in (want * cell - have, 0)]
    split = [part for want, cell in zip(grid, cells, strict=True) for part in (want, cell)]
    return F.pad(mask, spare[::-1]).reshape(len(mask), *split).any(dim=[2 * axis + 2 for axis in range(len(grid))])


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of (B, C, *extent) over the positions where mask (B, *extent) is True; 0 where there are none."""
    if mask is not None:
        count = mask.sum() * values.shape[1]
        return torch.where(mask.unsqueeze(1), values, 0).sum() / count.clamp(min=1)
    return values.mean() if values.numel() else values.sum()
