"""The clocks of `vqmm compare`: how long training took, how fast encode and decode are, what fits a budget."""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from vqmm.commands.train import train
from vqmm.contracts.batch import Batch
from vqmm.recipe import Train
from vqmm.tokenizer.model import Model
from vqmm.training.setup import REPORT_EVERY

TIMED_STEPS = REPORT_EVERY  # after as many others that are not timed: the first ones allocate, and compile kernels
TIMINGS = 7  # of encode, and of decode, at the least


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def calibrate(
    modality: str, data: str, recipe: str, settings: Sequence[str], plugins: Sequence[str], seconds: float
) -> dict[str, float]:
    """How many optimizer steps fit into so many seconds, by a throw-away run of a few steps.

    Schedules need the number of steps before the first one, so a run cannot simply be stopped by the clock. The second
    of two lines of its log is what counts: between them lie optimizer steps and nothing else.
    """
    steps = TIMED_STEPS + REPORT_EVERY
    short = [f"train.evaluate_every={steps}", f"train.checkpoint_every={steps}", "train.evaluate_samples=1"]
    with tempfile.TemporaryDirectory(prefix="vqmm-") as folder:
        run = Path(folder) / "run"
        budget = [*settings, *short]
        train(modality, data, run, recipe, steps=steps, settings=budget, plugins=plugins, quiet=True, report=False)
        plan = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["train"]
        each = step_seconds(run, Train(**plan))[-1][1]
    return {"steps": max(int(seconds / each), 1), "seconds_per_step": each, "timed_steps": TIMED_STEPS}


def train_seconds(run: Path, plan: Train) -> float:
    """Wall seconds from a run's start to its last step, out of its metrics.jsonl.

    Unlike a clock around the call, this is right for a run that was stopped and went on.
    """
    return sum(steps * each for steps, each in step_seconds(run, plan))


def step_seconds(run: Path, plan: Train) -> list[tuple[int, float]]:
    """For each line of a run's log on training: how many steps it is about, and the seconds that each took."""
    samples = plan.batch_size * plan.accumulate * plan.devices  # of one step
    timings, before = [], 0
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "train" and entry["samples_per_second"]:
            timings.append((entry["step"] - before, samples / entry["samples_per_second"]))
            before = entry["step"]
    return timings


def code_speeds(model: Model, batches: Sequence[Batch]) -> dict[str, float | None]:
    """Samples per second of `Tokenizer.encode` and of `Tokenizer.decode`: the median over batches; None without codes.

    Short batches are left out, unless there is no other.
    """
    names = ("encode_samples_per_second", "decode_samples_per_second")
    if model.coder is None:
        return dict.fromkeys(names)
    encode, decode = model.coder
    full = max(map(len, batches))
    there = [batch.to(model.device) for batch in batches if len(batch) == full]
    codes = [encode(batch) for batch in there]  # also warms up
    decode(codes[0])
    rates = (_rate(encode, there, model.device), _rate(decode, codes, model.device))
    return dict(zip(names, rates, strict=True))


def _rate(work: Callable[[Any], object], inputs: Sequence[Any], device: torch.device) -> float:
    rates = []
    for each in [*inputs] * math.ceil(TIMINGS / len(inputs)):
        start = now(device)
        work(each)
        rates.append(len(each) / (now(device) - start))
    return statistics.median(rates)
