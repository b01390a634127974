"""Layout: how the codes of one sample become one sequence of ids, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from vqmm.batch import Codes


@dataclass(frozen=True)
class Layout:
    """The maps of a code, flattened: coarse map first, positions in row-major order, the stages of a position together.

    Attributes:
        grids: the grid of every map, coarse first.
        sizes: the codebook size of every stage of every map (`Quantizer.sizes`).
    """

    grids: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.grids) != len(self.sizes):
            raise ValueError(f"Layout: {len(self.grids)} grids for {len(self.sizes)} maps: give one grid for each map")

    @classmethod
    def of(cls, codes: Codes, sizes: Sequence[Sequence[int]]) -> "Layout":
        """The layout of these codes, which may have fewer stages than `sizes` lists."""
        used = tuple(tuple(own[: one.shape[1]]) for own, one in zip(sizes, codes.maps, strict=True))
        return cls(tuple(tuple(one.shape[2:]) for one in codes.maps), used)

    def __len__(self) -> int:
        return sum(prod(grid) * len(stages) for grid, stages in zip(self.grids, self.sizes, strict=True))

    @cached_property
    def positions(self) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
        """For each place in the sequence: (map, stage, coordinates on that map's grid)."""
        found = []
        for which, (grid, stages) in enumerate(zip(self.grids, self.sizes, strict=True)):
            for place in torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, len(grid)).tolist():
                found += [(which, stage, tuple(place)) for stage in range(len(stages))]
        return tuple(found)

    def join(self, codes: Codes) -> Tensor:
        """int64 (B, len(self)): the ids of each sample in order, every stage counting from 0."""
        return torch.cat([one.movedim(1, -1).flatten(1) for one in codes.maps], dim=1).long()

    def split(self, ids: Tensor) -> tuple[Tensor, ...]:
        """The inverse of `join`: ids (B, len(self)) -> maps, each (B, stages, *grid)."""
        if ids.ndim != 2 or ids.shape[1] != len(self):
            raise ValueError(f"Layout.split: ids of shape {tuple(ids.shape)}: must be (B, {len(self)})")
        counts = [prod(grid) * len(stages) for grid, stages in zip(self.grids, self.sizes, strict=True)]
        return tuple(
            part.reshape(len(ids), *grid, len(stages)).movedim(-1, 1)
            for part, grid, stages in zip(ids.split(counts, dim=1), self.grids, self.sizes, strict=True)
        )
