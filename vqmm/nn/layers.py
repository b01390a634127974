"""Layers written once for 1, 2 and 3 dimensions. None mixes samples of a batch, and none counts on its size."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.masks import pool_mask
from vqmm.nn.network import Layer, Span, call_masked
from vqmm.nn.receptive_field import seen

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def conv(rank: int, inputs: int, outputs: int, kernel: int = 3) -> nn.Module:
    """A convolution that keeps the extent: (B, inputs, *extent) -> (B, outputs, *extent). `kernel` is odd."""
    return _CONV[rank](inputs, outputs, kernel, padding=kernel // 2)


def down(rank: int, inputs: int, outputs: int, factor: Sequence[int]) -> nn.Module:
    """A strided convolution that divides each axis by its factor, 1 or 2."""
    return _CONV[rank](inputs, outputs, tuple(2 + f for f in factor), tuple(factor), padding=1)


def up(rank: int, inputs: int, outputs: int, factor: Sequence[int]) -> nn.Module:
    """The mirror of `down`: multiplies each axis by its factor, 1 or 2."""
    return _CONV_TRANSPOSE[rank](inputs, outputs, tuple(2 + f for f in factor), tuple(factor), padding=1)


def prime_factors(number: int) -> list[int]:
    """Smallest first: how layers that divide by one prime each make up a stride.

    >>> prime_factors(60)
    [2, 2, 3, 5]
    """
    factors: list[int] = []
    while number > 1:
        factors.append(next(p for p in range(2, number + 1) if number % p == 0))
        number //= factors[-1]
    return factors


class ChannelNorm(Layer):
    """Root-mean-square norm over the channels of each position (Zhang and Sennrich 2019, arXiv 1910.07467).

    A position's result depends on that position alone: not on the batch, not on padding, not on how large a picture
    is. Zero stays zero.
    """

    def __init__(self, channels: int, epsilon: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *grid) -> the same shape."""
        scale = x.square().mean(dim=1, keepdim=True).add(self.epsilon).rsqrt()
        return x * scale * self.weight.view(-1, *[1] * (x.ndim - 2))

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The same positions: each depends on itself alone."""
        return outputs


class ResidualBlock(Layer):
    """x + conv1(act(conv(act(norm(x))))), through `hidden` channels: (B, width, *grid) in and out."""

    def __init__(self, rank: int, width: int, hidden: int, kernel: int = 3):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.spread = conv(rank, width, hidden, kernel)
        self.join = conv(rank, hidden, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width, *grid) -> the same shape."""
        return x + self.join(F.silu(self.spread(F.silu(self.norm(x)))))

    def seen(self, outputs: Span, axis: int = 0) -> Span | None:
        """The positions under the kernel; a position's own is among them."""
        return seen(self.spread, outputs, axis)


class Attention(Layer):
    """x + self-attention over all positions of the grid: (B, width, *grid) in and out; padding is not looked at."""

    takes_mask = True

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        if width % heads:
            raise ValueError(f"Attention: a width of {width} does not divide into {heads} heads")
        self.heads = heads
        self.norm = ChannelNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, width, *grid), mask bool (B, *grid), True where a position may be looked at -> (B, width, *grid)."""
        line = self.norm(x).flatten(2).transpose(1, 2)  # (B, positions, width)
        q, k, v = self.qkv(line).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        known = None if mask is None else mask.flatten(1)[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=known)
        return x + self.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)

    def seen(self, outputs: Span, axis: int = 0) -> None:
        """None, for no limit: a position depends on all."""
        return None  # noqa: RET501 (a span: no limit)


class Stack(nn.ModuleList):
    """Layers in a row that never look at padding: before each, positions outside the mask are set to zero.

    So a sample gives the same result alone and beside a longer one, as long as a layer mixes positions at most once
    and turns zeros into zeros on the way there; every layer of this file does.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, *extent), mask bool (B, *extent) or None. Layers may divide or multiply the extent."""
        for layer in self:
            if mask is not None:
                mask = resample_mask(mask, x.shape[2:])
                x = torch.where(mask.unsqueeze(1), x, 0)
            x = call_masked(layer, x, mask)
        return x


def resample_mask(mask: Tensor, extent: Sequence[int]) -> Tensor:
    """A mask (B, *grid) on another grid: a coarser one by `pool_mask`, a finer one by repetition."""
    for axis, (now, then) in enumerate(zip(mask.shape[1:], extent, strict=True), start=1):
        if then > now:
            mask = mask.repeat_interleave(then // now, dim=axis)
    return mask if mask.shape[1:] == tuple(extent) else pool_mask(mask, extent)


@torch.no_grad()
def keep_variance(module: nn.Module) -> None:
    """Weights of convolutions such that values keep their variance from layer to layer, biases 0.

    A weight's variance is one over the inputs that an output sums (LeCun et al. 1998, Efficient BackProp, section 4.6).
    torch's own is a third of that: behind ten layers without a norm hardly anything is left of what came in, and a
    training of some hundred steps ends before it has grown again.
    """
    transposed, every = tuple(_CONV_TRANSPOSE.values()), (*_CONV.values(), *_CONV_TRANSPOSE.values())
    for layer in module.modules():
        if isinstance(layer, every):
            convolution: Any = layer
            weight = convolution.weight
            # transposed: (inputs, outputs, *kernel), each input spread over a kernel of which one in a stride meets it
            spread = isinstance(layer, transposed)
            inputs = weight[:, 0].numel() // math.prod(convolution.stride) if spread else weight[0].numel()
            nn.init.normal_(weight, std=max(inputs, 1) ** -0.5)
            nn.init.zeros_(convolution.bias)
