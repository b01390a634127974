"""A moving average of the weights: what is evaluated and saved, beside what is trained.

Polyak and Juditsky 1992; the decay warms up, min(decay, (1 + t) / (10 + t)), so that the start is forgotten.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Of every floating tensor in a module's state dict, codebooks included; None as decay: off."""

    def __init__(self, module: nn.Module, decay: float | None):
        self.module, self.decay = module, decay
        self.tensors = {name: value.clone() for name, value in self._current().items()} if decay is not None else {}

    def _current(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.module.state_dict().items() if value.is_floating_point()}

    @torch.no_grad()
    def restart(self) -> None:
        """Forget what was: begin at the weights as they are."""
        for name, value in self._current().items() if self.tensors else ():
            self.tensors[name].copy_(value)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number `step`, from 1."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        current = self._current()
        torch._foreach_lerp_(list(self.tensors.values()), [current[name] for name in self.tensors], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the averages inside the block, and its own weights after it."""
        current = self._current() if self.tensors else {}
        weights = {name: value.clone() for name, value in current.items()}
        _copy(current, self.tensors)
        try:
            yield
        finally:
            _copy(current, weights)


@torch.no_grad()
def _copy(to: dict[str, Tensor], what: dict[str, Tensor]) -> None:
    for name, value in what.items():
        to[name].copy_(value)
