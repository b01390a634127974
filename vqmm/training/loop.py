"""The optimizer's steps. Knows batches and a tokenizer; not where they came from or where they go."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.batch import Batch
from vqmm.data.loader import Loaded, Views, training_batches
from vqmm.errors import UserError
from vqmm.recipe import Train
from vqmm.tokenizer import Tokenizer
from vqmm.training.schedule import warmup_cosine

START_VECTORS_PER_CODE = 16  # latents that k-means gets for each code, data permitting
START_BATCHES = 16  # and how many batches that may take at the most


class TrainingStep(nn.Module):
    """A tokenizer's forward pass in plain containers, which is what Fabric and its strategies look into."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, fields: dict[str, Any]) -> dict[str, Tensor]:
        """The fields of a Batch -> its named losses."""
        return self.tokenizer(Batch(**fields)).losses


@dataclass
class Report:
    """Means over the steps since the last report."""

    step: int
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float
    samples_per_second: float

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


class Loop:
    """Training of one tokenizer: AdamW with warm-up and cosine, clipped gradients, the quantizer's own update."""

    def __init__(self, tokenizer: Tokenizer, views: Views, recipe: Train, fabric: Fabric):
        self.tokenizer, self.views, self.recipe, self.fabric = tokenizer, views, recipe, fabric
        optimizer = torch.optim.AdamW(
            parameter_groups(tokenizer, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.99)
        )
        self.model, self.optimizer = fabric.setup(TrainingStep(tokenizer), optimizer)
        self.batches = self._batches(recipe.workers)
        self.unreadable: dict[str, None] = {}  # in the order in which they were met
        self.step = 0
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps, self._samples, self._since = 0, 0, time.perf_counter()

    def _batches(self, workers: int) -> Iterator[Loaded]:
        return training_batches(self.views, self.recipe.batch_size, self.recipe.seed, workers=workers)

    @torch.no_grad()
    def start_from_data(self) -> None:
        """Give the quantizer latents to start from: the first training views through the untrained encoder."""
        parts: list[tuple[Tensor, Tensor | None]] = []
        wanted = START_VECTORS_PER_CODE * self.tokenizer.quantizer.codebook_size
        for _, (batch, _) in zip(range(START_BATCHES), self._batches(0), strict=False):
            if batch is not None:
                parts.append(self.tokenizer.latents(batch.to(self.fabric.device)))
            if sum(z[:, 0].numel() for z, _ in parts) >= wanted:
                break
        if parts:
            self.tokenizer.quantizer.initialise(*join_latents(parts))

    def advance(self) -> None:
        """One optimizer step over `accumulate` batches."""
        recipe = self.recipe
        factor = warmup_cosine(self.step, recipe.steps, recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        self.model.train()
        for part in range(recipe.accumulate):
            batch, unreadable = next(self.batches)
            self.unreadable |= dict.fromkeys(unreadable)
            if batch is None:
                continue
            fields = {name: value for name, value in vars(batch.to(self.fabric.device)).items() if value is not None}
            with self.fabric.no_backward_sync(self.model, enabled=part + 1 < recipe.accumulate):
                losses = self.model(fields)
                self.fabric.backward(torch.stack([*losses.values()]).sum() / recipe.accumulate)
            self._tally(losses, len(batch), 1 / recipe.accumulate)
        self._tally({"gradient_norm": self._clip()}, 0, 1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokenizer.quantizer.after_step(self._reduce, (self.step + 1) / recipe.steps)
        self.step += 1
        self._steps += 1

    def _clip(self) -> Tensor:
        try:
            norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.recipe.clip)
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            raise UserError(
                f"the gradient at step {self.step} is not finite: lower train.learning_rate (it is "
                f"{self.recipe.learning_rate:g}) or raise train.warmup (it is {self.recipe.warmup:g})"
            ) from None
        assert norm is not None  # None is for strategies that clip inside the optimizer
        return norm

    def _reduce(self, value: Tensor) -> Tensor:
        return self.fabric.all_reduce(value, reduce_op="sum")

    def _tally(self, values: dict[str, Tensor], samples: int, weight: float) -> None:
        self._samples += samples
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach() * weight

    def report(self) -> Report:
        """Means since the last call."""
        means = {name: float(total) / max(self._steps, 1) for name, total in self._sums.items()}
        speed = self._samples / (time.perf_counter() - self._since)
        self._clear()
        return Report(self.step, means, means.pop("gradient_norm"), self.optimizer.param_groups[0]["lr"], speed)


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
