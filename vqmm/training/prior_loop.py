"""The optimizer's steps of a prior, and what it makes of held-out examples."""

import math
import time
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
from vqmm.tokenizer.tokenizer import evaluating
from vqmm.training.average import Average
from vqmm.training.checkpoint import load_optimizer_state, optimizer_state
from vqmm.training.loop import clip_gradients, parameter_groups
from vqmm.utils.schedule import warmup_cosine

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


class PriorLoop:
    """Training of one prior in one process: AdamW with warm-up and cosine, clipped gradients."""

    def __init__(self, prior: Prior, examples: Examples, plan: PriorTrain, fabric: "Fabric"):
        self.prior, self.examples, self.plan, self.fabric = prior, examples, plan, fabric
        optimizer = torch.optim.AdamW(
            parameter_groups(prior, plan.weight_decay), lr=plan.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.model, self.optimizer = fabric.setup(PriorStep(prior), optimizer)
        self.average = Average(prior, plan.average)
        self.order = EndlessOrder(len(examples), plan.batch_size, plan.seed)
        self.step = 0
        self._clear()

    def train_step(self) -> None:
        """One optimizer step. A `UserError` where the gradient is not finite."""
        plan = self.plan
        factor = warmup_cosine(self.step, plan.steps, plan.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.learning_rate * factor
        places = range(self.step * plan.batch_size, (self.step + 1) * plan.batch_size)
        sequences = self._here(self.examples.training([self.order.at(place) for place in places]))
        self.model.train()
        output = self.model(*sequences)
        self.fabric.backward(output["loss"])
        norm = clip_gradients(self.fabric, self.model, self.optimizer, plan, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.step)
        for name, value in (*output.items(), ("gradient_norm", norm)):
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._steps += 1

    def _here(self, sequences: Sequences) -> Sequences:
        return Sequences(*(each.to(self.fabric.device, non_blocking=True) for each in sequences))

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps, self._since = 0, time.perf_counter()

    def report(self) -> PriorReport:
        """Means since the last call."""
        nats, counts = self._sums["nats"].tolist(), self._sums["counts"].tolist()
        names = [vocabulary_range.name for vocabulary_range in self.prior.vocabulary.ranges]
        bits = {
            name: total / count / math.log(2) for name, total, count in zip(names, nats, counts, strict=True) if count
        }
        loss, norm = (float(self._sums[name]) / self._steps for name in ("loss", "gradient_norm"))
        speed = self._steps * self.plan.batch_size / (time.perf_counter() - self._since)
        rate = self.optimizer.param_groups[0]["lr"]
        self._clear()
        return PriorReport(self.step, loss, bits, norm, rate, speed)

    # Judging

    def bits_per_code(self, examples: Examples, want: str, conditioned: bool = True) -> float:
        """Over at most `evaluate_samples` examples, spread evenly, each ending in a block of `want`: that block's bits
        per code, given the blocks before it or without them."""
        count, limit = len(examples), self.plan.evaluate_samples
        numbers = range(count) if limit >= count else [i * count // limit for i in range(limit)]
        index = [vocabulary_range.name for vocabulary_range in self.prior.vocabulary.ranges].index(want)
        nats, codes = 0.0, 0
        with torch.no_grad(), evaluating(self.model):
            for some in chunks(numbers, self.plan.batch_size):
                output = self.model(*self._here(examples.evaluated(want, some, conditioned)))
                nats += float(output["nats"][index])
                codes += int(output["counts"][index])
        return nats / codes / math.log(2)

    # To a checkpoint and back

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the steps to come, but the examples: a function of the step alone."""
        weights = {f"prior.{name}": value for name, value in own_weights(self.prior).items()}
        averages = {f"average.{name}": value for name, value in self.average.tensors.items()}
        states = {"random.cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            states["random.cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        return {**weights, **averages, **optimizer_state(self.optimizer), **states}

    @torch.no_grad()
    def load_state_dict(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Go on after `step`, as if there had been no stop."""
        for name, value in own_weights(self.prior).items():
            value.copy_(tensors[f"prior.{name}"])
        for name, value in self.average.tensors.items():
            value.copy_(tensors[f"average.{name}"])
        load_optimizer_state(self.optimizer, tensors)
        torch.set_rng_state(tensors["random.cpu"].clone())  # torch misreads a view
        if "random.cuda" in tensors and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"].clone(), self.fabric.device)
        self.step = step
