"""Modality: what a plugin says about one kind of signal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm import nn as layers
from vqmm.contracts.batch import Batch
from vqmm.contracts.options import PartOptions
from vqmm.contracts.sample import Sample
from vqmm.nn.masks import masked_mean
from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vqmm.contracts.baseline import Baseline
    from vqmm.contracts.features import Features
    from vqmm.contracts.labels import LabelClassifier
    from vqmm.contracts.metric import Metric


class Modality:
    """One kind of signal: how it is read, collated, encoded, decoded, judged and written.

    A plugin registers the class; the core makes one from its options. Required of a subclass: `name`, `rank`,
    `channels`, `samples` and `write`. The rest has defaults for signals that are floats near [-1, 1].

    A *sample* here is (C, *extent) without a batch dimension; `rank` is the number of axes of the extent, and of the
    grid of codes.
    """

    name: ClassVar[str]
    rank: ClassVar[int]  # 1, 2 or 3
    channels: int  # a class attribute, or set by __init__ from the options
    rate_unit: ClassVar[str] = "sample"  # rates are reported in bits per this
    main_metric: ClassVar[str] = "nmse"  # the metric that a progress line shows
    levels: ClassVar[int] = 256  # values that a likelihood counts on [-1, 1], evenly spaced; 65,536 for 16-bit audio
    ids: ClassVar[int | None] = None  # where samples are integers: how many there are
    needs: ClassVar[Mapping[str, str]] = {}  # libraries that must load: what is imported, and what pip installs for it
    takes_strings: ClassVar[bool] = False  # a string in a list of pairs or a prompt is a sample, and no path to one

    class Options(PartOptions):
        """Options of the default networks; a subclass adds its own. Units in names: `sample_rate_hz`."""

        width: int = Field(64, ge=8, description="channels of the networks at their coarsest level")
        stride: int | tuple[int, ...] = Field(4, description="how many samples a code spans along each axis")
        blocks: int = Field(2, ge=0, description="residual blocks in the encoder and in the decoder")
        attention: bool = Field(False, description="self-attention over the grid, in the encoder and in the decoder")

    @property
    def view(self) -> str:
        """What `crop` shows in evaluation, in words."""
        return "whole samples"

    def __init__(self, options: BaseModel | None = None):
        self.options: Any = self.Options() if options is None else options
        self.check_strides()

    def check_strides(self) -> None:
        """A `UserError` for strides that the networks cannot have: the default ones take powers of two."""
        try:
            layers.level_factors(self.strides)
        except ValueError as error:
            raise UserError(f"modality.{error}") from None

    # From disk and back

    def samples(self, path: Path) -> Iterator[Sample]:
        """Every item of a file, folder or archive, in a stable order, unread. A `UserError` where there is none."""
        raise NotImplementedError(f"{type(self).__name__} needs a method samples(path)")

    def write(self, sample: Tensor, path: Path) -> Path:
        """Write one finished sample; `path` has no suffix yet. Returns the file."""
        raise NotImplementedError(f"{type(self).__name__} needs a method write(sample, path)")

    def ids_of(self, text: str) -> Tensor:
        """The sample (C, *extent), as it is in a batch, that a string is. For those with `takes_strings`."""
        raise NotImplementedError(f"{type(self).__name__} needs a method ids_of(text)")

    def file_of(self, key: str) -> str:
        """The file that the sample of a key was read from, by the rules of keys: its own, unless a file holds many."""
        return key

    def join(self, samples: Sequence[Tensor]) -> Tensor:
        """Finished samples of one file, in order, as one sample to be written. For those whose `file_of` says so."""
        raise NotImplementedError(f"{type(self).__name__} needs a method join(samples)")

    def as_written(self, sample: Tensor) -> Tensor:
        """The sample as it would be read back after `write` (8-bit rounding, say)."""
        return sample

    # What must be learnt before training (a subword model)

    def fit(self, samples: Iterator[Tensor]) -> None:
        """Learn from the training samples, once, before the networks are built."""

    def save(self, folder: Path) -> None:
        """Write what `fit` learnt into the tokenizer's folder."""

    def load(self, folder: Path) -> None:
        """Read it back."""

    def state_bytes(self) -> bytes:
        """What `fit` learnt, for fingerprints: the same bytes mean the same codes for the same samples."""
        return b""

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

    @property
    def network_options(self) -> dict[str, Any]:
        """What `vqmm.nn.Encoder` and `Decoder` take beside shapes."""
        options = self.options
        return {"width": options.width, "blocks": options.blocks, "attention": options.attention}

    def build_encoder(self, dim: int) -> nn.Module:
        """x (B, C, *extent) -> z (B, dim, *grid). A module with a true `takes_mask` is called with (x, mask)."""
        return layers.Encoder(self.rank, self.channels, dim, self.strides, **self.network_options)

    def build_decoder(self, dim: int) -> nn.Module:
        """vectors (B, dim, *grid) -> output. A module with a true `takes_mask` is called with (vectors, grid mask)."""
        return layers.Decoder(self.rank, self.channels, dim, self.strides, **self.network_options)

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

    # Judging and showing

    def metrics(self) -> "dict[str, Metric]":
        """Fresh metrics by metric name; each compares finished samples with originals and states its rule."""
        from vqmm.contracts.metric import basic_metrics

        return basic_metrics()

    def label_classifier(self) -> "LabelClassifier | None":
        """A fresh classifier of samples, to see whether labels survive a reconstruction; None: there is none."""
        return None

    def features(self) -> "Features | None":
        """What sets of samples are compared by, fresh (`vqmm.evaluation.realism`); None: there is nothing."""
        return None

    def baselines(self) -> "Sequence[Baseline]":
        """What people would use without a network, fresh: `vqmm compare` puts it beside the recipes."""
        return ()

    def size_in_units(self, sample: Tensor) -> float:
        """How much of `rate_unit` a sample (C, *extent) of a batch is: pixels, seconds, characters. 1 for "sample"."""
        return 1.0

    def show(self, *rows: Sequence[Tensor], names: Sequence[str] | None = None) -> "Image | str":
        """A picture or HTML fragment of rows of samples: originals over reconstructions, say.

        `names`: of the rows, for what names them; a picture does not.
        """
        from vqmm.contracts.show import heatmaps

        return heatmaps(rows)

    def example(self, batch: int) -> Tensor:
        """Random x for tests: (batch, C, *extent) with two to four codes along each axis."""
        extent = [stride * (2 + (axis + batch) % 3) for axis, stride in enumerate(self.strides)]
        return torch.rand(batch, self.channels, *extent) * 2 - 1
