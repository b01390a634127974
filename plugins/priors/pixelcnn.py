"""Gated PixelCNN and PixelSNAIL over maps of codes: `vqmm.nn.pixel` on every map, the finer given the coarser."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import nn

from vqmm.nn.pixel import PixelNetwork
from vqmm.plugins.priors.grid import GridPrior
from vqmm.utils.errors import UserError


class PixelCNN(GridPrior):
    """Gated masked convolutions (van den Oord et al. 2016, arXiv 1606.05328), class-conditional, over grids of one or
    two axes. Two maps, as of VQ-VAE-2 (Razavi et al. 2019, arXiv 1906.00446, section 3.2), are two such networks."""

    name: ClassVar[str] = "pixelcnn"

    class Options(GridPrior.Options):
        """How many gated layers, and their kernel: together they reach depth * (kernel // 2) positions."""

        depth: int = Field(10, ge=1, description="gated layers of every map")
        kernel: int = Field(3, ge=3, description="odd: each layer reaches kernel // 2 positions further")

    options: Options

    def network(self, grid: Sequence[int], conditioned: bool) -> nn.Module:
        """A `PixelNetwork` over the grid, without attention; a `UserError` for an even kernel."""
        o = self.options
        self._require_odd()
        return PixelNetwork(grid, o.width, o.depth, o.kernel, dropout=o.dropout)

    def _require_odd(self) -> None:
        kernel = self.options.kernel
        if kernel % 2 == 0:
            raise UserError(f"prior.kernel: {kernel} is even, and must be odd: {kernel - 1} or {kernel + 1}")


class PixelSNAIL(PixelCNN):
    """The same with causal attention after every few layers (Chen et al. 2017, arXiv 1712.09763)."""

    name: ClassVar[str] = "pixelsnail"

    class Options(PixelCNN.Options):
        """The options of `PixelCNN`, and how often attention comes and with how many heads."""

        attention: int = Field(4, ge=1, description="after every so many layers all codes before are looked at")
        heads: int = Field(4, ge=1, description="of attention; width / heads must be even")
        depth: int = Field(8, ge=1, description="gated layers of every map")

    options: Options

    def network(self, grid: Sequence[int], conditioned: bool) -> nn.Module:
        """A `PixelNetwork` over the grid with causal attention after every `attention` layers.

        Raises:
            UserError: an even kernel; a width / heads that is not an even number; attention that would never come.
        """
        o = self.options
        self._require_odd()
        if o.width % o.heads or o.width // o.heads % 2:
            raise UserError(f"prior.width: {o.width} with {o.heads} heads: width / heads must be even")
        if o.attention > o.depth:
            raise UserError(f"prior.attention: after every {o.attention} layers, of which there are {o.depth}: never")
        return PixelNetwork(grid, o.width, o.depth, o.kernel, attention=o.attention, heads=o.heads, dropout=o.dropout)
