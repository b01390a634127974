"""What the loops of tokenizers and of priors share: the optimizer, sums for a report, and what a checkpoint holds."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqmm.recipe import Optimisation
from vqmm.training.average import Average
from vqmm.training.checkpoint import load_optimizer_state, optimizer_state, prefixed, unprefixed
from vqmm.utils.errors import UserError
from vqmm.utils.schedule import warmup_cosine

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Tally:
    """Sums over the optimizer steps since the last report."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps, self.samples, self._since = 0, 0, time.perf_counter()

    def add(self, values: Mapping[str, Tensor], weight: float = 1) -> None:
        """Add values of one batch, detached, times `weight`."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach() * weight

    @property
    def samples_per_second(self) -> float:
        """By the clock: whatever else was done between the steps counts."""
        return self.samples / (time.perf_counter() - self._since)


class BaseLoop:
    """AdamW with warm-up and cosine, clipped gradients, averaged weights.

    Args:
        forward: the forward pass of `module` in plain containers, which is what Fabric and its strategies look into.
        module: whose weights learn.

    Attributes:
        step: how many optimizer steps were made.
    """

    def __init__(self, forward: nn.Module, module: nn.Module, plan: Optimisation, fabric: "Fabric"):
        self.module, self.plan, self.fabric = module, plan, fabric
        optimizer = torch.optim.AdamW(
            parameter_groups(module, plan.weight_decay), lr=plan.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.wrapped, self.optimizer = fabric.setup(forward, optimizer)
        self.average = Average(module, plan.average)
        self.tally = Tally()
        self.step = 0

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def set_learning_rate(self) -> float:
        """For the step to come. Returns its share of `plan.learning_rate`."""
        factor = warmup_cosine(self.step, self.plan.steps, self.plan.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * factor
        return factor

    def descend(self, keys: Sequence[str] = ()) -> Tensor:
        """One step of the optimizer; an error over a gradient that is not finite names `keys`, the step's samples."""
        plan = self.plan
        some = f"{', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
        not_finite = (
            f"the gradient at step {self.step} is not finite: lower train.learning_rate (it is {plan.learning_rate:g}) "
            f"or raise train.warmup (it is {plan.warmup:g}); what was saved before is good"
            f"{f'; the {len(keys)} samples of that step: {some}' if keys else ''}"
        )
        return descend(self.fabric, self.wrapped, self.optimizer, plan.clip, not_finite)

    def advance(self, samples: int) -> None:
        """The end of an optimizer step over so many samples."""
        self.step += 1
        self.average.update(self.step)
        self.tally.steps += 1
        self.tally.samples += samples

    # To a checkpoint and back

    def state_dict(self) -> dict[str, Tensor]:
        """What decides the steps to come: averages, the optimizer, the randomness of every process; a subclass adds
        its weights."""
        averages = prefixed("average.", self.average.tensors)
        return {**averages, **optimizer_state(self.optimizer), **prefixed("random.", self._random_state())}

    def load_state_dict(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on after `step`, as if there had been no stop. The same number of processes, if bits matter."""
        for name, value in self.average.tensors.items():
            value.copy_(tensors[f"average.{name}"])
        load_optimizer_state(self.optimizer, tensors)
        states, rank = unprefixed("random.", tensors), self.fabric.global_rank
        if rank < len(states["cpu"]):
            torch.set_rng_state(states["cpu"][rank].clone())  # torch misreads a view
            if "cuda" in states and self.fabric.device.type == "cuda":
                torch.cuda.set_rng_state(states["cuda"][rank].clone(), self.fabric.device)
        self.step = step

    def _random_state(self) -> dict[str, Tensor]:
        """uint8 (processes, bytes), by device type."""
        states = {"cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        gathered = {name: self.fabric.all_gather(state.to(self.fabric.device)).cpu() for name, state in states.items()}
        return {name: each.reshape(self.fabric.world_size, -1) for name, each in gathered.items()}


def descend(
    fabric: "Fabric", model: nn.Module, optimizer: torch.optim.Optimizer, clip: float, not_finite: str
) -> Tensor:
    """Clip the gradient, and let the optimizer make its step. Returns the norm that the gradient had before.

    Raises:
        UserError: it is not finite; `not_finite` is what the error says.
    """
    try:
        norm = fabric.clip_gradients(model, optimizer, max_norm=clip)
    except RuntimeError as error:
        if "non-finite" not in str(error):
            raise
        raise UserError(not_finite) from None
    assert norm is not None  # None is for strategies that clip inside the optimizer
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and codebooks do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (kept if parameter.ndim < 2 or name.endswith("codebook") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
