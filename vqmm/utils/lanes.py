"""Work that runs side by side: a few processes, each doing its tasks in the order in which they came."""

import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection


@contextmanager
def lanes(count: int, said: Sequence[str] = ()) -> Iterator[list[ProcessPoolExecutor]]:
    """`count` executors of one process each, with one torch thread: `executor.submit(function, ...)`, as ever.

    They wait for nobody: when the block ends by an exception (a task that failed, Ctrl-C), or when this process dies,
    the others end at once, whatever they are at. After a good end all tasks are done.

    Args:
        said: parts of warnings that the first process has given already, for all of them.
    """
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    made = [ProcessPoolExecutor(1, context, initializer=_start, initargs=(theirs, said)) for _ in range(count)]
    try:
        yield made
        for executor in made:
            executor.shutdown()
    finally:
        ours.close()  # which ends them
        for executor in made:
            executor.shutdown(cancel_futures=True)
        theirs.close()


def _start(held: Connection, said: Sequence[str]) -> None:
    """In a new process: Ctrl-C is the first process's matter, and when that one lets go of the pipe, this one ends."""
    import torch

    torch.set_num_threads(1)
    for part in said:
        warnings.filterwarnings("ignore", f".*{re.escape(part)}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(held,), daemon=True).start()


def _leave_with(held: Connection) -> None:
    try:
        held.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
