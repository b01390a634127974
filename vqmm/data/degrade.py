"""What a tokenizer learns to undo: a batch's x is spoilt, its target stays clean.

Noise is that of denoising autoencoders (Vincent et al. 2008, doi 10.1145/1390156.1390294), hidden boxes are those of
context encoders (Pathak et al. 2016, arXiv 1604.07379).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from vqmm.contracts.batch import Batch
from vqmm.contracts.options import PartOptions
from vqmm.utils.errors import UserError, explained, one_of, unknown

_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Degradation(PartOptions):
    """One way to spoil samples of real numbers, of any rank."""

    @property
    def said(self) -> str:
        """What the networks are given, in words."""
        raise NotImplementedError(f"{type(self).__name__} needs a property said")

    def spoil(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """(C, *extent), no axis empty -> a new tensor of that shape; what is random is drawn from `generator`."""
        raise NotImplementedError(f"{type(self).__name__} needs a method spoil(sample, generator)")

    def applied(self, batch: Batch, generators: Sequence[torch.Generator]) -> Batch:
        """The batch with x spoilt, sample by sample, and the clean one as its target.

        Each sample is spoilt within its own extent and by its own generator, so what becomes of it depends on nothing
        beside it, and padding stays as it is.

        Raises:
            UserError: the samples are whole numbers (ids).
        """
        if not batch.x.is_floating_point():
            raise UserError(
                f"train.degrade: samples that are whole numbers ({batch.x.dtype}, ids) cannot be degraded: take null, "
                "or a modality of real numbers"
            )
        x = batch.x.clone()
        for sample, size, generator in zip(x, batch.size.tolist(), generators, strict=True):
            box = (slice(None), *(slice(0, n) for n in size))
            if all(size):
                sample[box] = self.spoil(sample[box], generator)
        return replace(batch, x=x, target=batch.target_or_x)


class Noise(Degradation):
    """Adds Gaussian noise, not clipped."""

    name: Literal["noise"] = "noise"
    sigma: float = Field(
        0.2, gt=0, description="standard deviation; samples lie in [-1, 1], so 0.2 is 25.5 of 255 gray levels"
    )

    @property
    def said(self) -> str:
        """As `Degradation.said`: the noise, with sigma and the range that it refers to."""
        return f"given with Gaussian noise of sigma {self.sigma:g} on the range [-1, 1]"

    def spoil(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """As `Degradation.spoil`: every value has noise of its own, which may take it out of [-1, 1]."""
        return sample + self.sigma * torch.randn(sample.shape, generator=generator).to(sample)


class Downsample(Degradation):
    """Averages over cells and repeats each mean over its cell, so that the extent, and the grid of codes, stay.

    The last cell of an axis may be smaller than the others.
    """

    name: Literal["downsample"] = "downsample"
    factor: int | tuple[int, ...] = Field(2, description="side of a cell; a number, or one for each axis")

    @field_validator("factor")
    @classmethod
    def _makes_cells(cls, factor: int | tuple[int, ...]) -> int | tuple[int, ...]:
        sides = (factor,) if isinstance(factor, int) else factor
        if not sides or min(sides) < 1 or max(sides) < 2:
            raise ValueError("take a whole number, at least 2, or one for each axis, at least 1 and not all of them 1")
        return factor

    @property
    def said(self) -> str:
        """As `Degradation.said`: the sides of a cell."""
        sides = str(self.factor) if isinstance(self.factor, int) else " x ".join(map(str, self.factor))
        return f"given averaged over {sides} values along each axis and repeated"

    def spoil(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """As `Degradation.spoil`: nothing is drawn. A `UserError` for a `factor` of another number of axes."""
        rank = sample.ndim - 1
        sides = (self.factor,) * rank if isinstance(self.factor, int) else self.factor
        if len(sides) != rank:
            raise UserError(f"train.degrade.factor: {list(sides)} is for {len(sides)} axes, and samples have {rank}")
        cell = tuple(min(side, n) for side, n in zip(sides, sample.shape[1:], strict=True))
        spoilt = _POOL[rank](sample[None], cell, ceil_mode=True)[0]
        for axis, (side, n) in enumerate(zip(cell, sample.shape[1:], strict=True), start=1):
            spoilt = spoilt.repeat_interleave(side, dim=axis).narrow(axis, 0, n)
        return spoilt


class Mask(Degradation):
    """Sets boxes at random places to 0, the middle of the range; they may overlap."""

    name: Literal["mask"] = "mask"
    boxes: int = Field(4, ge=1, le=10_000)
    side: float = Field(0.25, gt=0, le=1, description="of a box, as a share of the sample's, along each axis")

    @property
    def said(self) -> str:
        """As `Degradation.said`: how many boxes, and their side as a share of the sample's."""
        boxes = "a box" if self.boxes == 1 else f"{self.boxes} boxes"
        return f"given with {boxes} of {self.side:g} of each axis hidden"

    def spoil(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """As `Degradation.spoil`: a box hides all channels, and at least one position along each axis."""
        spoilt = sample.clone()
        for _ in range(self.boxes):
            box = [slice(None)]
            for n in sample.shape[1:]:
                side = max(round(self.side * n), 1)
                start = int(torch.randint(n - side + 1, (), generator=generator))
                box.append(slice(start, start + side))
            spoilt[tuple(box)] = 0
        return spoilt


KINDS: dict[str, type[Noise] | type[Downsample] | type[Mask]] = {"noise": Noise, "downsample": Downsample, "mask": Mask}


def read_degradation(given: object) -> Noise | Downsample | Mask | None:
    """From a recipe: None, a name, or a mapping {name: noise, sigma: 0.1}.

    Raises:
        UserError: a name, option or value that does not fit, with what would.
    """
    if given is None or isinstance(given, Noise | Downsample | Mask):
        return given
    options = {"name": given} if isinstance(given, str) else given
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        raise UserError(f"give a name, or a mapping with a name, such as {{name: noise, sigma: 0.1}}. {one_of(KINDS)}")
    kind = KINDS.get(options["name"])
    if kind is None:
        raise unknown("degradation", options["name"], KINDS)
    with explained(options["name"], kind.model_fields):
        return kind.model_validate(options)
