"""The quantizer against its references on this machine: correctness first, then time, memory, share of the roofline."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vqmm.kernels.nearest_code import explain
from vqmm.measure.contenders import TASKS, tasks_of, versions
from vqmm.measure.roofline import ceilings
from vqmm.measure.runner import TimingPlan, deadline, measure, path_of
from vqmm.measure.shapes import CPU_SHAPES, NAMED, SHAPES, Shape
from vqmm.measure.timing import HOW_TIMED, HOW_WEIGHED

__all__ = ["bench", "paths", "wrong_rows", "choose", "Shape", "SHAPES", "CPU_SHAPES", "NAMED", "TASKS"]

KERNELS = {  # the task that shows a kernel, and whether it is one of stacks
    "nearest_code": ("search", False),
    "code_sums": ("sums", False),
    "vector_quantize": ("train", False),
    "residual_quantize": ("train", True),
}
NO_GPU = "no GPU here: the CPU paths are measured, on one thread"

Tell = Callable[[str], None]


def choose(name: str | None, device: torch.device, quick: bool = False) -> list[tuple[Shape, str]]:
    """Shapes and tasks of a name: a shape's, a kernel's, or None for a selection that ends in minutes.

    Raises:
        ValueError: no shape and no kernel has that name.
    """
    if name in NAMED:
        return [(NAMED[name], task) for task in tasks_of(NAMED[name])]
    if name is not None and name not in KERNELS:
        raise ValueError(f"no shape and no kernel is called {name!r}. There is: {', '.join([*KERNELS, *NAMED])}.")
    if device.type == "cuda":
        shapes = list(SHAPES)
    else:
        shapes = [*CPU_SHAPES, *(NAMED[each] for each in ("audio-encodec", "audio-dac", "streaming"))]
    if quick:
        shapes = [shapes[0], shapes[3], NAMED["streaming"]]
    if name is not None:
        task, stacks = KERNELS[name]
        return [(shape, task) for shape in shapes if (shape.q > 1) == stacks]
    return [(shape, task) for shape in shapes for task in ("search", "train")]


def bench(
    work: Sequence[tuple[Shape, str]] | None = None,
    *,
    device: torch.device | str | None = None,
    seconds: float | None = 90.0,
    rounds: int = 15,
    memory: bool = True,
    tell: Tell = lambda said: None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure vqmm's kernels and their competitors in one run.

    Args:
        work: shapes and tasks (see `choose`, `TASKS`); None: a selection for the device.
        device: "cpu" or "cuda"; None: a GPU where there is one. A CPU is measured on one thread.
        seconds: for all of it, about; slow contenders then get fewer rounds and fewer vectors, which their row says.
            None: every call that fits in memory is made whole.
        rounds: at most, of every contender; they take turns.
        memory: also find the peak extra memory of a call.
        tell: is told what is being measured.
        keep: is given the result so far after every task.

    Returns:
        {"question", "device", "setup", "ceilings", "versions", "rows", the machine}. A row has shape, task, contender,
        precision, the N it was measured at, and "ms" (median, p20, p80, rounds), "times_ours" (its time over that of
        ours at the like precision, on as many vectors), "extra_bytes", the check ("ids_differ", "worst"), for ours also
        "path" and "roofline"; or "skipped" or "wrong" with the reason and no figure.
    """
    from vqmm.utils.machine import machine

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    jobs = choose(None, place) if work is None else list(work)
    share = None if seconds is None else seconds / max(1, len(jobs)) / 5  # about five contenders a task
    with one_thread(place):
        ceiling = ceilings(place, small=seconds is not None)
        plan, late = (
            TimingPlan(place, ceiling, share, rounds, memory),
            deadline(None if seconds is None else 2 * seconds),
        )
        result: dict[str, Any] = {
            "question": "quantizer",
            "device": place.type,
            "setup": {"time": HOW_TIMED[place.type], "memory": HOW_WEIGHED[place.type], "rounds_at_most": rounds},
            "ceilings": ceiling,
            "versions": versions(),
            **machine(),
            "rows": [],
        }
        for shape, task in jobs:
            if late():
                result["rows"].append(
                    {**shape._asdict(), "task": task, "contender": "", "precision": "", "skipped": "time was up"}
                )
                continue
            result["rows"] += measure(shape, task, plan, tell)
            keep(result)
    return result


def paths(shapes: Iterable[Shape], device: torch.device | str) -> list[dict[str, Any]]:
    """Which path and configuration would run for each shape, without running it."""
    place, records = torch.device(device), []
    for shape in shapes:
        for precision in ("exact", "fast", "certified") if place.type == "cuda" else ("exact",):
            said = explain(shape.n, shape.k, shape.d, device=place, precision=precision)
            if shape.q > 1 and (path := path_of(shape, place)) == "triton":
                said = "triton, one kernel that keeps the residual on chip through all stages"
            elif shape.q > 1:
                said = f"{path}, stage by stage: {said}"
            records.append({**shape._asdict(), "precision": precision, "runs": said})
    return records


def wrong_rows(result: dict[str, Any]) -> list[str]:
    """Ours that gave a wrong result, one line each."""
    wrong = (row for row in result["rows"] if "wrong" in row)
    return [f"{row['name']} {row['task']} {row['precision']}: {row['wrong']}" for row in wrong]


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """A CPU's figures are those of one thread; a GPU's do not depend on it."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
