"""A hierarchy of grids, each with a quantizer of its own: coarse codes first, finer ones conditioned on them.

Razavi et al. 2019 (VQ-VAE-2, arXiv 1906.00446, section 3.1), over any other quantizer, on a grid of any rank.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.batch import Codes
from vqmm.contracts.options import PartsByName
from vqmm.contracts.quantizer import Quantized, Quantizer, QuantizersByName, Reduce, grid_size
from vqmm.nn.layers import ResidualBlock, Stack, conv, down, up
from vqmm.nn.masks import pool_mask
from vqmm.utils.errors import UserError


class HierarchicalQuantizer(Quantizer):
    """z (B, dim, *grid) -> one map of codes a level, coarse first; each level halves the grid, rounding up.

    The latents of a level are merged with what the coarser levels say about it; its vectors are added to that.

    Args:
        inner: a quantizer for each level, coarse first, each with codes and of the same `dim`. `build` makes them of
            the option `inner`.
    """

    name = "hierarchical"

    class Options(Quantizer.Options):
        """How many grids there are, and which quantizer each of them has."""

        levels: int = Field(2, ge=2, description="grids, each half as fine as the one below it")
        inner: dict[str, Any] = Field(
            {"name": "vector"}, description="the quantizer of every level, by name, with its options"
        )

        def completed(self, registry: PartsByName) -> Self:
            """With every option of `inner` checked and written out, its `dim` among them.

            Raises:
                UserError: `inner` names no quantizer, an option that it does not have, or a `dim` other than this one.
            """
            config = {"dim": self.dim, **self.inner}
            if config.get("name") is None or config["dim"] != self.dim:
                raise UserError(
                    f"quantizer.inner: {self.inner}: give the name of a quantizer, and leave its dim out: it is "
                    f"{self.dim}"
                )
            _, options = registry.part("quantizer", config)
            return self.model_copy(update={"inner": {"name": config["name"], **options.model_dump(mode="json")}})

    options: Options

    @classmethod
    def build(cls, options: Quantizer.Options, rank: int, registry: QuantizersByName) -> "HierarchicalQuantizer":
        """Make it with a quantizer for each level, all of the kind and the options in `inner`."""
        assert isinstance(options, cls.Options)  # as `part` gives them for this class
        kind, inner = registry.part("quantizer", {"dim": options.dim, **options.inner})
        return cls(options, rank, [kind.build(inner, rank, registry) for _ in range(options.levels)])

    def __init__(self, options: Options | None, rank: int, inner: Sequence[Quantizer]):
        super().__init__(options, rank)
        o, dim = self.options, self.options.dim
        if len(inner) != o.levels:
            raise ValueError(f"HierarchicalQuantizer: {len(inner)} quantizers for {o.levels} levels: give one for each")
        # Any: the type checker knows a list of modules, not of quantizers
        self.quantizers: Any = nn.ModuleList(inner)
        for each in inner:
            if not each.sizes:
                raise UserError(f"quantizer.inner: {each.name!r} has no codes; take one that has, such as vector")
        half = (2,) * rank
        hidden = max(dim // 2, 8)
        self.downs = nn.ModuleList(  # from the finer grid of each pair, coarsest pair first, as everything below
            Stack([down(rank, dim, dim, half), ResidualBlock(rank, dim, hidden)]) for _ in range(o.levels - 1)
        )
        self.ups = nn.ModuleList(
            Stack([conv(rank, dim, dim), ResidualBlock(rank, dim, hidden), up(rank, dim, dim, half)])
            for _ in self.downs
        )
        self.merges = nn.ModuleList([conv(rank, 2 * dim, dim, kernel=1) for _ in self.downs])

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The maps of every level's quantizer, coarse level first."""
        return tuple(stages for each in self.quantizers for stages in each.sizes)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> codes of every level, coarse first, and vectors like z; `stages` goes to each level.

        Each level's losses have its number in their name, such as "commitment/0" for the coarsest.

        Raises:
            UserError: the grid is smaller than the levels need, along all of its axes.
        """
        maps: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        vectors: Tensor | None = None
        for level, (latents, level_mask) in enumerate(self._pyramid(z, mask)):
            context = None if vectors is None else self._spread(level, vectors, latents.shape[2:], level_mask)
            output = self.quantizers[level](self._merged(level, latents, context), level_mask, stages)
            vectors = output.vectors if context is None else output.vectors + context
            maps += output.codes.maps
            losses |= {f"{name}/{level}": loss for name, loss in output.losses.items()}
        assert vectors is not None
        return Quantized(vectors, Codes(tuple(maps), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        """The vectors (B, dim, *grid): of each level's codes, added to those of the coarser levels on its grid."""
        maps, masks, vectors = list(codes.maps), codes.map_masks(), None
        for level, quantizer in enumerate(self.quantizers):
            count = len(quantizer.sizes)
            level_maps, maps = maps[:count], maps[count:]
            mask, masks = masks[count - 1], masks[count:]
            level_vectors = quantizer.lookup(Codes(tuple(level_maps), codes.size, mask))
            vectors = (
                level_vectors
                if vectors is None
                else level_vectors + self._spread(level, vectors, level_vectors.shape[2:], mask)
            )
        assert vectors is not None
        return vectors

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Start the levels from data, coarse first: each from its latents merged with what the coarser ones gave."""
        vectors: Tensor | None = None
        for level, (latents, level_mask) in enumerate(self._pyramid(z, mask)):
            context = None if vectors is None else self._spread(level, vectors, latents.shape[2:], level_mask)
            merged = self._merged(level, latents, context)
            self.quantizers[level].initialise(merged, level_mask)
            level_vectors = self.quantizers[level](merged, level_mask).vectors
            vectors = level_vectors if context is None else level_vectors + context

    def after_step(self, reduce: Reduce, progress: float) -> None:
        """Each level's quantizer applies what it has gathered, with a call of `reduce` for itself."""
        for each in self.quantizers:
            each.after_step(reduce, progress)

    def _pyramid(self, z: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """The latents and the mask of every level, coarse first."""
        deepest = 2 ** (len(self.quantizers) - 1)
        if z.shape[2:].numel() and max(z.shape[2:]) < deepest:
            grid = " x ".join(map(str, z.shape[2:]))
            raise UserError(
                f"quantizer.levels: {len(self.quantizers)} levels need a grid of at least {deepest} codes along an "
                f"axis, and it is {grid}: take fewer levels, or a smaller modality.stride"
            )
        levels = [(z, mask)]
        for layers in reversed(self.downs):
            z = F.pad(z if mask is None else torch.where(mask.unsqueeze(1), z, 0), self._odd(z.shape[2:]))
            inside = None if mask is None else F.pad(mask, self._odd(mask.shape[1:]))
            z = layers(z, inside)
            mask = None if mask is None else pool_mask(mask, z.shape[2:])
            levels.append((z, mask))
        return levels[::-1]

    def _odd(self, grid: Sequence[int]) -> list[int]:
        """What F.pad needs to make every axis even."""
        return [n for size in reversed(grid) for n in (0, size % 2)]

    def _spread(self, level: int, vectors: Tensor, grid: Sequence[int], mask: Tensor | None) -> Tensor:
        """The vectors of the level above, on this level's grid."""
        coarse = None if mask is None else pool_mask(mask, vectors.shape[2:])
        spread = self.ups[level - 1](vectors, coarse)
        for axis, size in enumerate(grid, start=2):
            spread = spread.narrow(axis, 0, size)
        return spread

    def _merged(self, level: int, latents: Tensor, context: Tensor | None) -> Tensor:
        return latents if context is None else self.merges[level - 1](torch.cat([latents, context], dim=1))
