"""A fake modality that is measured in seconds, with baselines: lines of numbers, one file a sample."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

import vqmm
from vqmm.contracts.baseline import Baseline

RATE_HZ = 100
SHOWN = 32  # values of a view


class Rounded(Baseline):
    """Every value to so many decimals, at 4 bits each, with 8 bits for all; remembers what it was given."""

    family = "rounded"
    rule = "4 bits for every decimal, and 8 in all"
    fitted: ClassVar[list[tuple[str, list[int]]]] = []  # (name, lengths of the training samples), in every process
    given: ClassVar[list[tuple[str, list[int]]]] = []  # (name, lengths of the held-out samples)

    def __init__(self, decimals: int):
        self.name, self.decimals = f"rounded to {decimals}", decimals

    def label(self, rate: float) -> str:
        return f"rounded, {rate:g} bits"

    def fit(self, samples: Iterator[Tensor]) -> None:
        self.fitted.append((self.name, [sample.shape[1] for sample in samples]))

    def reconstruct(self, samples: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        self.given.append((self.name, [sample.shape[1] for sample in samples]))
        bits = 8 + sum(4 * self.decimals * sample.numel() for sample in samples)
        return [sample.round(decimals=self.decimals) for sample in samples], bits


class Missing(Baseline):
    """One whose library is not there."""

    name = "missing"
    rule = "none"

    def reconstruct(self, samples: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        raise vqmm.UserError("this baseline needs a library that is not installed")


class Cropping(Rounded):
    """One that loses the last value."""

    def reconstruct(self, samples: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        outputs, bits = super().reconstruct(samples)
        return [output[:, :-1] for output in outputs], bits


KINDS = {"rounded": Rounded, "cropping": Cropping}


class ClicksEvaluation(vqmm.Evaluation):
    rate_unit: ClassVar[str] = "second"

    def __init__(self, known: str):
        self.known = known

    @property
    def view(self) -> str:
        return f"the first {SHOWN} values"

    def size_in_units(self, sample: Tensor) -> float:
        return sample.shape[1] / RATE_HZ

    def baselines(self) -> Sequence[Baseline]:
        told = (word.partition(":") for word in self.known.split())
        return [Missing() if name == "missing" else KINDS[name](int(decimals)) for name, _, decimals in told]


class Clicks(vqmm.Modality):
    """Lines of numbers, 100 a second; a view is the first 32 of them."""

    name = "clicks"
    rank = 1
    channels = 1

    class Options(vqmm.Modality.Options):
        width: int = 16
        known: str = "rounded:1 rounded:2"  # its baselines

    def samples(self, path: Path) -> Iterator[vqmm.Sample]:
        for file in sorted(path.glob("*.txt")) if path.is_dir() else [path]:
            yield vqmm.Sample(file.name, partial(self._read, file))

    def _read(self, file: Path) -> Tensor:
        try:
            return torch.tensor([[float(word) for word in file.read_text().split()]])
        except ValueError as error:
            raise vqmm.Unreadable(f"{file.name}: {error}") from None

    def write(self, sample: Tensor, path: Path) -> Path:
        file = path.with_name(path.name + ".txt")
        file.write_text(" ".join(f"{value:.9g}" for value in sample[0].tolist()))
        return file

    def crop(self, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        return sample[:, :SHOWN]

    def evaluation(self) -> vqmm.Evaluation:
        return ClicksEvaluation(self.options.known)


@vqmm.hookimpl
def register_modalities(register):
    register(Clicks)
