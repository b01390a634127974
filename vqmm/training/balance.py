"""How much several losses pull at a decoder: weights that mean the same whatever the losses' own scale.

It knows names and numbers; whoever calls it measures the norms.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

Kind = Literal["adaptive", "gradient", "fixed"]

SMALLEST = 1e-4  # times the reference is added to what it is divided by, so that no ratio is above 1e4


class Running:
    """A moving average without the bias of its start: sum of decay^k x_k over sum of decay^k."""

    def __init__(self, decay: float):
        self.decay, self.total, self.weight = decay, 0.0, 0.0

    def add(self, value: float) -> None:
        """Take in the next value; all before it lose the share 1 - decay of their weight."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + 1 - self.decay

    @property
    def value(self) -> float | None:
        """None before the first."""
        return self.total / self.weight if self.weight else None

    def state_dict(self) -> list[float]:
        """Two numbers for a checkpoint: the sum of the weighted values and that of the weights."""
        return [self.total, self.weight]

    def load_state_dict(self, numbers: Iterable[float]) -> None:
        """Go on from what `state_dict` gave."""
        self.total, self.weight = numbers


class Balance:
    """Factors for terms, from the norms of their gradients and of the reconstruction's, averaged over steps.

    A term's factor is weight |grad of the reconstruction| / |grad of the term|, so that weight 1 pulls as hard as the
    reconstruction does. With the norms taken at the decoder's last layer that is the adaptive weight of Esser et al.
    2021 (arXiv 2012.09841, equation 7); at its output, what EnCodec's balancer makes of its losses (Defossez et al.
    2022, arXiv 2210.13438, section 3.4), in units in which the reconstruction's own gradient stays as it is.

    The norms of a step make the factors of the next ones: a step's factors are the same for all its batches and in all
    processes, and the first step in which a term could count only measures.
    """

    def __init__(self, weights: Mapping[str, float], kind: Kind, memory: float):
        self.weights, self.kind = dict(weights), kind
        self.reference = Running(memory)
        self.norms = {name: Running(memory) for name in self.weights}

    def factors(self) -> dict[str, float]:
        """What each term is multiplied by: 0 before anything was measured."""
        if self.kind == "fixed":
            return dict(self.weights)
        reference = self.reference.value
        if reference is None:
            return dict.fromkeys(self.weights, 0.0)
        return {name: weight * ratio(reference, self.norms[name].value or 0) for name, weight in self.weights.items()}

    def update(self, reference: float, norms: Mapping[str, float]) -> None:
        """The norms of one step: means over its samples, of all processes."""
        self.reference.add(reference)
        for name, norm in norms.items():
            self.norms[name].add(norm)

    def state_dict(self) -> list[float]:
        """The averages of all norms for a checkpoint: two numbers each, the reconstruction's first."""
        return [number for each in (self.reference, *self.norms.values()) for number in each.state_dict()]

    def load_state_dict(self, numbers: Iterable[float]) -> None:
        """Go on from what `state_dict` gave, of a balance of the same terms in the same order."""
        left = iter(numbers)
        for each in (self.reference, *self.norms.values()):
            each.load_state_dict([next(left), next(left)])


def ratio(reference: float, norm: float) -> float:
    """The adaptive weight: how many times longer one gradient is than another, at most 1e4.

    The paper adds 1e-4 to the norm that it divides by, which is no small number for every loss, and cuts at 1e4: here
    what is added is relative to the reference, and cutting is not needed.

    >>> round(ratio(3.0, 1.5), 3)
    2.0
    """
    return reference / (norm + SMALLEST * reference) if reference > 0 else 0.0
