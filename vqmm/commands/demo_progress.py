"""What `vqmm demo` says while it goes: one line for all parts, read from the runs' own metrics."""

import json
import math
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

EVERY_S = 0.5  # between looks
PLAIN_S = 10.0  # between lines, where there is no terminal

Value = TypeVar("Value")


@dataclass
class Stage:
    """Something that takes time.

    Attributes:
        said: what it is, such as "part 2 of 4, audio".
        share: of the whole demo's time; 0 for what runs beside something longer.
        run: the folder whose `metrics.jsonl` says how far it is; None where nothing does.
    """

    said: str
    share: float
    future: "Future[Any]"
    run: Path | None = None
    steps: int = 1

    def done(self) -> float:
        """0 to 1."""
        if self.future.done():
            return 1.0
        step = 0 if self.run is None else last_step(self.run / "metrics.jsonl")
        return min(step / self.steps, 1.0)


class DemoProgress:
    """A live line on a terminal, a plain line every ten seconds elsewhere; nothing where `quiet`."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.console = Console(stderr=True)
        self._live = Live(console=self.console, transient=True) if sys.stderr.isatty() and not quiet else None
        self._stages: list[Stage] = []
        self._start, self._said = time.monotonic(), -math.inf

    def __enter__(self) -> "DemoProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, stage: Stage) -> None:
        """Follow a stage from now on: `line` names it while it runs, `wait` raises the error it ends in."""
        self._stages.append(stage)

    def wait(self, future: "Future[Value]") -> Value:
        """Its result, or the error that any stage ended in; says how far all are, meanwhile."""
        while not future.done():
            wait([stage.future for stage in self._stages if not stage.future.done()], EVERY_S, FIRST_COMPLETED)
            for stage in self._stages:
                if stage.future.done():
                    stage.future.result()  # raises, if so
            self._tell()
        return future.result()

    def say(self, line: str) -> None:
        """Print a line to standard error; nothing where `quiet`."""
        if not self.quiet:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _tell(self) -> None:
        if self._live is not None:
            self._live.update(Text(self.line(), no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._said >= PLAIN_S:
            self._said = time.monotonic()
            self.say(self.line())

    def line(self) -> str:
        """Such as "part 1 of 4, image: 40%; part 2 of 4, audio: 35%; about 2 min 10 s left"."""
        running = [stage for stage in self._stages if stage.future.running()]
        parts = [f"{stage.said}: {stage.done():.0%}" if stage.run is not None else stage.said for stage in running]
        return "; ".join([*parts, *self._left()])

    def _left(self) -> list[str]:
        """Nothing, until a little is done by which to tell."""
        share = sum(stage.share * stage.done() for stage in self._stages)
        if share < 0.03:
            return []
        seconds = round((time.monotonic() - self._start) * (1 / min(share, 1.0) - 1))
        minutes = f"{seconds // 60} min " if seconds >= 60 else ""
        return [f"about {minutes}{seconds % 60} s left"]


def last_step(metrics: Path) -> int:
    """The step that a run's `metrics.jsonl` ends with; 0 where it has none yet."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(metrics.stat().st_size - 4096, 0))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # half a line
            continue
    return 0
