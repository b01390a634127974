"""Invertible layers for 1, 2 and 3 dimensions: what a normalising flow is made of.

Each knows the logarithm of the determinant of its Jacobian exactly. Positions outside a mask are held at zero, take no
part in that determinant, and are not looked at: a sample gives the same result alone and beside a longer one.

Sources: Dinh et al. 2017 (RealNVP, arXiv 1605.08803) for couplings and factored-out latents, Kingma and Dhariwal 2018
(Glow, arXiv 1807.03039) for the scale and shift of each channel and the learnt mixing, Yu et al. 2020 (Wavelet Flow,
arXiv 2010.13821) for starting each scale with Haar wavelets.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.layers import conv, prime_factors

# What a layer does at most: stretch by e^WIDE or, one coupling among several stacked ones, by e^NARROW; shrink by
# e^NARROW. (A mixing, one matrix for all positions, needs no bound.) What they have not seen together in training,
# such as a draw from the prior, is then still turned into a signal of its range, and float32 inverts any depth.
WIDE, NARROW = 5.0, 1.0
LOG_SCALE_GAIN = 3.0  # log-scales have further to go than weights: they learn so many times as fast (as in Glow)


class Invertible(nn.Module):
    """A layer with an inverse. `context` (B, width, *grid) steers it, `mask` (B, *grid) is bool or None."""

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, *grid), zero outside the mask -> (y like x, log |det dy/dx| (B,))."""
        raise NotImplementedError

    def inverse(self, y: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """The x that forward turns into y."""
        raise NotImplementedError


class ScaleShift(Invertible):
    """(x - shift) * scale for each channel: Glow's actnorm, without its start from data.

    It starts as the identity: a start from the first batch would have to be the same in every process, and the
    couplings steered by the context, which start near the identity too, find the scale of the data as fast.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, *grid) -> (y like x, zero outside the mask; log |det|).

        log |det| is the sum of the log-scales times the positions that count: (B,), or without a mask a scalar.
        """
        log_scale = bounded(self.log_scale)
        y = (x - per_channel(self.shift, x)) * per_channel(log_scale.exp(), x)
        return held(y, mask), log_scale.sum() * cells(x, mask)

    def inverse(self, y: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """y / scale + shift, zero outside the mask."""
        x = y * per_channel((-bounded(self.log_scale)).exp(), y) + per_channel(self.shift, y)
        return held(x, mask)


class Mix(Invertible):
    """A learnt invertible matrix over the channels of each position, as P L (U + diag(sign * scale)).

    P, a permutation, and the signs stay as they start; L has a unit diagonal, U lies above it. So the log-determinant
    is the sum of the log-scales. It starts as a random rotation.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.log_scale = nn.Parameter(diagonal.abs().log().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())

    def matrix(self) -> Tensor:
        """The matrix (channels, channels) that multiplies the channels of each position."""
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return self.permutation @ lower @ (self.upper.triu(1) + (self.sign * self.log_scale.exp()).diag())

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, *grid), zero outside the mask -> (y like x; log |det|).

        log |det| is the sum of the log-scales times the positions that count: (B,), or without a mask a scalar.
        """
        return over_channels(self.matrix(), x), self.log_scale.sum() * cells(x, mask)

    def inverse(self, y: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """y times the inverse of the matrix, which is computed in float64."""
        return over_channels(torch.linalg.inv(self.matrix().double()).to(y), y)


class Coupling(Invertible):
    """Some channels are kept; the others become x * scale - mean, both computed from the kept ones and the context.

    With no channel kept, the context alone moves all. The mean is in units of the result: its gradient is as large for
    details, which have a large scale, as for averages, and so is not drowned in the noise of what cannot be told.

    Args:
        keep: how many channels are kept, 0 to channels - 1: the first ones, or with `last` the last ones.
        width: channels of the context, and of the network that computes means and scales.
        most: the largest log-scale.
    """

    def __init__(self, rank: int, channels: int, keep: int, width: int, most: float, last: bool = False):
        super().__init__()
        self.keep, self.most, self.last = keep, most, last
        self.see = conv(rank, keep, width) if keep else None
        self.conditioning = conv(rank, width, width, kernel=1)
        self.think = conv(rank, width, width, kernel=1)
        self.say = conv(rank, width, 2 * (channels - keep))
        with torch.no_grad():  # near the identity, yet not on it: the context has a gradient from the first step on
            for parameter in self.say.parameters():
                parameter.mul_(0.1)

    def moments(self, kept: Tensor, context: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean and the log-scale of the channels that move."""
        # asinh: a value far from all that training saw moves the others by its logarithm, so nothing runs away
        hidden = (
            self.conditioning(context) if self.see is None else self.conditioning(context) + self.see(torch.asinh(kept))
        )
        hidden = held(F.silu(self.think(F.silu(hidden))), mask)
        mean, log_scale = self.say(hidden).chunk(2, dim=1)
        return held(mean, mask), held(bounded(log_scale, self.most), mask)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, *grid) -> (y like x: the kept channels as they are, the others x * scale - mean; log |det| (B,)).

        log |det| is the sum of the log-scales inside the mask.
        """
        kept, moved = self._split(x)
        mean, log_scale = self.moments(kept, context, mask)
        return self._join(kept, moved * log_scale.exp() - mean), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """The x of y: the kept channels are the same in both, and give the means and scales of the others."""
        kept, moved = self._split(y)
        mean, log_scale = self.moments(kept, context, mask)
        return self._join(kept, (moved + mean) * (-log_scale).exp())

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.last:
            return x[:, x.shape[1] - self.keep :], x[:, : x.shape[1] - self.keep]
        return x[:, : self.keep], x[:, self.keep :]

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.last else [kept, moved], dim=1)


class Steps(nn.Module):
    """Couplings in a row, between a signal and standard normal latents of the same shape.

    A first coupling is all the context's: it says what the signal is and how sure that is. Then come `depth` rounds of
    scale and shift, mixing, coupling (of one channel there is nothing to couple), and a last coupling by the context:
    the Gaussian prior of the latents, whose mean and scale depend on it too.
    """

    def __init__(self, rank: int, channels: int, depth: int, width: int):
        super().__init__()
        steps: list[nn.Module] = [Coupling(rank, channels, 0, width, WIDE)]
        for number in range(depth if channels > 1 else 0):
            half = Coupling(rank, channels, channels // 2, width, NARROW, last=number % 2 == 1)
            steps += [ScaleShift(channels), Mix(channels), half]
        self.layers = nn.ModuleList([*steps, Coupling(rank, channels, 0, width, WIDE)])

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, *grid) -> (latents like x, log |det| (B,))."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x, context, mask)
            total = total + log_det
        return x, total

    def inverse(self, latents: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """latents (B, C, *grid) -> the signal that `forward` turns into them."""
        for layer in reversed(self.layers):
            assert isinstance(layer, Invertible)
            latents = layer.inverse(latents, context, mask)
        return latents


class Scale(nn.Module):
    """One scale of a flow: Haar wavelets; the averages go on untouched, the details leave as latents.

    What becomes of the details is steered by the context and by the averages around them. So averages are never
    steered by details: those of the coarsest scale have nothing but the context to tell them.
    """

    def __init__(self, rank: int, channels: int, factor: Sequence[int], depth: int, width: int):
        super().__init__()
        self.channels, self.factor = channels, tuple(factor)
        self.look = conv(rank, channels, width)
        self.steps = Steps(rank, channels * (math.prod(factor) - 1), depth, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, C, *extent), context and mask on extent / factor -> (averages, latents of details, log |det| (B,))."""
        x = wavelets(x, self.factor)
        averages, details = x[:, : self.channels], x[:, self.channels :]
        latents, log_det = self.steps(details, context + self.look(torch.asinh(averages)), mask)
        return averages, latents, log_det

    def inverse(self, averages: Tensor, latents: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """The x (B, C, *extent) that `forward` turns into these averages and latents.

        averages (B, C, *extent / factor), latents (B, C * (product of the factors - 1), *extent / factor).
        """
        details = self.steps.inverse(latents, context + self.look(torch.asinh(averages)), mask)
        return unwavelets(torch.cat([averages, details], dim=1), self.factor)


def bounded(raw: Tensor, most: float = WIDE) -> Tensor:
    """Any number -> a log-scale in (-NARROW, most), with a slope of LOG_SCALE_GAIN at 0."""
    up, down = F.relu(LOG_SCALE_GAIN * raw), F.relu(-LOG_SCALE_GAIN * raw)
    return most * torch.tanh(up / most) - NARROW * torch.tanh(down / NARROW)


def held(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, C, *grid) with zeros outside the mask."""
    return x if mask is None else torch.where(mask.unsqueeze(1), x, 0)


def cells(x: Tensor, mask: Tensor | None) -> Tensor | int:
    """How many positions of each sample (B,) are inside the mask; without one, how many there are."""
    return math.prod(x.shape[2:]) if mask is None else mask.flatten(1).sum(1)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """values (C,) as a view (C, 1, ...) that spreads over x (B, C, *grid)."""
    return values.view(-1, *[1] * (x.ndim - 2))


def over_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (O, C) times the vectors along axis 1 of x: (B, C, ...) -> (B, O, ...)."""
    return (matrix @ x.flatten(2)).reshape(len(x), len(matrix), *x.shape[2:])


def scale_factors(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """What each scale divides each axis by, first scale first: a prime of its stride, or 4 where only one axis is
    divided, by two.

    A block of two samples has one detail for each channel, and one channel alone cannot be coupled; four have three.

    >>> scale_factors((4, 4)), scale_factors((32,)), scale_factors((1,)), scale_factors((60,))
    ([(2, 2), (2, 2)], [(4,), (4,), (2,)], [], [(4,), (3,), (5,)])
    """
    primes = [prime_factors(s) for s in stride]
    most = max(len(each) for each in primes)
    aligned = [[1] * (most - len(each)) + each for each in primes]  # the coarsest scale divides every axis that it can
    factors: list[tuple[int, ...]] = []
    for level in zip(*aligned, strict=True):
        if factors and math.prod(factors[-1]) == math.prod(level) == 2 and factors[-1] == level:
            factors[-1] = tuple(f * f for f in level)
        else:
            factors.append(level)
    return factors


def squeeze(x: Tensor, factor: Sequence[int]) -> Tensor:
    """Space to channels: (B, C, *extent) -> (B, product of the factors, C, *extent / factor)."""
    rank = len(factor)
    split = [part for n, f in zip(x.shape[2:], factor, strict=True) for part in (n // f, f)]
    places = [3 + 2 * axis for axis in range(rank)]  # of the positions within a block
    x = x.reshape(*x.shape[:2], *split).permute(0, *places, 1, *[place - 1 for place in places])
    return x.flatten(1, rank)


def unsqueeze(x: Tensor, factor: Sequence[int]) -> Tensor:
    """The inverse of `squeeze`."""
    rank = len(factor)
    x = x.unflatten(1, tuple(factor))
    order = [part for axis in range(rank) for part in (rank + 2 + axis, 1 + axis)]
    extent = [n * f for n, f in zip(x.shape[rank + 2 :], factor, strict=True)]
    return x.permute(0, rank + 1, *order).reshape(len(x), x.shape[rank + 1], *extent)


def haar(factor: Sequence[int], like: Tensor) -> Tensor:
    """The orthonormal matrix of a block: its first row takes the average, the others the details.

    Haar's where the factors are powers of two; of another prime it is the cosine transform's (DCT-II).
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for prime in (p for f in factor for p in prime_factors(f)):
        places = torch.arange(prime, dtype=torch.float64)
        cosines = torch.cos(math.pi / prime * places[:, None] * (places + 0.5))
        matrix = torch.kron(matrix, cosines / cosines.norm(dim=1, keepdim=True))
    return matrix.to(like)


def wavelets(x: Tensor, factor: Sequence[int]) -> Tensor:
    """(B, C, *extent) -> (B, product * C, *extent / factor): C averages, then details. A rotation: |det| is 1."""
    blocks = squeeze(x, factor)
    return over_channels(haar(factor, x), blocks).flatten(1, 2)


def unwavelets(x: Tensor, factor: Sequence[int]) -> Tensor:
    """The inverse of `wavelets`."""
    blocks = x.unflatten(1, (math.prod(factor), -1))
    return unsqueeze(over_channels(haar(factor, x).T, blocks), factor)
