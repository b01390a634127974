"""Says in plain words when a run is not well. It watches what passes and changes nothing."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from vqmm.evaluation.usage import CodeUsage

LITTLE_USE = 0.5  # of the codebook, over an epoch
CODES_SEEN = 8  # times the number of codes: an epoch of fewer says nothing about use
SHUFFLED_RATIO = 1.05  # a decoder that loses less than this factor by other samples' codes ignores them
NORM_JUMP = 20.0  # times the median of the last reports
FLAT_LOOKS = 4  # evaluations over which the main metric
FLAT_SHARE = 0.003  # must improve by more than this share of itself


@dataclass(frozen=True)
class Event:
    """Something that a person who watches the run would want to know."""

    step: int
    event: str
    said: str


@dataclass
class HealthWatch:
    """Remembers just enough to tell what is unusual; says each thing once until it has passed."""

    higher_is_better: bool
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=25))
    values: list[float] = field(default_factory=list)
    ignored: int = 0  # evaluations in a row; one may just be too early
    said: set[str] = field(default_factory=set)

    def epoch(self, step: int, number: int, usage: CodeUsage) -> list[Event]:
        """After each epoch of training, with its codes counted."""
        use, dead, total = usage.use(), usage.dead(), usage.total()
        said = (
            f"epoch {number}: {dead} of {total} codes were not used ({use:.0%} were): a smaller codebook would do, or "
            "raise quantizer.revive_below"
        )
        enough = usage.seen() >= CODES_SEEN * total
        return self._when(enough and use < LITTLE_USE, step, "little_use", said)

    def report(self, step: int, gradient_norm: float) -> list[Event]:
        """After every few steps."""
        usual = median(self.norms) if len(self.norms) >= 5 else float("inf")
        self.norms.append(gradient_norm)
        said = f"the gradient's norm is {gradient_norm:.3g}, and was {usual:.3g}: lower train.learning_rate if it stays"
        return self._when(gradient_norm > NORM_JUMP * usual, step, "gradient_jump", said)

    def held_out(
        self, step: int, metrics: Mapping[str, float | None], main_metric: str, shuffled: float | None
    ) -> list[Event]:
        """After each look at held-out data; `shuffled`: the loss with other samples' codes over the loss."""
        self.ignored = self.ignored + 1 if shuffled is not None and shuffled < SHUFFLED_RATIO else 0
        said = f"other samples' codes make the loss {shuffled or 0:.3g} times as large: the decoder ignores the codes"
        events = self._when(self.ignored >= 2, step, "codes_ignored", said)
        value = metrics.get(main_metric)
        if value is None:
            return events
        self.values.append(value)
        gain = flat_gain(self.values, self.higher_is_better)
        said = (
            f"reconstruction has flattened: {main_metric} improved by {gain:.2%} over the last {FLAT_LOOKS} evaluations"
        )
        return events + self._when(is_flat(gain), step, "flattened", said)

    def _when(self, wrong: bool, step: int, event: str, said: str) -> list[Event]:
        if not wrong:
            self.said.discard(event)
        if not wrong or event in self.said:
            return []
        self.said.add(event)
        return [Event(step, event, said)]


def flat_gain(values: Sequence[float], higher_is_better: bool) -> float:
    """The share by which the best of a metric improved over the last few evaluations; 1 where those are all."""
    past = values[:-FLAT_LOOKS]
    pick = max if higher_is_better else min
    return abs(pick(values) - pick(past)) / max(abs(pick(past)), 1e-12) if past else 1.0


def is_flat(gain: float) -> bool:
    """Whether a gain, as `flat_gain` gives it, is below FLAT_SHARE."""
    return gain < FLAT_SHARE
