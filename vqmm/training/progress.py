"""What a run says while it goes: a live line on a terminal, a plain line at each evaluation elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """step, loss, the modality's headline metric and codebook use (both of held-out data), samples/s, time left."""

    def __init__(self, steps: int, quiet: bool = False):
        self.steps, self.quiet = steps, quiet
        self.live = sys.stderr.isatty() and not quiet
        self.console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step {task.completed:>6} of {task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self._task = self._bar.add_task("", total=steps, told="")
        self._judged = ""
        self._started = time.monotonic()

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def trained(self, step: int, loss: float, samples_per_second: float) -> None:
        self._told = f"loss {loss:.4f}  {self._judged}{samples_per_second:.0f} samples/s"
        self._bar.update(self._task, completed=step, told=self._told)

    def judged(self, step: int, headline: str, value: float, use: float | None) -> None:
        """After an evaluation."""
        self._judged = f"{headline} {value:.4g}  " + (f"codes used {use:.0%}  " if use is not None else "")
        if not self.live and not self.quiet:
            left = (time.monotonic() - self._started) * (self.steps - step) / max(step, 1)
            self.say(f"step {step} of {self.steps}  {self._told.replace('loss', 'loss', 1)}  {self._judged}{left:.0f} s left")

    def say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, highlight=False, soft_wrap=True)
