"""Stopping when asked: the step in progress is finished, a checkpoint is written, the run leaves."""

import multiprocessing
import signal
import threading
from types import FrameType


class StopRequest:
    """Notes SIGTERM and SIGINT inside the block, and passes them on to the processes that this one has started."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signum == number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: leave at once
        self.signum = number
        for child in multiprocessing.active_children():
            child.terminate()
