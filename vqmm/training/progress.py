"""What a run says while it goes: a live line on a terminal, a plain line at each evaluation elsewhere."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """step, what training says, what the last held-out evaluation says, samples/s, time left."""

    def __init__(self, steps: int, quiet: bool = False):
        self.steps, self.quiet = steps, quiet
        self.live = sys.stderr.isatty() and not quiet
        self.console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step {task.completed:>6} of {task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self._task = self._bar.add_task("", total=steps, said="")
        self._trained, self._speed, self._evaluated = "", "", ""
        self._started = time.monotonic()

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def trained(self, step: int, said: str, samples_per_second: float) -> None:
        """After some steps, `said` of them: for the live line, or the plain one of the next evaluation."""
        self._trained, self._speed = f"{said}  ", f"{samples_per_second:.0f} samples/s"
        self._bar.update(self._task, completed=step, said=self._trained + self._evaluated + self._speed)

    def evaluated(self, step: int, said: Sequence[str]) -> None:
        """After an evaluation: a plain line, where there is no live one."""
        self._evaluated = "".join(f"{each}  " for each in said)
        if not self.live:
            left = (time.monotonic() - self._started) * (self.steps - step) / max(step, 1)
            self.say(f"step {step} of {self.steps}  {self._trained}{self._evaluated}{self._speed}  {left:.0f} s left")

    def say(self, line: str) -> None:
        """Print a line to standard error, above the live one; nothing where `quiet`."""
        if not self.quiet:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
