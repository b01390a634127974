"""One shape and one task: every contender checked, then timed in turn, then weighed."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from vqmm.kernels.nearest_code import path_for
from vqmm.kernels.residual_quantize import path_for as stack_path_for
from vqmm.measure.check import Verdict, verdict
from vqmm.measure.contenders import Contender, Run, contenders
from vqmm.measure.roofline import floor, product_of
from vqmm.measure.shapes import Operands, Shape, operands
from vqmm.measure.timing import Times, extra_bytes, free_bytes, in_turn, once

LEAST_N = 64
GROW = 4  # from one trial to the next
CALLS = 8  # of each contender, about: a trial, the one that is checked, the rounds, and the one that is weighed

Row = dict[str, Any]


class TimingPlan(NamedTuple):
    """seconds: for each contender of a task, or None: as long as `rounds` take."""

    device: torch.device
    ceiling: Mapping[str, float]
    seconds: float | None = None
    rounds: int = 15
    memory: bool = True


class ReadyContender(NamedTuple):
    """A contender that is ready: its call on the vectors it gets, and what it was found to be worth."""

    contender: Contender
    given: Operands
    run: Run
    verdict: Verdict
    note: str


def path_of(shape: Shape, device: torch.device) -> str:
    """Which of vqmm's ways a shape takes on a device: "cpu", "triton", "torch" or, of a stack, "staged-triton"."""
    return path_for(device) if shape.q == 1 else stack_path_for(device, shape.d, shape.n, shape.k)


def measure(shape: Shape, task: str, plan: TimingPlan, tell: Callable[[str], None] = lambda said: None) -> list[Row]:
    """A row a contender, ours first, in each precision. A row without a figure says why in "skipped" or "wrong"."""
    given, rows, entries = operands(shape, plan.device), list[Row](), list[ReadyContender]()
    for each in contenders(task, shape, plan.device):
        if not isinstance(each, Contender):
            rows.append(_row(shape, task, each[0], "", skipped=each[1]))
            continue
        tell(f"{shape.name} {task} {each.name}")
        try:
            entry = _ready(each, given, plan)
        except Exception as error:  # a competitor's fault is told, never ours to mend
            if each.ours:
                raise
            rows.append(_row(shape, task, each.name, each.precision, skipped=_one_line(error)))
            continue
        if isinstance(entry, str):
            rows.append(_row(shape, task, each.name, each.precision, skipped=entry))
        elif each.ours and entry.verdict.wrong:
            rows.append(_row(shape, task, each.name, each.precision, wrong=entry.verdict.wrong))
        else:
            if each.ours:
                given = entry.given  # whoever comes after gets no more vectors
            entries.append(entry)
    timed = _in_turn([*entries, *_beside(entries)], plan)
    rows = [_row_of(entry, times, task, plan) for entry, times in timed[: len(entries)]] + rows
    ours = {(entry.given.shape.n, entry.contender.precision): times for entry, times in timed if entry.contender.ours}
    for row in rows:
        if "ms" in row and (times := ours.get((row["n"], _like(row["precision"])))):
            row["ours_ms"], row["times_ours"] = times.median, row["ms"]["median"] / times.median
    return rows


def _beside(entries: list[ReadyContender]) -> list[ReadyContender]:
    """Ours on as many vectors as those got that got fewer."""
    mine = {entry.contender.precision: entry for entry in entries if entry.contender.ours}
    fewer: dict[tuple[int, str], ReadyContender] = {}
    for entry in entries:
        n, like = entry.given.shape.n, _like(entry.contender.precision)
        if like in mine and n != mine[like].given.shape.n and (n, like) not in fewer:
            given = mine[like].given.first(n)
            fewer[n, like] = mine[like]._replace(given=given, run=mine[like].contender.make(given))
            fewer[n, like].run()
    return list(fewer.values())


def _in_turn(entries: list[ReadyContender], plan: TimingPlan) -> list[tuple[ReadyContender, Times]]:
    seconds = float("inf") if plan.seconds is None else plan.seconds * len(entries) / 2
    times = in_turn([entry.run for entry in entries], plan.device, seconds, plan.rounds)
    return list(zip(entries, times, strict=True))


def _like(precision: str) -> str:
    """Our precision that a competitor's is compared with; ours with itself."""
    return {"float32": "exact", "tf32": "fast", "float16": "fast"}.get(precision, precision)


def _ready(contender: Contender, given: Operands, plan: TimingPlan) -> ReadyContender | str:
    """As many vectors as memory and time allow; then one call, whose result is checked, and which warms. Or why not."""
    n, k, notes = given.shape.n, given.shape.k, []
    needed, there = contender.bytes_a_pair * n * k, free_bytes(plan.device)
    if needed > there:
        n = _power_of_two(there / (contender.bytes_a_pair * k))
        notes.append(f"N {given.shape.n} needs {needed / 1e9:.3g} GB, {there / 1e9:.3g} GB are free: measured at N {n}")
        if n < LEAST_N:
            return notes[0].partition(": measured")[0]
    n = _affordable(contender, given, n, plan, notes)
    given = given.first(n)
    run = contender.make(given)
    # a library may weigh its losses otherwise: only its indices are compared
    product = product_of(given.shape, contender.precision, plan.device) if contender.ours else ""
    rounding = 2.0**-7.9 if product == "bf16" else 2.0**-9
    checked = verdict(given, run(), contender.precision, formulas=contender.ours, rounding=rounding)
    return ReadyContender(contender, given, run, checked, "; ".join(notes))


def _power_of_two(most: float) -> int:
    """The largest that is not above."""
    return 1 << max(0, int(most).bit_length() - 1)


def _affordable(contender: Contender, given: Operands, n: int, plan: TimingPlan, notes: list[str]) -> int:
    """Fewer vectors where a call would take more than its share of the time, by trials on a few, then on more."""
    if plan.seconds is None or plan.device.type == "cuda":
        return n
    cap, tried, before = plan.seconds / CALLS, min(LEAST_N, n), 0.0
    while tried < n:
        trial = contender.make(given.first(tried))
        took = 1e-3 * min(once(trial, plan.device) for _ in range(2))
        a_vector = max(took - before, 0.0) / (tried - tried // GROW) if before else took / tried
        whole = took + a_vector * (n - tried)
        if whole <= cap:
            return n
        if took > cap or (before and took > cap / 3):
            fewer = max(LEAST_N, min(n, _power_of_two(tried + (cap - took) / max(a_vector, 1e-12))))
            notes.append(f"N {n} would take {whole:.2g} s a call: measured at N {fewer}")
            return fewer
        tried, before = tried * GROW, took
    return n


def _row_of(entry: ReadyContender, times: Times, task: str, plan: TimingPlan) -> Row:
    shape, contender = entry.given.shape, entry.contender
    row = _row(shape, task, contender.name, contender.precision, note=entry.note)
    row["ms"] = {**times._asdict()}
    row["ps_a_pair"] = times.median * 1e9 / (float(shape.n) * shape.k * shape.q)
    row["ids_differ"], row["checked"], row["worst"] = entry.verdict.differ, entry.verdict.checked, entry.verdict.worst
    if entry.verdict.wrong:  # a competitor's: ours has no figure then
        row["note"] = "; ".join(filter(None, [row["note"], entry.verdict.wrong]))
    if contender.ours:
        row["path"] = path_of(shape, plan.device)
        least = floor(shape, contender.precision, plan.device, plan.ceiling)
        row["roofline"] = {"share": least.ms / times.median, "unit": least.unit, "ms": least.ms}
    if plan.memory:
        row["extra_bytes"] = extra_bytes(entry.run, plan.device, outside=contender.name == "faiss")
        outcome = entry.run()
        results = sum(t.numel() * t.element_size() for t in outcome if t is not None)
        row["result_bytes"], row["codebook_bytes"] = results, entry.given.code_KD.numel() * 4
    return row


def _row(shape: Shape, task: str, contender: str, precision: str, **more: Any) -> Row:
    return {**shape._asdict(), "task": task, "contender": contender, "precision": precision, **more}


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def deadline(seconds: float | None) -> Callable[[], bool]:
    """Whether time is up."""
    end = None if seconds is None else time.monotonic() + seconds
    return lambda: end is not None and time.monotonic() > end
