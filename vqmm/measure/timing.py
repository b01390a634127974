"""Time and memory of a call, on a CPU and on a GPU, by one setup for every contender."""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

Call = Callable[[], object]

FLUSH_BYTES = 256 * 2**20  # more than any L2 holds
LEAST_ROUNDS = 3
HOW_TIMED = {
    "cpu": "perf_counter, one thread, contenders in turn",
    "cuda": "CUDA events, the L2 cache overwritten before every call, contenders in turn",
}
HOW_WEIGHED = {
    "cpu": "peak of tensor allocations during a call (torch profiler); of faiss, growth of the peak resident set",
    "cuda": "peak of allocated memory during a call less what was allocated before (results included)",
}


class Times(NamedTuple):
    """Milliseconds of one call."""

    median: float
    p20: float
    p80: float
    rounds: int


def summary(times: Sequence[float]) -> Times:
    """Median and 20th and 80th percentile of one time or more; each is one of the times, none is interpolated."""
    ordered = sorted(times)
    median, p20, p80 = (ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.2, 0.8))
    return Times(median, p20, p80, len(ordered))


def once(call: Call, device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device).zero_()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end)


def in_turn(calls: Sequence[Call], device: torch.device, seconds: float, rounds: int) -> list[Times]:
    """Every call once a round, so that a machine whose speed drifts slows all: until `rounds`, or time is up."""
    times: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    for done in range(max(rounds, LEAST_ROUNDS)):
        if done >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for call, row in zip(calls, times, strict=True):
            row.append(once(call, device))
    return [summary(row) for row in times]


def free_bytes(device: torch.device) -> float:
    """What a contender may take: nine tenths of what is free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return 0.9 * torch.cuda.mem_get_info(device)[0]
    available = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    return 0.9 * 1024 * available if available is not None else 4e9


def extra_bytes(call: Call, device: torch.device, *, outside: bool = False) -> int:
    """Peak extra memory of a call that has run before (HOW_WEIGHED). outside: its memory does not come from torch."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return _resident_bytes(call) if outside else _tensor_bytes(call)


def _tensor_bytes(call: Call) -> int:
    """Inside custom operators too, where a dispatch mode does not look."""
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it complains of a GPU that is not there
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        call()
    assert run.profiler is not None and run.profiler.kineto_results is not None
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _resident_bytes(call: Call) -> int:
    """Growth of the peak resident set, in whole pages. 0 where the system does not tell.

    The least of three calls, each after free memory was given back: a heap that happens to be in pieces takes more.
    """
    status, grown = Path("/proc/self/status"), []
    for _ in range(3):
        with suppress(AttributeError, OSError):  # not the C library of GNU
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        except OSError:
            return 0
        before = _kilobytes(status, "VmRSS")
        call()
        peak = _kilobytes(status, "VmHWM")
        grown.append(1024 * max(0, (peak or 0) - (before or 0)))
    return min(grown)


def _kilobytes(file: Path, name: str) -> int | None:
    if not file.is_file():
        return None
    lines = (line.split() for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return next((int(words[1]) for words in lines), None)
