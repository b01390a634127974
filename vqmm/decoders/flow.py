"""The flow decoder: a conditional normalising flow, the exact likelihood of a sample given the quantizer's vectors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.batch import Batch
from vqmm.contracts.decoder import Decoder, cut, grid_mask
from vqmm.contracts.modality import Modality
from vqmm.nn import ResidualBlock, Stack, conv, up
from vqmm.nn.flow import Scale, Steps, cells, held, scale_factors
from vqmm.utils.errors import UserError

EVALUATION_SEED = 0  # of the noise that evaluation adds, so that it repeats


class FlowDecoder(Decoder):
    """A multi-scale flow between samples and standard normal latents, steered by the vectors.

    Each scale turns blocks of samples into averages and details (`vqmm.nn.flow.Scale`). Details become latents given
    the averages and the vectors; the averages of the coarsest scale, given the vectors alone.

    The likelihood is that of samples whose values are `modality.levels` evenly spaced ones on [-1, 1]: uniform noise as
    wide as the space between two is added (anew in each training step, the same in every evaluation), so the density
    bounds the probability of the sample itself (Theis et al. 2016, arXiv 1511.01844, section 3.1).

    What makes codes matter: vectors reach every coupling, each stack of couplings *starts* with an affine map whose
    means and scales come from them alone, and at the coarsest scale nothing else tells what the averages are. So a few
    steps of training already make a Gaussian decoder of the codes, and couplings learn what is left. Centres are told
    in units of the latents (see `vqmm.nn.flow.Coupling`), without which the encoder learns from little but noise.

    Padding: the flow works in blocks of as many samples as all its scales divide by (by default what a code spans). A
    block without signal takes no part. One that is partly padding counts whole, its padding as zeros to be told, and
    all bits are shared among the elements that are signal. The probability of both together is at most that of the
    signal alone, so this is an upper bound of the signal's bits, and equal where no block is partly padding.

    float32 inside, whatever autocast says: an inverse is as good as its arithmetic.

    Raises:
        UserError: the modality has ids; there are more scales than the strides allow.
    """

    name = "flow"
    likelihood: ClassVar[bool] = True

    class Options(Decoder.Options):
        """How large the flow is, into how many scales it divides a sample, and the temperature of samples."""

        width: int = Field(64, ge=8, description="channels of the networks that turn vectors into means and scales")
        depth: int = Field(4, ge=0, description="rounds of mixing and coupling at each scale")
        scales: int | None = Field(None, ge=1, description="how often blocks are divided; none: as the stride allows")
        temperature: float = Field(0.7, ge=0, description="of samples: 1 draws from the model, 0 takes its centre")

    options: Options

    def __init__(self, modality: Modality, dim: int, options: Options | None = None):
        super().__init__(modality, dim, options)
        if modality.ids is not None:
            raise UserError(
                f"decoder.name: 'flow' is a density of real values, and the samples of {modality.name!r} are integers "
                f"({modality.ids} ids): take 'wavenet', a distribution over ids"
            )
        self.step = 2 / (modality.levels - 1)
        rank, channels, depth, width = modality.rank, modality.channels, self.options.depth, self.options.width
        factors = scale_factors(modality.strides)
        count = len(factors) if self.options.scales is None else self.options.scales
        if count > len(factors):
            raise UserError(
                f"decoder.scales: {count} does not fit: a code that spans {' x '.join(map(str, modality.strides))} "
                f"samples divides into {len(factors)} scales at most"
            )
        self.factors = factors[:count]
        self.context = Context(rank, dim, width, factors)
        self.scales = nn.ModuleList(Scale(rank, channels, factor, depth, width) for factor in self.factors)
        self.top = Steps(rank, channels, depth, width)
        self.leaves = [channels * (math.prod(factor) - 1) for factor in self.factors] + [channels]

    def loss(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """vectors (B, dim, *grid) -> (bits per dimension, which are the elements of `batch.target_or_x`, None)."""
        with torch.autocast(vectors.device.type, enabled=False):
            x = held(batch.target_or_x.float(), batch.mask)
            boxes = self._boxes(batch.size, vectors)
            if self.training:
                noise = torch.rand_like(x)
            else:
                noise = own_noise(torch.rand, EVALUATION_SEED, boxes[:1], x.shape[1:2])[0].to(x)
            x = x + (noise - 0.5) * self.step
            nats = -self.log_density(x, vectors.float(), batch.size, grid_mask(batch, vectors)).sum()
            elements, signal = (int(size.prod(dim=1).sum()) * x.shape[1] for size in (boxes[0].filled, batch.size))
            bits = nats / math.log(2) - elements * math.log2(self.step)
        return bits / max(signal, 1), None

    def sample(self, vectors: Tensor, size: Tensor, seed: int, mask: Tensor | None = None) -> list[Tensor]:
        """As `Decoder.sample`. Each sample has its own generator with that seed: its batch does not change it."""
        with torch.autocast(vectors.device.type, enabled=False):
            noise = own_noise(torch.randn, seed, self._latent_boxes(size, vectors), self.leaves)
            latents = [self.options.temperature * each.to(vectors.device, torch.float32) for each in noise]
            x = self.generate(latents, vectors.float(), size, mask)
        return cut(self.modality.postprocess(x), size)

    def log_density(self, x: Tensor, vectors: Tensor, size: Tensor, mask: Tensor | None = None) -> Tensor:
        """The log-density, in nats (B,), of each x (B, C, *extent): of all its blocks that hold signal."""
        latents, total = self.normalise(x, vectors, size, mask)
        for latent, box in zip(latents, self._latent_boxes(size, vectors), strict=True):
            constant = 0.5 * math.log(2 * math.pi) * latent.shape[1] * cells(latent, box.mask)
            total = total - 0.5 * latent.square().flatten(1).sum(1) - constant
        return total

    def normalise(
        self, x: Tensor, vectors: Tensor, size: Tensor, mask: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """x (B, C, *extent) -> (latents: of each scale, finest first, then of the last averages; log |det| (B,)).

        `size` (B, rank) and `mask` (B, *grid) as in `sample`.
        """
        *contexts, last = self._contexts(vectors, mask)
        first, *boxes = self._boxes(size, vectors)
        x, total, latents = held(x, first.mask), x.new_zeros(len(x)), []
        for scale, context, box in zip(self.scales, contexts, boxes, strict=True):
            x, latent, log_det = scale(x, context, box.mask)
            latents.append(latent)
            total = total + log_det
        latent, log_det = self.top(x, last, [first, *boxes][-1].mask)
        return [*latents, latent], total + log_det

    def generate(self, latents: Sequence[Tensor], vectors: Tensor, size: Tensor, mask: Tensor | None = None) -> Tensor:
        """The inverse of `normalise`: x (B, C, *extent)."""
        *contexts, last = self._contexts(vectors, mask)
        boxes = self._boxes(size, vectors)
        x = self.top.inverse(latents[-1], last, boxes[-1].mask)
        rows = [*zip(self.scales, latents[:-1], contexts, boxes[1:], strict=True)]
        for scale, latent, context, box in reversed(rows):
            assert isinstance(scale, Scale)
            x = scale.inverse(x, latent, context, box.mask)
        return x

    def _contexts(self, vectors: Tensor, mask: Tensor | None) -> list[Tensor]:
        """One for each scale, and one for the last averages."""
        contexts = self.context(vectors, mask)[: max(len(self.scales), 1)]
        return [*contexts[: len(self.scales)], contexts[-1]]

    def _latent_boxes(self, size: Tensor, vectors: Tensor) -> list["Box"]:
        boxes = self._boxes(size, vectors)
        return [*boxes[1:], boxes[-1]]

    def _boxes(self, size: Tensor, vectors: Tensor) -> list["Box"]:
        """Where blocks with signal lie: at full extent, then after each scale."""
        block = [math.prod(factor[axis] for factor in self.factors) for axis in range(self.modality.rank)]
        extent = [n * stride for n, stride in zip(vectors.shape[2:], self.modality.strides, strict=True)]
        filled = -(-size.cpu() // torch.tensor(block)) * torch.tensor(block)
        boxes = [Box.make(filled, extent, vectors.device)]
        for factor in self.factors:
            filled = filled // torch.tensor(factor)
            extent = [n // f for n, f in zip(extent, factor, strict=True)]
            boxes.append(Box.make(filled, extent, vectors.device))
        return boxes


class Context(nn.Module):
    """What the vectors say at the extent of each scale: they pass two residual blocks, then grow level by level.

    Args:
        factors: of all scales that the stride allows, as `scale_factors` gives them.
    """

    def __init__(self, rank: int, dim: int, width: int, factors: Sequence[Sequence[int]]):
        super().__init__()
        blocks = [ResidualBlock(rank, width, width) for _ in range(2)]
        self.start = Stack([conv(rank, dim, width), *blocks])
        self.grow = nn.ModuleList(Stack([up(rank, width, width, factor), nn.SiLU()]) for factor in factors[:0:-1])

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """vectors (B, dim, *grid) -> contexts (B, width, *): after each scale, finest first, the grid's own last."""
        contexts = [self.start(vectors, mask)]
        for layer in self.grow:
            contexts.append(layer(contexts[-1], mask))
        return contexts[::-1]


@dataclass(frozen=True)
class Box:
    """The part of an extent that each sample of a batch fills, from the origin on.

    Attributes:
        own: int64 (B, rank), on the CPU.
        mask: bool (B, *extent), or None where all samples fill the extent.
    """

    filled: Tensor
    extent: tuple[int, ...]
    mask: Tensor | None

    @classmethod
    def make(cls, filled: Tensor, extent: Sequence[int], device: torch.device) -> "Box":
        """The boxes of samples that fill `filled` (int64 (B, rank), on the CPU) of an extent, their mask on `device`.

        The mask is None where every sample fills the whole extent.
        """
        if bool((filled == torch.tensor(extent)).all()):
            return cls(filled, tuple(extent), None)
        mask = torch.ones(len(filled), *extent, dtype=torch.bool, device=device)
        for axis, n in enumerate(extent):
            line = torch.arange(n, device=device) < filled[:, axis : axis + 1].to(device)  # (B, n)
            mask = mask & line.view(len(filled), *[n if other == axis else 1 for other in range(len(extent))])
        return cls(filled, tuple(extent), mask)


def own_noise(draw: Callable[..., Tensor], seed: int, boxes: Sequence[Box], channels: Sequence[int]) -> list[Tensor]:
    """Noise (B, channels, *extent) for each box, zero outside it, on the CPU.

    Every sample starts a generator of its own with the same seed, and draws as much as it fills.
    """
    noise = [torch.zeros(len(box.filled), c, *box.extent) for box, c in zip(boxes, channels, strict=True)]
    drawn: dict[tuple[int, ...], list[Tensor]] = {}  # samples of one size draw the same
    for i in range(len(boxes[0].filled)):
        sizes = [box.filled[i].tolist() for box in boxes]
        if tuple(sizes[0]) not in drawn:
            generator = torch.Generator().manual_seed(seed)
            rows = zip(channels, sizes, strict=True)
            drawn[tuple(sizes[0])] = [draw(c, *size, generator=generator) for c, size in rows]
        for target, source, size in zip(noise, drawn[tuple(sizes[0])], sizes, strict=True):
            target[i][(slice(None), *(slice(0, n) for n in size))] = source
    return noise
