"""Modality: what a plugin says about one kind of signal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm import nn as layers
from vqmm.contracts.batch import Batch
from vqmm.contracts.evaluation import Evaluation
from vqmm.contracts.front import Front
from vqmm.contracts.options import PartOptions
from vqmm.contracts.sample import Sample
from vqmm.nn.masks import masked_mean
from vqmm.utils.errors import UserError


class Modality:
    """One kind of signal: how it is read, collated, encoded, decoded and written.

    A plugin registers the class; the core makes one from its options. It says three things:

    1. *Required*: `name`, `rank`, `channels`, `samples` and `write`.
    2. *Often wanted*, each with a default for signals that are floats near [-1, 1]: `Options`, `crop`, `augment`,
       `collate`, `build_encoder`, `build_decoder`, `reconstruction_loss`, `target`, `postprocess`, and the rest below.
    3. *Objects of their own*: `evaluation` says how samples are evaluated and shown, `front` what must be learnt before
       training. A modality whose samples can be typed is a `vqmm.Strings` too, one whose files hold many samples a
       `vqmm.ManyPerFile`.

    A *sample* here is (C, *extent) without a batch dimension; `rank` is the number of axes of the extent, and of the
    grid of codes.
    """

    # 1. Required

    name: ClassVar[str]
    rank: ClassVar[int]  # 1, 2 or 3
    channels: int  # a class attribute, or set by __init__ from the options

    def samples(self, path: Path) -> Iterator[Sample]:
        """Every item of a file, folder or archive, in a stable order, unread. A `UserError` where there is none.

        `vqmm.file_samples` does it for files under a folder, with labels and splits by the standard rules.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method samples(path)")

    def write(self, sample: Tensor, path: Path) -> Path:
        """Write one finished sample; `path` has no suffix yet. Returns the file."""
        raise NotImplementedError(f"{type(self).__name__} needs a method write(sample, path)")

    # 2. Often wanted

    needs: ClassVar[Mapping[str, str]] = {}  # libraries that must load: what is imported, and what pip installs for it
    levels: ClassVar[int] = 256  # values that a likelihood counts on [-1, 1], evenly spaced; 65,536 for 16-bit audio
    ids: ClassVar[int | None] = None  # where samples are integers: how many there are
    trained: bool = False  # a loaded tokenizer's: what it reads need not be labelled or split as its training data were

    class Options(PartOptions):
        """Options of the default networks; a subclass adds its own. Units in names: `sample_rate_hz`."""

        width: int = Field(64, ge=8, description="channels of the networks at their coarsest level")
        stride: int | tuple[int, ...] = Field(4, description="how many samples a code spans along each axis")
        blocks: int = Field(2, ge=0, description="residual blocks in the encoder and in the decoder")
        attention: bool = Field(False, description="self-attention over the grid, in the encoder and in the decoder")

    options: Options

    def __init__(self, options: Options | None = None):
        self.options = self.Options() if options is None else options
        self.check_strides()

    def check_strides(self) -> None:
        """A `UserError` for strides that the networks cannot have: the default ones take powers of two."""
        try:
            layers.level_factors(self.strides)
        except ValueError as error:
            raise UserError(f"modality.{error}") from None

    def check_samples(self, samples: Iterator[Tensor]) -> None:
        """A look at the training samples, as they are read: a `UserError` or a `Remark` where options do not fit."""

    def as_written(self, sample: Tensor) -> Tensor:
        """The sample as it would be read back after `write` (8-bit rounding, say)."""
        return sample

    # From samples to a batch

    def crop(self, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        """A training view (random, drawn from `generator`), or without a generator the stated view of evaluation."""
        return sample

    @property
    def augments(self) -> bool:
        """Whether `augment` alters anything."""
        return False

    def augment(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """The whole sample otherwise (moved, mirrored, faster), and still what it is: for `vqmm encode --augment`."""
        return sample

    def collate(self, samples: Sequence[Tensor], keys: Sequence[str], labels: Sequence[int] | None = None) -> Batch:
        """Samples side by side, padded with zeros at the end of each axis to one extent that the strides divide."""
        longest = [max(s.shape[1 + axis] for s in samples) for axis in range(self.rank)]
        extent = [-(-n // stride) * stride for n, stride in zip(longest, self.strides, strict=True)]
        padded = any(list(s.shape[1:]) != extent for s in samples)
        x = torch.zeros(len(samples), self.channels, *extent, dtype=samples[0].dtype)
        mask = torch.zeros(len(samples), *extent, dtype=torch.bool) if padded else None
        for i, sample in enumerate(samples):
            box = tuple(slice(0, n) for n in sample.shape[1:])
            x[i][(slice(None), *box)] = sample
            if mask is not None:
                mask[i][box] = True
        return Batch(x, tuple(keys), mask, None if labels is None else torch.tensor(labels))

    # Networks

    @property
    def strides(self) -> tuple[int, ...]:
        """How many samples a code spans, for each axis."""
        stride = self.options.stride
        full = (stride,) * self.rank if isinstance(stride, int) else tuple(stride)
        if len(full) != self.rank:
            raise UserError(f"modality.stride: {stride!r} has {len(full)} axes: {self.name} has {self.rank}")
        return full

    def build_encoder(self, dim: int) -> nn.Module:
        """x (B, C, *extent) -> z (B, dim, *grid): any `nn.Module`.

        One that derives from `vqmm.nn.Network` can say more: that it takes a mask, how far it sees, that it streams.
        """
        o = self.options
        return layers.ConvEncoder(self.rank, self.channels, dim, self.strides, o.width, o.blocks, o.attention)

    def build_decoder(self, dim: int) -> nn.Module:
        """vectors (B, dim, *grid) -> output: any `nn.Module`, or a `vqmm.nn.Network`, as for `build_encoder`."""
        o = self.options
        return layers.ConvDecoder(self.rank, self.channels, dim, self.strides, o.width, o.blocks, o.attention)

    def target(self, x: Tensor) -> Tensor:
        """What the decoder's output is compared with (one-hot vectors for ids, say)."""
        return x

    def reconstruction_loss(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """A scalar, the mean over the elements where `mask` (B, *extent) is True; by default the squared error."""
        return masked_mean(F.mse_loss(output, target, reduction="none"), mask)

    def postprocess(self, output: Tensor) -> Tensor:
        """From the decoder's output to samples (B, C, *extent)."""
        return output

    def output_activation(self, output: Tensor) -> Tensor:
        """The decoder's output brought smoothly into the range of samples: for the generator of a GAN."""
        return output

    def example(self, batch: int) -> Tensor:
        """Random x for tests: (batch, C, *extent) with two to four codes along each axis."""
        extent = [stride * (2 + (axis + batch) % 3) for axis, stride in enumerate(self.strides)]
        return torch.rand(batch, self.channels, *extent) * 2 - 1

    # 3. Objects of their own

    def evaluation(self) -> Evaluation:
        """How samples are evaluated, compared and shown."""
        return Evaluation()

    def front(self) -> Front | None:
        """What must be learnt before training, the same object at every call; None: nothing."""
        return None
