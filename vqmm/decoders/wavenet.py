"""The autoregressive decoder: p(sample | vectors), one position after the other.

VQ-VAE with a WaveNet or PixelCNN decoder (van den Oord et al. 2017, arXiv 1711.00937, sections 4.1 and 4.3): the
vectors are brought to the sample's extent by a small learnt network and condition every gated block. A line gets
dilated convolutions (arXiv 1609.03499); a picture or film masked ones with causal self-attention (arXiv 1606.05328,
arXiv 1712.09763).

A strong decoder predicts a sample from its own past and has no need for codes. Two things speak for the codes: they
enter every block at every position, and in training a share `forget` of the past is hidden, the whole of it for some
samples, so that what the codes say is worth learning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.batch import Batch
from vqmm.contracts.decoder import Decoder, cut, grid_mask
from vqmm.contracts.modality import Modality
from vqmm.nn.causal import Cache, CausalAttention, CausalConv, GatedBlock, Register
from vqmm.nn.layers import ChannelNorm, ResidualBlock, Stack, conv, prime_factors, up
from vqmm.nn.likelihood import Categorical, Logistics, MuLaw
from vqmm.nn.masks import masked_mean
from vqmm.nn.pointwise import Pointwise, blank
from vqmm.utils.errors import UserError

BLOCKS = {1: 10, 2: 4, 3: 4}  # by rank
WINDOW = {1: 0, 2: 32, 3: 2}
DOUBLINGS = 10  # of a line's dilation, 1 to 512, before it starts again


class WaveNetDecoder(Decoder):
    """A likelihood of samples, in bits per dimension, and samples drawn from it.

    The loss of integer samples (text) is that of their ids. Floats are taken on the modality's levels: a mixture of
    logistics gives each level a probability, so bits compare with the sample's own bits; with `mu-law` a waveform is
    first rounded to 256 uneven levels, and the bits are those of what is left.
    """

    name = "wavenet"
    likelihood: ClassVar[bool] = True
    evaluation_limit: ClassVar[int | None] = 64

    class Options(Decoder.Options):
        """How large the network is, how far it looks back, which distribution it gives, and how samples are drawn."""

        width: int = Field(32, ge=8, description="channels of every block")
        blocks: int | None = Field(None, ge=1, description="gated blocks; by default 10 for a line, 4 otherwise")
        kernel: int = Field(3, ge=2, description="positions a convolution spans along each axis; odd but for a line")
        attention: int | None = Field(
            None,
            ge=0,
            description="steps of the first axis (rows of a picture, frames of a film) that self-attention looks back "
            "over, 0 for none; its cost grows with how many positions they hold. By default 0 for a line, 32 rows, "
            "2 frames",
        )
        likelihood: Literal["logistics", "mu-law"] = Field(
            "logistics", description="of float samples; mu-law: 256 classes, for waveforms"
        )
        mixtures: int = Field(5, ge=1, description="components of the mixture of logistics")
        forget: float = Field(0.1, ge=0, le=1, description="share of the past that is hidden in training")
        dropout: float = Field(0.0, ge=0, lt=1, description="share of a block's inputs set to zero in training")
        temperature: float = Field(1.0, ge=0, description="of sampling; 0: the likeliest at each position")

    options: Options

    def __init__(self, modality: Modality, dim: int, options: Options | None = None):
        super().__init__(modality, dim, options)
        o = self.options
        rank = modality.rank
        if rank > 1 and o.kernel % 2 == 0:
            raise UserError(f"decoder.kernel: {o.kernel} is even: {modality.name} has {rank} axes, take an odd one")
        self.distribution = build_likelihood(modality, o)
        self.condition = Condition(rank, dim, o.width, modality.strides)
        self.network = WaveNet(
            rank,
            self.distribution.inputs,
            o.width,
            blocks=BLOCKS[rank] if o.blocks is None else o.blocks,
            kernel=o.kernel,
            window=WINDOW[rank] if o.attention is None else o.attention,
            dropout=o.dropout,
        )

    def loss(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, None]:
        """The mean of -log2 p over the positions and channels that count: bits per dimension."""
        condition = self.condition(vectors, grid_mask(batch, vectors))
        levels = self.levels(batch.target_or_x, batch.mask)
        if condition.shape[2:] != levels.shape[2:]:
            raise ValueError(
                f"wavenet: vectors of {tuple(vectors.shape)} stand for an extent of {tuple(condition.shape[2:])}, "
                f"samples have {tuple(levels.shape[2:])}: the encoder's grid must be the extent divided by the strides"
            )
        features = self.features(levels, condition, batch.mask)
        bits = self.distribution.bits(features, levels).unsqueeze(1)
        return masked_mean(bits, batch.mask) / self.modality.channels, None

    def levels(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Samples (B, C, *extent) -> int64 levels, 0 where there is padding, whatever stood there."""
        if not x.is_floating_point() and self.modality.ids is None:
            raise ValueError(
                f"wavenet: {self.modality.name} has {x.dtype} samples and does not say how many ids there are: set "
                "its attribute `ids`"
            )
        return self.distribution.levels(blank(x, mask))

    def features(self, levels: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """levels (B, C, *extent), condition (B, width, *extent) -> (B, width, *extent): what the distribution of each
        position is made from; it depends on levels before that position alone."""
        seen = known(self.distribution.embed(levels))
        if self.training and self.options.forget:
            seen = seen * kept(levels, self.options.forget)
        return self.network(blank(seen, mask), condition, mask)

    @torch.no_grad()
    def sample(self, vectors: Tensor, size: Tensor, seed: int, mask: Tensor | None = None) -> list[Tensor]:
        """One position after the other. Each sample has a generator of its own, made from the seed, and draws only for
        its own positions: what else is in the batch makes no difference."""
        condition = self.condition(vectors, mask)
        extent = condition.shape[2:]
        inside = boxes(size, extent).to(condition.device)
        noise = self._noise(inside, seed)
        inside, condition = inside.flatten(1), condition.flatten(2)
        levels = torch.zeros(
            len(vectors), self.modality.channels, math.prod(extent), dtype=torch.long, device=condition.device
        )
        state = self.network.start(len(vectors), extent)
        padded = not inside.all()
        for position in inside.any(dim=0).nonzero().flatten().tolist():
            at = slice(position, position + 1)
            here = inside[:, at] if padded else None
            features = self.network.look(position, state, condition[:, :, at], here)
            levels[:, :, position] = self.distribution.draw(
                features.squeeze(2), noise[:, position], self.options.temperature
            )
            seen = known(self.distribution.embed(levels[:, :, at]))
            self.network.remember(blank(seen, here), position, state)
        return self.finish(levels.unflatten(2, extent), size)

    def _noise(self, inside: Tensor, seed: int) -> Tensor:
        """Uniform numbers (B, positions, draws): those of a sample's own positions in raster order, 0 elsewhere."""
        noise = torch.zeros(len(inside), inside[:1].numel(), self.distribution.draws)
        for sample_noise, where in zip(noise, inside.flatten(1).cpu(), strict=True):
            generator = torch.Generator().manual_seed(seed)
            sample_noise[where] = torch.rand(int(where.sum()), self.distribution.draws, generator=generator)
        return noise.to(inside.device)

    def finish(self, levels: Tensor, size: Tensor) -> list[Tensor]:
        """levels (B, C, *extent) -> finished samples, each cut to its size."""
        return cut(self.modality.postprocess(self.modality.target(self.distribution.values(levels))), size)


def build_likelihood(modality: Modality, options: WaveNetDecoder.Options) -> Logistics | Categorical:
    """The distribution of a modality's samples: `Categorical` of ids; `Logistics` of floats, or `MuLaw` if asked for.

    Raises:
        UserError: mu-law for samples that are ids, or that have more than one axis.
    """
    ids = modality.ids
    if options.likelihood == "mu-law":
        if ids is not None or modality.rank != 1:
            what = f"{ids} ids" if ids is not None else f"{modality.rank} axes"
            raise UserError(
                f"decoder.likelihood: mu-law is for waveforms, and {modality.name} has {what}: leave it out"
            )
        return MuLaw(modality.channels, options.width)
    if ids is not None:
        return Categorical(modality.channels, options.width, ids)
    return Logistics(modality.channels, options.width, modality.levels, options.mixtures)


def known(seen: Tensor) -> Tensor:
    """With a channel of ones: unlike a border, padding or what is forgotten, this is there."""
    return torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)


def kept(levels: Tensor, forget: float) -> Tensor:
    """(B, 1, *extent), 1 where a position is kept. A share of `forget` is hidden: half of that in samples that are
    hidden whole, the rest in single positions."""
    whole = torch.rand(len(levels), *[1] * (levels.ndim - 1), device=levels.device) < forget / 2
    single = torch.rand_like(levels[:, :1], dtype=torch.float) < forget / (2 - forget)
    return (~(whole | single)).float()


def boxes(size: Tensor, extent: Sequence[int]) -> Tensor:
    """size int64 (B, rank) -> bool (B, *extent): True in each sample's own box."""
    inside = torch.ones(len(size), *extent, dtype=torch.bool)
    for axis, length in enumerate(extent):
        line = torch.arange(length) < size[:, axis : axis + 1].cpu()
        inside = inside & line.view(len(size), *(length if a == axis else 1 for a in range(len(extent))))
    return inside


class Condition(nn.Module):
    """Vectors (B, dim, *grid) -> (B, width, *grid * stride), by a residual block and transposed convolutions."""

    def __init__(self, rank: int, dim: int, width: int, strides: Sequence[int]):
        super().__init__()
        middle = 2 * width
        layers: list[nn.Module] = [conv(rank, dim, middle), ResidualBlock(rank, middle, width)]
        for factor in zip_longest(*map(prime_factors, strides), fillvalue=1):
            layers += [nn.SiLU(), up(rank, middle, width, factor)]
            middle = width
        self.layers = Stack([*layers, nn.SiLU(), Pointwise(middle, width), ChannelNorm(width)])

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """vectors (B, dim, *grid), mask bool (B, *grid) -> (B, width, *grid * stride); padding is not looked at."""
        return self.layers(vectors, mask)


@dataclass
class WaveNetState:
    """Where sampling stands in each layer."""

    first: Register
    blocks: list[Register]
    attention: Cache | None


class WaveNet(nn.Module):
    """Features of each position, from what is known of the positions before it and from the condition.

    Args:
        inputs: channels of what is known of a position; one more says that it is known.
        window: steps of the first axis that the attention in the middle looks back over; 0: no attention.
    """

    def __init__(self, rank: int, inputs: int, width: int, *, blocks: int, kernel: int, window: int, dropout: float):
        super().__init__()
        self.first = CausalConv(rank, inputs + 1, width, 2 * kernel + 1, mask="A")
        self.blocks: Any = nn.ModuleList(
            GatedBlock(
                rank,
                width,
                kernel,
                dilation=2 ** (block % DOUBLINGS) if rank == 1 else 1,
                condition=width,
                skip=width,
                dropout=dropout,
            )
            for block in range(blocks)
        )
        self.norm = ChannelNorm(width) if window else nn.Identity()
        self.attention = CausalAttention(rank, width, heads=1, window=window) if window else None
        self.middle = blocks // 2  # blocks before the attention
        self.join = Pointwise(2 * width, width)
        self.last = ChannelNorm(width)

    def forward(self, seen: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """seen (B, inputs + 1, *extent), zeros in padding; condition (B, width, *extent) -> (B, width, *extent)."""
        h = self.first(seen)
        total = h
        for index, block in enumerate(self.blocks):
            if index == self.middle and self.attention is not None:
                h = h + self.attention(self.norm(h), mask)
            h, skip = block(h, condition, mask)
            total = total + skip
        return self._join(total, condition)

    def _join(self, total: Tensor, condition: Tensor) -> Tensor:
        return self.last(F.silu(self.join(F.silu(torch.cat([total, condition], dim=1)))))

    def start(self, batch: int, extent: Sequence[int]) -> WaveNetState:
        """A state for `batch` samples of that extent."""
        return WaveNetState(
            self.first.start(batch, extent),
            [block.start(batch, extent) for block in self.blocks],
            None if self.attention is None else self.attention.start(batch, extent),
        )

    def look(self, position: int, state: WaveNetState, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """condition (B, width, 1), mask bool (B, 1) -> the features (B, width, 1) of a position not yet known."""
        h = self.first.look(position, state.first)
        total = h
        for index, block in enumerate(self.blocks):
            if index == self.middle and self.attention is not None and state.attention is not None:
                attended, _ = self.attention.step(self.norm(h), position, state.attention, mask)
                h = h + attended
            (h, skip), _ = block.step(h, position, state.blocks[index], condition, mask)
            total = total + skip
        return self._join(total, condition)

    def remember(self, seen: Tensor, position: int, state: WaveNetState) -> None:
        """Keep what is now known of that position: (B, inputs + 1, 1)."""
        self.first.remember(seen, position, state.first)
