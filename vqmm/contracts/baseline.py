"""Baseline: what people would use without a network; `vqmm compare` puts it beside the recipes."""

from collections.abc import Iterator, Sequence

from torch import Tensor


class Baseline:
    """A way to code samples that no recipe has trained, offered by a modality's `Evaluation.baselines`.

    Attributes:
        name: what it is called in progress lines and on disk; no two of a modality share one.
        family: what those that differ in their rate alone have in common: one line of a plot. Empty: the name.
        rule: how it codes, and how its bits are counted; for whoever reads its rate.
    """

    name: str
    family: str = ""
    rule: str

    def label(self, rate: float) -> str:
        """What the table calls it, once its rate in bits per `Evaluation.rate_unit` is measured."""
        return self.name

    def fit(self, samples: Iterator[Tensor]) -> None:
        """Learn from training samples (C, *extent), whole, as the modality's batch holds them. Most learn nothing."""

    def reconstruct(self, samples: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """What comes back for each of some held-out samples (C, *extent), and the bits of all of them together.

        Called with many samples at once, several times where there are very many. A sample comes back with its shape
        and in its range.

        Raises:
            UserError: it cannot be done here (a library is missing); the comparison goes on without it.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method reconstruct(samples)")
