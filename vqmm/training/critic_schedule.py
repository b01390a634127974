"""When a critic learns, when it counts, and when it steps back. A function of what it is told, the same everywhere."""

from collections.abc import Iterable

from vqmm.contracts.adversary import Adversary
from vqmm.training.balance import Running
from vqmm.training.health import Event, flat_gain, is_flat

WINDOW = 5, 50  # steps that what is watched is averaged over: a sixtieth of the run, but from so many to so many
STEP_BACK = 1.5  # over those steps: what `loss_scale` loses in a step of bad reconstruction, and wins in others
LEAST_SCALE = 0.01  # from which it is not far back


class CriticSchedule:
    """The course of one critic through a run.

    It warms up (learns from outputs and targets, and nobody from it) and then counts. Where it starts when held-out
    reconstruction is flat, warming begins at the evaluation that finds so; by a given share of the run at the latest.

    Two things hold it back once it counts. It pauses, which is to say does not learn, while its accuracy is above
    `pause_above`. And `loss_scale`, a factor of its terms from 0 to 1, shrinks while the reconstruction loss is worse
    by more than `tolerance` than when it began to count.

    Args:
        options: of an `Adversary`.
        steps: of the run.
        higher_is_better: of the metric that `evaluated` is told.
    """

    def __init__(self, options: Adversary.Options, steps: int, higher_is_better: bool = True):
        self.options, self.steps, self.higher_is_better = options, steps, higher_is_better
        self.flat = options.start == "flat"
        self.warm = round(options.warm * steps)
        share = options.latest if isinstance(options.start, str) else options.start  # the word is "flat"
        self.counts_at = max(round(share * steps), self.warm)
        self.values: list[float] = []  # of evaluations on held-out data, while that matters
        window = min(max(steps / 60, WINDOW[0]), WINDOW[1])
        self.step_back = 1 - STEP_BACK / window
        self.fake, self.real, self.right, self.reconstruction = (Running(1 - 1 / window) for _ in range(4))
        self.level: float | None = None  # of the reconstruction loss when it began to count
        self.loss_scale = 1.0

    def watches(self, step: int) -> bool:
        """Whether the critic sees anything in this step, from 0."""
        return step >= self.counts_at - self.warm

    def learns(self, step: int) -> bool:
        """Whether the critic's weights move in this step, from 0: it watches, and does not pause."""
        return self.watches(step) and not (self.counts(step) and self.paused)

    def counts(self, step: int) -> bool:
        """Whether the critic's terms are part of the tokenizer's loss in this step, from 0."""
        return step >= self.counts_at

    @property
    def paused(self) -> bool:
        """Whether its accuracy is above `pause_above`; until it counts it learns all the same."""
        rest, right = self.options.pause_above, self.right.value
        return rest is not None and right is not None and right > rest

    @property
    def threshold(self) -> float:
        """The score half-way between those of outputs and of targets so far: what tells them apart."""
        return ((self.fake.value or 0.0) + (self.real.value or 0.0)) / 2

    @property
    def margin(self) -> float:
        """How much higher targets are scored."""
        return (self.real.value or 0.0) - (self.fake.value or 0.0)

    def evaluated(self, step: int, value: float | None) -> list[Event]:
        """After a look at held-out data behind step number `step`; `value`: its main metric."""
        if not self.flat or value is None or self.watches(step):
            return []
        self.values.append(value)
        gain = flat_gain(self.values, self.higher_is_better)
        if not is_flat(gain):
            return []
        self.counts_at = step + self.warm
        said = f"reconstruction has flattened: the critic warms up, and counts from step {self.counts_at} on"
        return [Event(step, "critic_starts", said)]

    def update(self, step: int, fake: float, real: float, right: float, reconstruction: float | None) -> list[Event]:
        """After a step in which the critic watched, `step` counting from 0.

        Args:
            fake, real: the mean scores of outputs and of targets.
            right: the share of them on their side of `threshold`.
            reconstruction: the reconstruction loss; None where nothing is reconstructed.
        """
        paused_before, scaled = self.paused, self.loss_scale
        for each, value in ((self.fake, fake), (self.real, real), (self.right, right)):
            each.add(value)
        events = []
        if self.counts(step) and self.paused and not paused_before:
            limit = self.options.pause_above
            said = f"the critic's accuracy is {self.right.value:.0%}: it pauses until that is below {limit:.0%}"
            events.append(Event(step + 1, "critic_pauses", said))
        if reconstruction is not None:
            self.reconstruction.add(reconstruction)
            self._trust(step)
        if self.loss_scale < 0.5 <= scaled:
            said = f"reconstruction is {self.worse:.0%} worse than before the critic: its terms are halved, or less"
            events.append(Event(step + 1, "critic_held_back", said))
        return events

    @property
    def worse(self) -> float:
        """By what share the reconstruction loss is above what it was when the critic began to count."""
        now = self.reconstruction.value
        return 0.0 if now is None or not self.level else now / self.level - 1

    def _trust(self, step: int) -> None:
        if not self.counts(step + 1):
            return
        if self.level is None:
            self.level = self.reconstruction.value
        if self.options.tolerance is not None:
            self.loss_scale *= self.step_back if self.worse > self.options.tolerance else 1 / self.step_back
            self.loss_scale = min(max(self.loss_scale, LEAST_SCALE), 1.0)

    def state_dict(self) -> list[float]:
        """Everything that moves."""
        level = -1.0 if self.level is None else self.level
        runs = [number for each in self._runs for number in each.state_dict()]
        return [float(self.counts_at), self.loss_scale, level, *runs, *self.values]

    def load_state_dict(self, state: Iterable[float]) -> None:
        """Go on from what `state_dict` gave, of a schedule with the same options and steps."""
        counts_at, self.loss_scale, level, *numbers = state
        self.counts_at, self.level = round(counts_at), None if level < 0 else level
        for i, each in enumerate(self._runs):
            each.load_state_dict(numbers[2 * i : 2 * i + 2])
        self.values = numbers[2 * len(self._runs) :]

    @property
    def _runs(self) -> tuple[Running, ...]:
        return self.fake, self.real, self.right, self.reconstruction
