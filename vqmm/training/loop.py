"""The optimizer's steps. Knows batches and a tokenizer; not where they came from or where they go."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.batch import Batch, Codes
from vqmm.data.loader import Loaded, Views, training_batches
from vqmm.evaluation.usage import CodeUsage
from vqmm.recipe import Optimisation, Train
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.adversarial import AdversarialTrainer
from vqmm.training.average import Average
from vqmm.training.checkpoint import load_optimizer_state, optimizer_state
from vqmm.training.health import Event
from vqmm.training.profile import Profile
from vqmm.utils.errors import UserError
from vqmm.utils.schedule import warmup_cosine

if TYPE_CHECKING:
    from lightning_fabric import Fabric

START_VECTORS_PER_CODE = 16  # latents that k-means gets for each code, data permitting
START_BATCHES = 16  # and how many batches that may take at the most


class TrainingStep(nn.Module):
    """A tokenizer's forward pass in plain containers, which is what Fabric and its strategies look into."""

    def __init__(self, tokenizer: Tokenizer, adversarial: AdversarialTrainer | None = None):
        super().__init__()
        self.tokenizer = tokenizer
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
        output = self.tokenizer(batch)
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


class Loop:
    """Training of one tokenizer: AdamW with warm-up and cosine, clipped gradients, the quantizer's own update.

    Several processes share one stream of batches: part a of step s on process r of R is batch (s A + a) R + r of it,
    for A accumulated batches a step. Each batch weighs by its number of samples, so a step is that of one process on
    the joined batch.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        views: Views,
        recipe: Train,
        fabric: "Fabric",
        adversarial: AdversarialTrainer | None = None,
    ):
        self.adversarial = adversarial
        self.tokenizer, self.views, self.recipe, self.fabric = tokenizer, views, recipe, fabric
        optimizer = torch.optim.AdamW(
            parameter_groups(tokenizer, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.inner = TrainingStep(tokenizer, adversarial)
        self.model, self.optimizer = fabric.setup(self.inner, optimizer)
        self.profile = Profile(recipe.profile, fabric.device)
        self.profile.watch(tokenizer.quantizer, "quantizer", within="forward")
        self.average = Average(tokenizer, recipe.average)
        self.usage = CodeUsage(tokenizer.quantizer.sizes)  # of this process, since the epoch began
        self.unreadable: dict[str, None] = {}  # in the order in which they were met
        self.events: list[Event] = []  # of the contest, for whoever takes them
        self.step = 0
        self._clear()

    @cached_property
    def _batches(self) -> Iterator[Loaded]:
        """This process's batches, from the current step on."""
        recipe, world = self.recipe, self.fabric.world_size
        first = self.step * recipe.accumulate * world + self.fabric.global_rank
        return training_batches(self.views, recipe.batch_size, recipe.seed, first, stride=world, workers=recipe.workers)

    @torch.no_grad()
    def start_from_data(self) -> None:
        """Give the quantizer latents to start from: the first training views through the untrained encoder.

        Every process takes the same ones.
        """
        parts: list[tuple[Tensor, Tensor | None]] = []
        wanted = START_VECTORS_PER_CODE * self.tokenizer.quantizer.codebook_size
        batches = training_batches(self.views, self.recipe.batch_size, self.recipe.seed)
        for _, (batch, _) in zip(range(START_BATCHES), batches, strict=False):
            if batch is not None:
                parts.append(self.tokenizer.latents(batch.to(self.fabric.device)))
            if sum(z[:, 0].numel() for z, _ in parts) >= wanted:
                break
        if parts:
            self.tokenizer.quantizer.initialise(*join_latents(parts))
        self.average.restart()

    def train_step(self, stop: int = 0) -> int:
        """One optimizer step over `accumulate` batches of every process.

        `stop`: a signal that this process was sent; the largest of all processes comes back, so that all leave at
        the same step.
        """
        recipe = self.recipe
        factor = warmup_cosine(self.step, recipe.steps, recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        with self.profile.part("data"):
            parts = [next(self._batches) for _ in range(recipe.accumulate)]
        samples, stop = self._agree(sum(len(batch) for batch, _ in parts if batch is not None), stop)
        self.model.train()
        for number, (batch, unreadable) in enumerate(parts):
            self.unreadable |= dict.fromkeys(unreadable)
            fields = {} if batch is None else vars(batch.to(self.fabric.device))
            share = 0.0 if batch is None else len(batch) / max(samples, 1)
            with self.fabric.no_backward_sync(self.model, enabled=number + 1 < recipe.accumulate):
                with self.profile.part("forward"):
                    losses = self.model({name: value for name, value in fields.items() if value is not None})
                with self.profile.part("backward"):
                    # the strategy averages over processes; the shares of all of them add up to one
                    self.fabric.backward(torch.stack([*losses.values()]).sum() * share * self.fabric.world_size)
            if self.adversarial is not None:
                with self.profile.part("critic"):
                    self.adversarial.learn(share, number + 1 < recipe.accumulate)
            if batch is not None:
                self._tally(losses, share)
            if self.inner.codes is not None:
                self.usage.update(self.inner.codes)
        with self.profile.part("optimizer"):
            norm = clip_gradients(self.fabric, self.model, self.optimizer, recipe, self.step, parts)
            self._tally({"gradient_norm": norm}, 1 / self.fabric.world_size)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.adversarial is not None:
            with self.profile.part("critic"):
                self.events += self.adversarial.finish(factor, self._reduce)
        with self.profile.part("quantizer"):
            self.tokenizer.quantizer.after_step(self._reduce, (self.step + 1) / recipe.steps)
        self.step += 1
        self.average.update(self.step)
        self._steps += 1
        self._samples += samples
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
        return self.recipe.batch_size * self.recipe.accumulate * self.fabric.world_size

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

    def _tally(self, values: dict[str, Tensor], weight: float) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach() * weight

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps, self._samples, self._since = 0, 0, time.perf_counter()

    def report(self) -> Report:
        """Means since the last call."""
        mine = {name: float(total) for name, total in self._sums.items()}
        everyones = [mine] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(everyones, mine)  # a process without a sample has no losses to add
        names = dict.fromkeys(name for sums in everyones for name in sums)
        means = {name: sum(sums.get(name, 0.0) for sums in everyones) / max(self._steps, 1) for name in names}
        speed = self._samples / (time.perf_counter() - self._since)
        step, rate = self.step, self.optimizer.param_groups[0]["lr"]
        self._clear()
        return Report(step, means, means.pop("gradient_norm"), rate, speed)

    # To a checkpoint and back

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the steps to come, but the data: a function of the step alone."""
        weights = {f"tokenizer.{name}": value for name, value in self.tokenizer.state_dict().items()}
        counts = {
            f"usage.{m}.{s}": self._reduce(stage_counts.to(self.fabric.device, copy=True))
            for m, stages in enumerate(self.usage.counts)
            for s, stage_counts in enumerate(stages)
        }
        weights |= {f"average.{name}": value for name, value in self.average.tensors.items()}
        weights |= {} if self.adversarial is None else self.adversarial.state_dict()
        return {**weights, **optimizer_state(self.optimizer), **self._pack_random(), **counts}

    def check_equal(self) -> None:
        """All processes hold the same weights, bit for bit; anything else is a fault of this program."""
        world = self.fabric.world_size
        if world > 1:
            prints = [""] * world
            critic = "" if self.adversarial is None else self.adversarial.fingerprint()
            torch.distributed.all_gather_object(prints, self.tokenizer.fingerprint() + critic)
            if len(set(prints)) > 1:
                raise RuntimeError(f"the processes have drifted apart by step {self.step}: fingerprints {prints}")

    def _pack_random(self) -> dict[str, Tensor]:
        states = {"random.cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            states["random.cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        gathered = {name: self.fabric.all_gather(state.to(self.fabric.device)).cpu() for name, state in states.items()}
        return {name: states.reshape(self.fabric.world_size, -1) for name, states in gathered.items()}

    def load_state_dict(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Go on after `step`, as if there had been no stop. The same number of processes, if bits matter."""
        weights = {
            name.removeprefix("tokenizer."): value for name, value in tensors.items() if name[:10] == "tokenizer."
        }
        self.tokenizer.load_state_dict(weights)
        load_optimizer_state(self.optimizer, tensors)
        if self.adversarial is not None:
            self.adversarial.load_state_dict(step, tensors)
        for name, value in self.average.tensors.items():
            value.copy_(tensors[f"average.{name}"])
        if self.fabric.is_global_zero:  # which carries what all processes had counted
            sizes = enumerate(self.usage.sizes)
            self.usage.add([[tensors[f"usage.{m}.{s}"] for s in range(len(stages))] for m, stages in sizes])
        rank = self.fabric.global_rank
        if rank < len(tensors["random.cpu"]):
            torch.set_rng_state(tensors["random.cpu"][rank].clone())  # torch misreads a view
            if "random.cuda" in tensors and self.fabric.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["random.cuda"][rank].clone(), self.fabric.device)
        self.step = step
        self.__dict__.pop("_batches", None)


def clip_gradients(
    fabric: "Fabric",
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Optimisation,
    step: int,
    parts: Sequence[Loaded] = (),
) -> Tensor:
    """The norm that the gradient had before it was clipped to `plan.clip`.

    Raises:
        UserError: it is not finite; the samples of `parts` are named.
    """
    try:
        norm = fabric.clip_gradients(model, optimizer, max_norm=plan.clip)
    except RuntimeError as error:
        if "non-finite" not in str(error):
            raise
        keys = [key for batch, _ in parts if batch is not None for key in batch.key]
        some = f"{', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
        raise UserError(
            f"the gradient at step {step} is not finite: lower train.learning_rate (it is {plan.learning_rate:g}) or "
            f"raise train.warmup (it is {plan.warmup:g}); what was saved before is good"
            f"{f'; the {len(keys)} samples of that step: {some}' if keys else ''}"
        ) from None
    assert norm is not None  # None is for strategies that clip inside the optimizer
    return norm


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and codebooks do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (kept if parameter.ndim < 2 or name.endswith("codebook") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def join_latents(parts: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Batches of latents as one, padded to the largest grid if their grids differ."""
    grids = [z.shape[2:] for z, _ in parts]
    largest = [max(axis) for axis in zip(*grids, strict=True)]
    if all(list(grid) == largest for grid in grids) and all(mask is None for _, mask in parts):
        return torch.cat([z for z, _ in parts]), None
    latents, masks = [], []
    for z, mask in parts:
        pad = [n for have, want in zip(reversed(z.shape[2:]), reversed(largest), strict=True) for n in (0, want - have)]
        latents.append(F.pad(z, pad))
        masks.append(F.pad(torch.ones_like(z[:, 0], dtype=torch.bool) if mask is None else mask, pad))
    return torch.cat(latents), torch.cat(masks)
