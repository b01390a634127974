"""Where the time of a step goes: data, forward, quantizer, backward, optimizer."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Profile:
    """Adds up seconds by part. Waits for the GPU at each border, so it is off unless asked for."""

    def __init__(self, on: bool, device: torch.device):
        self.on, self.device = on, device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to the part of that name; do nothing where profiling is off."""
        if not self.on:
            yield
            return
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    def watch(self, module: nn.Module, name: str, within: str) -> None:
        """Time the forward of a module as a part of its own, taken out of the part around it."""
        if not self.on:
            return
        starts: list[float] = []
        module.register_forward_pre_hook(lambda *_: starts.append(self._now()))

        def stop(*_: object) -> None:
            took = self._now() - starts.pop()
            if module.training:  # evaluation between steps is no part of a step
                self.seconds[name] += took
                self.seconds[within] -= took

        module.register_forward_hook(stop)

    def shares(self) -> dict[str, float]:
        """The share of each part in their sum, largest first."""
        total = sum(self.seconds.values()) or 1.0
        return {name: took / total for name, took in sorted(self.seconds.items(), key=lambda item: -item[1])}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
