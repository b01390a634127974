"""Adversary: the contract of GAN fusion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.modality import Modality
from vqmm.contracts.options import PartOptions
from vqmm.nn.pointwise import blank


@dataclass(frozen=True)
class CriticOutput:
    """What a critic says of a batch.

    Attributes:
        scores: one for each of its networks, (B, 1, *that network's grid); the higher, the more like data.
        features: inner layers of all networks, each (B, C, *grid): what feature matching compares.
    """

    scores: tuple[Tensor, ...]
    features: tuple[Tensor, ...] = ()

    @property
    def each(self) -> Tensor:
        """(B,): the mean score of each sample, every network counting the same."""
        return torch.stack([score.float().flatten(1).mean(dim=1) for score in self.scores]).mean(dim=0)

    def split(self, count: int) -> tuple["CriticOutput", "CriticOutput"]:
        """The first `count` samples, and the rest."""
        first, rest = (
            [[each[part] for each in kind] for kind in (self.scores, self.features)]
            for part in (slice(None, count), slice(count, None))
        )
        return CriticOutput(tuple(first[0]), tuple(first[1])), CriticOutput(tuple(rest[0]), tuple(rest[1]))


@dataclass(frozen=True)
class CriticLosses:
    """What a critic learns from a batch.

    Attributes:
        losses: named, weighted scalars; their sum is what the critic's optimizer lowers.
        fake, real: (B,), the mean scores of outputs and of targets, without a gradient.
    """

    losses: dict[str, Tensor]
    fake: Tensor
    real: Tensor


class Adversary(nn.Module):
    """A critic that trains beside a tokenizer with an optimizer of its own, and adds terms to its loss.

    A plugin registers the class; the core makes one for a modality. It compares the decoder's output with the
    modality's `target(x)`, so it needs a decoder that gives an output (`direct`). What it must define: `forward`,
    `generator_losses` and `critic_losses`; a `UserError` in `__init__` where it cannot serve the modality.

    Promises (`vqmm.testing.check_adversary` checks them):
    - What lies under padding makes no difference.
    - A forward changes nothing: what moves (the vectors of a spectral norm, say) moves in `after_step`, which every
      process calls with the same numbers. The state dict holds everything.
    - `generator_losses` has an entry for each name of `weights`, unweighted, whose gradient reaches `output`;
      `critic_losses` reaches every weight.

    Args:
        labels: how many classes it is told of; 0: none, and `label` is None everywhere.
    """

    name: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}  # libraries: what is imported, and what pip installs for it

    class Options(PartOptions):
        """What the core does with a critic; a subclass adds what it is and how it learns."""

        weight: float = Field(0.8, gt=0, description="of the adversarial term; in units of the balance")
        balance: Literal["adaptive", "gradient", "fixed"] = Field(
            "adaptive",
            description="what a weight of 1 means: a gradient as long as that of the reconstruction, at the decoder's "
            "last layer (Esser et al. 2021) or at its output (as EnCodec); or the term as it is",
        )
        memory: float = Field(0.99, ge=0, lt=1, description="decay of the averages of those gradients' norms")
        start: Literal["flat"] | Annotated[float, Field(ge=0, le=1)] = Field(
            "flat", description="when it counts: once held-out reconstruction is flat, or at a share of the run"
        )
        latest: float = Field(0.5, ge=0, le=1, description="with start flat: the share of the run by which it counts")
        warm: float = Field(0.05, ge=0, le=1, description="the share of the run in which it learns before it counts")
        pause_above: float | None = Field(
            0.95, ge=0.5, le=1, description="it stops learning while it tells so large a share apart; none: never"
        )
        tolerance: float | None = Field(
            0.06, gt=0, description="its terms shrink while reconstruction is worse by this share; none: never"
        )
        learning_rate: float = Field(3e-4, gt=0, description="of the critic, moved as that of the tokenizer")

    options: Options

    def __init__(self, modality: Modality, options: Options | None = None, labels: int = 0):
        super().__init__()
        self.modality = modality
        self.options = self.Options() if options is None else options
        self.labels = labels

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight, above 0, of each term that `generator_losses` gives; "adversarial" is one of them."""
        return {"adversarial": self.options.weight}

    def seen(self, output: Tensor) -> Tensor:
        """What the critic sees of a decoder's output: of logits over ids their probabilities, like one-hot targets."""
        return output.softmax(dim=1) if self.modality.ids is not None else output

    def forward(self, x: Tensor, label: Tensor | None = None) -> CriticOutput:
        """x (B, channels of the target, *extent), zeros under padding; label int64 (B,)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method forward(x, label)")

    def sides(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both as `forward` takes them."""
        return blank(self.seen(output.float()), mask), blank(target.float(), mask)

    def score(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[CriticOutput, CriticOutput]:
        """Outputs and targets, both in one forward pass."""
        both = torch.cat(self.sides(output, target, mask))
        return self(both, None if label is None else torch.cat([label, label])).split(len(output))

    def generator_losses(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None, label: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Named scalars whose gradient reaches the decoder through `output` (B, C, *extent), unweighted."""
        raise NotImplementedError(f"{type(self).__name__} needs a method generator_losses(output, target, mask, label)")

    def critic_losses(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None, label: Tensor | None = None
    ) -> CriticLosses:
        """What trains the critic's own parameters; `output` is detached from the decoder."""
        raise NotImplementedError(f"{type(self).__name__} needs a method critic_losses(output, target, mask, label)")

    def after_step(self, fake: float, real: float) -> None:
        """After each of the critic's optimizer steps; the mean scores of that step, over all processes."""


def output_channels(modality: Modality) -> int:
    """Channels of a decoder's output, and of the target: more than the sample's own where samples are ids."""
    return int(modality.target(modality.example(1)).shape[1])
