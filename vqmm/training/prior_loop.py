"""The optimizer's steps of a prior, and what it makes of held-out examples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vqmm.contracts.prior import Prior
from vqmm.data.loader import EndlessOrder
from vqmm.generation.generator import own_weights
from vqmm.generation.pairs import Examples, Sequences
from vqmm.generation.recipe import PriorTrain
from vqmm.tokenizer.inputs import chunks
from vqmm.tokenizer.model import evaluating
from vqmm.training.base_loop import BaseLoop, Tally
from vqmm.training.checkpoint import prefixed

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class PriorStep(nn.Module):
    """A prior's forward pass in plain containers, which is what Fabric looks into."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def forward(self, ids: Tensor, given: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """`Prior.loss` of the sequences as a dict: `loss`, `nats` and `counts`."""
        return dict(vars(self.prior.loss(ids, given, hidden)))


@dataclass
class PriorReport:
    """Means over the steps since the last report.

    Attributes:
        loss: nats, normalised by blocks.
        bits_per_code: by modality, with and without a condition as the examples come, and with dropout.
    """

    step: int
    loss: float
    bits_per_code: dict[str, float]
    gradient_norm: float
    learning_rate: float
    samples_per_second: float


class PriorLoop(BaseLoop):
    """Training of one prior, in one process."""

    def __init__(self, prior: Prior, examples: Examples, plan: PriorTrain, fabric: "Fabric"):
        self.prior, self.examples = prior, examples
        super().__init__(PriorStep(prior), prior, plan, fabric)
        self.order = EndlessOrder(len(examples), plan.batch_size, plan.seed)

    def train_step(self) -> None:
        """One optimizer step. A `UserError` where the gradient is not finite."""
        self.set_learning_rate()
        size = self.plan.batch_size
        places = range(self.step * size, (self.step + 1) * size)
        sequences = self._here(self.examples.training([self.order.at(place) for place in places]))
        self.wrapped.train()
        output = self.wrapped(*sequences)
        self.fabric.backward(output["loss"])
        self.tally.add({**output, "gradient_norm": self.descend()})
        self.advance(size)

    def _here(self, sequences: Sequences) -> Sequences:
        return Sequences(*(each.to(self.fabric.device, non_blocking=True) for each in sequences))

    def report(self) -> PriorReport:
        """Means since the last call."""
        sums, steps = self.tally.sums, self.tally.steps
        names = [vocabulary_range.name for vocabulary_range in self.prior.vocabulary.ranges]
        totals = zip(names, sums["nats"].tolist(), sums["counts"].tolist(), strict=True)
        bits = {name: nats / count / math.log(2) for name, nats, count in totals if count}
        loss, norm = (float(sums[name]) / steps for name in ("loss", "gradient_norm"))
        speed = self.tally.samples_per_second
        self.tally = Tally()
        return PriorReport(self.step, loss, bits, norm, self.learning_rate, speed)

    # Evaluation

    def bits_per_code(self, examples: Examples, want: str, conditioned: bool = True) -> float:
        """Over at most `evaluate_samples` examples, spread evenly, each ending in a block of `want`: that block's bits
        per code, given the blocks before it or without them."""
        count, limit = len(examples), self.plan.evaluate_samples
        numbers = range(count) if limit >= count else [i * count // limit for i in range(limit)]
        index = [vocabulary_range.name for vocabulary_range in self.prior.vocabulary.ranges].index(want)
        nats, codes = 0.0, 0
        with torch.no_grad(), evaluating(self.wrapped):
            for some in chunks(numbers, self.plan.batch_size):
                output = self.wrapped(*self._here(examples.evaluated(want, some, conditioned)))
                nats += float(output["nats"][index])
                codes += int(output["counts"][index])
        return nats / codes / math.log(2)

    # To a checkpoint and back

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the steps to come, but the examples: a function of the step alone."""
        return {**prefixed("prior.", own_weights(self.prior)), **super().state_dict()}

    @torch.no_grad()
    def load_state_dict(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """As `BaseLoop.load_state_dict`, with the weights."""
        for name, value in own_weights(self.prior).items():
            value.copy_(tensors[f"prior.{name}"])
        super().load_state_dict(step, tensors)
