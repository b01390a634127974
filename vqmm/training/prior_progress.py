"""What a prior's training says while it goes."""

import time
from collections.abc import Mapping

from vqmm.training.progress import RunProgress


class PriorProgress(RunProgress):
    """step, bits per code of each modality in training and in the last look at held-out examples, samples/s, time
    left."""

    def bits(self, step: int, bits_per_code: Mapping[str, float], samples_per_second: float) -> None:
        """After some steps."""
        self._loss, self._speed = f"bits per code: {_told(bits_per_code)}  ", f"{samples_per_second:.0f} samples/s"
        self._bar.update(self._task, completed=step, told=self._loss + self._judged + self._speed)

    def held_out(self, step: int, bits_per_code: Mapping[str, float]) -> None:
        """After a look at held-out examples: a plain line, where there is no live one."""
        self._judged = f"held-out: {_told(bits_per_code)}  "
        if not self.live:
            left = (time.monotonic() - self._started) * (self.steps - step) / max(step, 1)
            self.say(f"step {step} of {self.steps}  {self._loss}{self._judged}{self._speed}  {left:.0f} s left")


def _told(bits_per_code: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {bits:.3f}" for name, bits in bits_per_code.items())
