"""The encoder and decoder that a modality gets when it brings none: strided convolutions and residual blocks.

The layout is that of van den Oord et al. 2017 (arXiv 1711.00937, section 4.1), with a norm in each block.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from vqmm.nn.layers import Attention, ResidualBlock, Stack, conv, down, keep_variance, up
from vqmm.nn.network import Network
from vqmm.nn.receptive_field import receptive_field


class ConvEncoder(Network):
    """(B, channels, *extent) -> (B, dim, *extent / stride). Each axis of the extent is a multiple of its stride.

    Args:
        stride: for each axis a power of two.
        width: channels at the coarsest level; the levels above have half as many each, 8 at the least.
        blocks: residual blocks at the coarsest level, each `width // 4` wide in the middle.
        attention: self-attention after the blocks.
    """

    takes_mask = True

    def __init__(
        self, rank: int, channels: int, dim: int, stride: Sequence[int], width: int, blocks: int, attention: bool
    ):
        super().__init__()
        factors = level_factors(stride)
        widths = [channels, *(max(width >> (len(factors) - 1 - level), 8) for level in range(len(factors)))]
        layers: list[nn.Module] = []
        for level, factor in enumerate(factors):
            layers += [down(rank, widths[level], widths[level + 1], factor), nn.SiLU()]
        layers += [conv(rank, widths[-1], width), *bottom(rank, width, blocks, attention)]
        self.layers = Stack([*layers, nn.SiLU(), conv(rank, width, dim, kernel=1)])
        keep_variance(self.layers)
        self.receptive_field = max(receptive_field(self.layers, s, 1, axis) for axis, s in enumerate(stride))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, channels, *extent), mask bool (B, *extent) -> (B, dim, *extent / stride); padding is not looked at."""
        return self.layers(x, mask)


class ConvDecoder(Network):
    """The mirror of `Encoder`: (B, dim, *grid) -> (B, channels, *grid * stride)."""

    takes_mask = True

    def __init__(
        self, rank: int, channels: int, dim: int, stride: Sequence[int], width: int, blocks: int, attention: bool
    ):
        super().__init__()
        factors = level_factors(stride)[::-1]
        widths = [width, *(max(width >> (level + 1), 8) for level in range(len(factors) - 1))]
        layers: list[nn.Module] = [conv(rank, dim, width), *bottom(rank, width, blocks, attention)]
        for level, factor in enumerate(factors):
            outputs = widths[level + 1] if level + 1 < len(factors) else channels
            layers += [nn.SiLU(), up(rank, widths[level], outputs, factor)]
        if not factors:
            layers += [nn.SiLU(), conv(rank, width, channels)]
        self.layers = Stack(layers)
        keep_variance(self.layers)
        self.receptive_field = max(receptive_field(self.layers, 1, s, axis) for axis, s in enumerate(stride))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, dim, *grid), mask bool (B, *grid) -> (B, channels, *grid * stride); padding is not looked at."""
        return self.layers(x, mask)


def bottom(rank: int, width: int, blocks: int, attention: bool) -> list[nn.Module]:
    """The layers at the coarsest level: residual blocks, through `width // 4` channels (at least 8), then attention."""
    residual: list[nn.Module] = [ResidualBlock(rank, width, max(width // 4, 8)) for _ in range(blocks)]
    return [*residual, Attention(width)] if attention else residual


def level_factors(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """What each level of a network divides each axis by, first level first.

    >>> level_factors((2, 8))
    [(1, 2), (1, 2), (2, 2)]
    """
    wrong = [s for s in stride if s < 1 or s & (s - 1)]
    if wrong:
        raise ValueError(f"stride {tuple(stride)}: {wrong[0]} is not a power of two (1, 2, 4, 8, ...)")
    depth = [int(math.log2(s)) for s in stride]
    levels = max(depth)
    return [tuple(2 if level >= levels - d else 1 for d in depth) for level in range(levels)]
