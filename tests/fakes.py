"""One fake for every contract, each with what its first real tenant will need."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

import vqmm
from vqmm import nn as layers
from vqmm.contracts.decoder import cut
from vqmm.contracts.quantizer import Quantized, Reduce, grid_size
from vqmm.nn.masks import masked_mean, pool_mask
from vqmm.quantizers.vector import VectorQuantizer


class TwoMaps(vqmm.Quantizer):
    """A quantizer with two maps of different sizes: a coarse one, and a fine one over what it leaves."""

    name = "two-maps"

    class Options(vqmm.Quantizer.Options):
        codebook_size: int = 16

    def __init__(self, options: "TwoMaps.Options | None" = None, rank: int = 2):
        super().__init__(options, rank)
        o = self.options
        self.coarse = VectorQuantizer(VectorQuantizer.Options(dim=o.dim, codebook_size=o.codebook_size), rank)
        self.fine = VectorQuantizer(VectorQuantizer.Options(dim=o.dim, codebook_size=2 * o.codebook_size), rank)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return (*self.coarse.sizes, *self.fine.sizes)

    def _pool(self, z: Tensor) -> Tensor:
        """Half the grid, rounded up."""
        odd = [n for size in reversed(z.shape[2:]) for n in (0, size % 2)]
        return {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[self.rank](F.pad(z, odd), 2)

    def _spread(self, vectors: Tensor, grid) -> Tensor:
        for axis, size in enumerate(grid, start=2):
            vectors = vectors.repeat_interleave(2, dim=axis).narrow(axis, 0, size)
        return vectors

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        kept = z if mask is None else torch.where(mask.unsqueeze(1), z, 0)
        pooled = self._pool(kept)
        coarse = self.coarse(pooled, None if mask is None else pool_mask(mask, pooled.shape[2:]))
        spread = self._spread(coarse.vectors, z.shape[2:])
        fine = self.fine(z - spread, mask)
        codes = vqmm.Codes((*coarse.codes.maps, *fine.codes.maps), grid_size(z), mask)
        losses = {f"{name}/{m}": v for m, found in enumerate((coarse, fine)) for name, v in found.losses.items()}
        return Quantized(spread + fine.vectors, codes, losses)

    def lookup(self, codes: vqmm.Codes) -> Tensor:
        coarse = self.coarse.lookup(vqmm.Codes(codes.maps[:1], codes.size))
        fine = self.fine.lookup(vqmm.Codes(codes.maps[1:], codes.size))
        return self._spread(coarse, fine.shape[2:]) + fine

    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        pooled = self._pool(z)
        self.coarse.initialise(pooled, None if mask is None else pool_mask(mask, pooled.shape[2:]))
        with torch.no_grad():
            self.fine.initialise(z - self._spread(self.coarse(pooled).vectors, z.shape[2:]), mask)

    def after_step(self, reduce: Reduce, progress: float) -> None:
        self.coarse.after_step(reduce, progress)
        self.fine.after_step(reduce, progress)


class Likelihood(vqmm.Decoder):
    """A decoder that is a distribution: a Gaussian with a learnt scale. It samples, and has no output to criticise."""

    name = "likelihood"

    class Options(vqmm.Decoder.Options):
        temperature: float = Field(1.0, ge=0)

    def __init__(self, modality: vqmm.Modality, dim: int, options: "Likelihood.Options | None" = None):
        super().__init__(modality, dim, options)
        self.mean = modality.build_decoder(dim)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def loss(self, vectors: Tensor, batch: vqmm.Batch) -> tuple[Tensor, None]:
        error = (self.mean(vectors) - self.modality.target(batch.target_or_x)) / self.log_scale.exp()
        return masked_mean(0.5 * error.square() + self.log_scale, batch.mask), None

    def sample(self, vectors: Tensor, size: Tensor, seed: int, mask: Tensor | None = None) -> list[Tensor]:
        mean = self.mean(vectors)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
        return cut(self.modality.postprocess(mean + self.options.temperature * self.log_scale.exp() * noise), size)


class NotesEvaluation(vqmm.Evaluation):
    rate_unit = "note"

    def size_in_units(self, sample: Tensor) -> float:
        return float(sample.shape[1])


class Notes(vqmm.Modality):
    """Ids of varying length, padded and masked, with labels: one line of numbers a file, its folder the label."""

    name = "notes"
    rank = 1
    channels = 1
    ids: ClassVar[int] = 12

    class Options(vqmm.Modality.Options):
        width: int = 16
        stride: int = 2

    def samples(self, path: Path) -> Iterator[vqmm.Sample]:
        for file in sorted(path.rglob("*.txt")) if path.is_dir() else [path]:
            label = file.parent.name if path.is_dir() and file.parent != path else None
            yield vqmm.Sample(file.name, partial(self._read, file), label)

    def _read(self, file: Path) -> Tensor:
        return torch.tensor([[int(word) for word in file.read_text().split()]])

    def write(self, sample: Tensor, path: Path) -> Path:
        file = path.with_name(path.name + ".txt")
        file.write_text(" ".join(map(str, sample[0].tolist())))
        return file

    def build_encoder(self, dim: int) -> nn.Module:
        o = self.options
        encoder = layers.ConvEncoder(1, o.width, dim, self.strides, o.width, o.blocks, o.attention)
        return _Embedded(self.ids, o.width, encoder)

    def build_decoder(self, dim: int) -> nn.Module:
        o = self.options
        return layers.ConvDecoder(1, self.ids, dim, self.strides, o.width, o.blocks, o.attention)

    def target(self, x: Tensor) -> Tensor:
        return F.one_hot(x[:, 0], self.ids).movedim(-1, 1).float()

    def postprocess(self, output: Tensor) -> Tensor:
        return output.argmax(dim=1, keepdim=True)

    def reconstruction_loss(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked_mean(F.cross_entropy(output, target, reduction="none").unsqueeze(1), mask)

    def example(self, batch: int) -> Tensor:
        return torch.randint(self.ids, (batch, self.channels, 2 * (2 + batch % 3)))

    def evaluation(self) -> vqmm.Evaluation:
        return NotesEvaluation()


class _Embedded(layers.Network):
    takes_mask = True

    def __init__(self, ids: int, width: int, network: nn.Module):
        super().__init__()
        self.embedding, self.network = nn.Embedding(ids, width), network

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.network(self.embedding(x[:, 0]).movedim(-1, 1), mask)


class Moving(vqmm.Modality):
    """A rank-3 modality: short gray films in `.npz` files, another stride in time than in space."""

    name = "moving"
    rank = 3
    channels = 1

    class Options(vqmm.Modality.Options):
        width: int = 16
        stride: tuple[int, int, int] = (2, 4, 4)
        blocks: int = 1

    def samples(self, path: Path) -> Iterator[vqmm.Sample]:
        films = torch.from_numpy(np.load(path)["x"])
        for i in range(len(films)):
            yield vqmm.Sample(str(i), partial(films.__getitem__, i))

    def write(self, sample: Tensor, path: Path) -> Path:
        file = path.with_name(path.name + ".npz")
        np.savez(file, x=sample[None].numpy())
        return file


@vqmm.hookimpl
def register_modalities(register):
    register(Notes)
    register(Moving)


@vqmm.hookimpl
def register_quantizers(register):
    register(TwoMaps)


@vqmm.hookimpl
def register_decoders(register):
    register(Likelihood)
