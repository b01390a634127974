"""The optimizer's steps. Knows batches and a model; not where they came from or where they go."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqmm.contracts.batch import Batch, Codes
from vqmm.data.loader import Loaded, Views, training_batches
from vqmm.evaluation.usage import CodeUsage
from vqmm.recipe import Train
from vqmm.tokenizer.model import Model
from vqmm.training.adversarial import AdversarialTrainer
from vqmm.training.base_loop import BaseLoop, Tally
from vqmm.training.checkpoint import prefixed, unprefixed
from vqmm.training.health import Event
from vqmm.training.profile import Profile

if TYPE_CHECKING:
    from lightning_fabric import Fabric

START_BATCHES = 16  # of which a quantizer gets latents to start from, at the most


class TrainingStep(nn.Module):
    """A model's forward pass in plain containers, which is what Fabric and its strategies look into."""

    def __init__(self, model: Model, adversarial: AdversarialTrainer | None = None):
        super().__init__()
        self.model = model
        self.adversarial = adversarial  # no module: the critic's weights are none of this step's
        self.codes: Codes | None = None  # of the last batch, for whoever counts them

    def forward(self, fields: dict[str, Any]) -> dict[str, Tensor]:
        """The fields of a Batch -> its named losses.

        No fields (a process whose batch was empty): a zero that depends on every weight, so that its part in the
        average over processes is there.
        """
        self.codes = None
        if not fields:
            return {"nothing": torch.stack([p.sum() for p in self.parameters()]).sum() * 0}
        batch = Batch(**fields)
        output = self.model(batch)
        self.codes = output.quantized.codes
        return output.losses if self.adversarial is None else self.adversarial.joined(output, batch)


@dataclass
class Report:
    """Means over the steps since the last report, and over the processes."""

    step: int
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float
    samples_per_second: float

    @property
    def loss(self) -> float:
        """The sum of `losses`, each weighted as it was in the step: what training makes small."""
        return sum(self.losses.values())


class Loop(BaseLoop):
    """Training of one model, with the quantizer's own update and the critic's part of a step.

    Several processes share one stream of batches: part a of step s on process r of R is batch (s A + a) R + r of it,
    for A accumulated batches a step. Each batch weighs by its number of samples, so a step is that of one process on
    the joined batch.
    """

    plan: Train

    def __init__(
        self,
        model: Model,
        views: Views,
        plan: Train,
        fabric: "Fabric",
        adversarial: AdversarialTrainer | None = None,
    ):
        self.model, self.views, self.adversarial = model, views, adversarial
        self.inner = TrainingStep(model, adversarial)
        super().__init__(self.inner, model, plan, fabric)
        self.profile = Profile(plan.profile, fabric.device)
        self.profile.watch(model.quantizer, "quantizer", within="forward")
        self.usage = CodeUsage(model.quantizer.sizes)  # of this process, since the epoch began
        self.unreadable: dict[str, None] = {}  # in the order in which they were met
        self.events: list[Event] = []  # of the critic, for whoever takes them

    @cached_property
    def _batches(self) -> Iterator[Loaded]:
        """This process's batches, from the current step on."""
        plan, world = self.plan, self.fabric.world_size
        first = self.step * plan.accumulate * world + self.fabric.global_rank
        return training_batches(self.views, plan.batch_size, plan.seed, first, stride=world, workers=plan.workers)

    def start_from_data(self) -> None:
        """Let the model start from the first training views (`Model.start_from_data`), the same in every process."""
        batches = training_batches(self.views, self.plan.batch_size, self.plan.seed)
        first = zip(range(START_BATCHES), batches, strict=False)
        self.model.start_from_data(batch.to(self.fabric.device) for _, (batch, _) in first if batch is not None)
        self.average.restart()

    def train_step(self, stop: int = 0) -> int:
        """One optimizer step over `accumulate` batches of every process.

        `stop`: a signal that this process was sent; the largest of all processes comes back, so that all leave at
        the same step.
        """
        plan = self.plan
        factor = self.set_learning_rate()
        with self.profile.part("data"):
            parts = [next(self._batches) for _ in range(plan.accumulate)]
        samples, stop = self._agree(sum(len(batch) for batch, _ in parts if batch is not None), stop)
        self.wrapped.train()
        for number, (batch, unreadable) in enumerate(parts):
            self.unreadable |= dict.fromkeys(unreadable)
            fields = {} if batch is None else vars(batch.to(self.fabric.device))
            share = 0.0 if batch is None else len(batch) / max(samples, 1)
            with self.fabric.no_backward_sync(self.wrapped, enabled=number + 1 < plan.accumulate):
                with self.profile.part("forward"):
                    losses = self.wrapped({name: value for name, value in fields.items() if value is not None})
                with self.profile.part("backward"):
                    # the strategy averages over processes; the shares of all of them add up to one
                    self.fabric.backward(torch.stack([*losses.values()]).sum() * share * self.fabric.world_size)
            if self.adversarial is not None:
                with self.profile.part("critic"):
                    self.adversarial.learn(share, number + 1 < plan.accumulate)
            if batch is not None:
                self.tally.add(losses, share)
            if self.inner.codes is not None:
                self.usage.update(self.inner.codes)
        with self.profile.part("optimizer"):
            norm = self.descend([key for batch, _ in parts if batch is not None for key in batch.key])
            self.tally.add({"gradient_norm": norm}, 1 / self.fabric.world_size)
        if self.adversarial is not None:
            with self.profile.part("critic"):
                self.events += self.adversarial.finish(factor, self._reduce)
        with self.profile.part("quantizer"):
            self.model.quantizer.after_step(self._reduce, (self.step + 1) / plan.steps)
        self.advance(samples)
        return stop

    def _agree(self, samples: int, stop: int) -> tuple[int, int]:
        """The number of samples of all processes, and the largest signal that any was sent."""
        if self.fabric.world_size == 1:
            return samples, stop
        gathered = torch.zeros(self.fabric.world_size, 2, dtype=torch.int64, device=self.fabric.device)
        gathered[self.fabric.global_rank] = torch.tensor([samples, stop])
        gathered = self._reduce(gathered)
        return int(gathered[:, 0].sum()), int(gathered[:, 1].max())

    @property
    def samples_per_step(self) -> int:
        """How many samples all processes together draw for one optimizer step, damaged ones counted."""
        return self.plan.batch_size * self.plan.accumulate * self.fabric.world_size

    def close_epoch(self) -> tuple[int, CodeUsage] | None:
        """After the step that ends an epoch: its number from 1, and the use of codes in it by all processes."""
        count = len(self.views.samples)
        epoch = self.step * self.samples_per_step // count
        if epoch == (self.step - 1) * self.samples_per_step // count or not self.usage.sizes:
            return None
        usage, self.usage = self.usage, CodeUsage(self.usage.sizes)
        usage.counts = [
            [self._reduce(stage_counts.to(self.fabric.device)) for stage_counts in counts] for counts in usage.counts
        ]
        return epoch, usage

    def _reduce(self, value: Tensor) -> Tensor:
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(value)  # Fabric's own adds a barrier to each
        return value

    def report(self) -> Report:
        """Means since the last call."""
        mine = {name: float(total) for name, total in self.tally.sums.items()}
        everyones = [mine] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(everyones, mine)  # a process without a sample has no losses to add
        names = dict.fromkeys(name for sums in everyones for name in sums)
        means = {name: sum(sums.get(name, 0.0) for sums in everyones) / max(self.tally.steps, 1) for name in names}
        speed = self.tally.samples_per_second
        self.tally = Tally()
        return Report(self.step, means, means.pop("gradient_norm"), self.learning_rate, speed)

    # To a checkpoint and back

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the steps to come, but the data: a function of the step alone."""
        counts = {
            f"usage.{m}.{s}": self._reduce(stage_counts.to(self.fabric.device, copy=True))
            for m, stages in enumerate(self.usage.counts)
            for s, stage_counts in enumerate(stages)
        }
        critic = {} if self.adversarial is None else self.adversarial.state_dict()
        return {**prefixed("model.", self.model.state_dict()), **critic, **super().state_dict(), **counts}

    def check_equal(self) -> None:
        """All processes hold the same weights, bit for bit; anything else is a fault of this program."""
        world = self.fabric.world_size
        if world > 1:
            prints = [""] * world
            critic = "" if self.adversarial is None else self.adversarial.fingerprint()
            torch.distributed.all_gather_object(prints, self.model.fingerprint() + critic)
            if len(set(prints)) > 1:
                raise RuntimeError(f"the processes have drifted apart by step {self.step}: fingerprints {prints}")

    def load_state_dict(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """As `BaseLoop.load_state_dict`, with all that `state_dict` has."""
        self.model.load_state_dict(unprefixed("model.", tensors))
        if self.adversarial is not None:
            self.adversarial.load_state_dict(step, tensors)
        if self.fabric.is_global_zero:  # which carries what all processes had counted
            sizes = enumerate(self.usage.sizes)
            self.usage.add([[tensors[f"usage.{m}.{s}"] for s in range(len(stages))] for m, stages in sizes])
        super().load_state_dict(step, tensors)
        self.__dict__.pop("_batches", None)
