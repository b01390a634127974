"""Metrics of reconstructions: those of torchmetrics, each with the rule that it follows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import MeanSquaredError


@dataclass
class Metric:
    """A metric of reconstructions and its rule.

    Attributes:
        accumulator: `update(outputs, originals)` is called with samples (n, C, *extent) of one extent; `compute()`
            gives a scalar.
        rule: range, weighting and settings, for whoever reads the number.
        higher_is_better: which way is up; None where neither is (a ratio of lengths).
        prepare: applied to both sides first (to bring them to the range that the rule states).
    """

    accumulator: torchmetrics.Metric
    rule: str
    higher_is_better: bool | None
    prepare: Callable[[Tensor], Tensor] = lambda x: x

    def __post_init__(self) -> None:
        # one process of a run evaluates while the others wait: a metric that gathers from them would wait for ever
        self.accumulator.distributed_available_fn = lambda: False

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Take in samples (n, C, *extent) of one extent and their originals, in float32 and after `prepare`."""
        self.accumulator.update(
            self.prepare(outputs.float().contiguous()), self.prepare(originals.float().contiguous())
        )


class NormalizedMSE(torchmetrics.Metric):
    """The mean squared error over the variance of all originals: 1 is what their mean alone would reach."""

    full_state_update = False
    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("error", "total", "square", "count"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Take in samples and their originals, of one shape; everything is summed in float64."""
        originals = originals.double()
        self.error += (outputs.double() - originals).square().sum()
        self.total += originals.sum()
        self.square += originals.square().sum()
        self.count += originals.numel()

    def compute(self) -> Tensor:
        """A float64 scalar, at best 0. It says nothing where all originals are one value; NaN before the first."""
        variance = self.square / self.count - (self.total / self.count).square()
        return (self.error / self.count) / variance


def basic_metrics(
    prepare: Callable[[Tensor], Tensor] = lambda x: x, scale: str = "the samples' own"
) -> dict[str, Metric]:
    """`mse` and `nmse`, which any signal has."""
    return {
        "mse": Metric(MeanSquaredError(), f"mean over all values, range {scale}", False, prepare),
        "nmse": Metric(NormalizedMSE(), "mse over the variance of all the originals together", False, prepare),
    }
