"""The clocks of `vqmm compare`: how long training took, how fast encode and decode are, what fits a budget."""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vqmm.batch import Batch
from vqmm.errors import UserError
from vqmm.recipe import Recipe, Train
from vqmm.registry import Registry
from vqmm.tokenizer import Tokenizer
from vqmm.training.run import Job, Run, make_fabric

WARM_UP = 2  # steps that are not timed: the first ones allocate, and compile kernels
FEWEST, MOST = 3, 50  # steps that are timed,
SHARE = 0.1  # until that share of the budget is spent
TIMINGS = 7  # of encode, and of decode, at the least


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def calibrate(recipe: Recipe, seconds: float, registry: Registry, plugins: Sequence[str] = ()) -> dict[str, float]:
    """How many optimizer steps fit into so many seconds, by a throw-away run that writes nothing.

    Schedules need the number of steps before the first one, so a run cannot simply be stopped by the clock.

    Raises:
        UserError: the recipe asks for several processes; or the first steps fail.
    """
    if recipe.train.devices > 1:
        raise UserError(f"--seconds is for train.devices=1 (it is {recipe.train.devices}): give --steps")
    job = Job(recipe, str(recipe.data), Path(), tuple(plugins), strict=False, resume=False, quiet=True)
    loop = Run(make_fabric(recipe.train), job, registry).loop
    loop.start_from_data()
    for _ in range(WARM_UP):
        loop.advance()
    times: list[float] = []
    while len(times) < FEWEST or (len(times) < MOST and sum(times) < SHARE * seconds):
        start = now(loop.fabric.device)
        loop.advance()
        times.append(now(loop.fabric.device) - start)
    each = statistics.mean(times)
    return {"steps": max(int(seconds / each), 1), "seconds_per_step": each, "timed_steps": len(times)}


def train_seconds(run: Path, plan: Train) -> float:
    """Wall seconds from a run's start to its last step, out of its metrics.jsonl.

    Unlike a clock around the call, this is right for a run that was stopped and went on.
    """
    samples = plan.batch_size * plan.accumulate * plan.devices  # of one step
    seconds, before = 0.0, 0
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        if told["kind"] == "train" and told["samples_per_second"]:
            seconds += (told["step"] - before) * samples / told["samples_per_second"]
            before = told["step"]
    return seconds


def code_speeds(tokenizer: Tokenizer, batches: Sequence[Batch]) -> dict[str, float | None]:
    """Samples per second of `Tokenizer.encode` and of `Tokenizer.decode`: the median over batches; None without codes.

    Short batches are left out, unless there is no other.
    """
    names = ("encode_samples_per_second", "decode_samples_per_second")
    if not tokenizer.quantizer.stages:
        return dict.fromkeys(names)
    full = max(map(len, batches))
    there = [batch.to(tokenizer.device) for batch in batches if len(batch) == full]
    codes = [tokenizer.encode(batch) for batch in there]  # also warms up
    tokenizer.decode(codes[0])
    encode = _rate(tokenizer.encode, there, tokenizer.device)
    return dict(zip(names, (encode, _rate(tokenizer.decode, codes, tokenizer.device)), strict=True))


def _rate(work: Callable[[Any], object], inputs: Sequence[Any], device: torch.device) -> float:
    rates = []
    for each in [*inputs] * math.ceil(TIMINGS / len(inputs)):
        start = now(device)
        work(each)
        rates.append(len(each) / (now(device) - start))
    return statistics.median(rates)
