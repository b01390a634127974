"""Which tile, product and pipeline is fastest on this GPU?

    python -m vqmm.benchmarks.tune_kernels [--seconds S] [--folder DIR]

For every class of widths, codebook sizes and precision that the table in use tells apart, each configuration that might
be best is run on a shape of that class: its result is checked first, then it is timed. The best are written as the
table of this kind of GPU (into DIR, else beside the tables of the package), which the kernels then use and never tune.
Configurations are compiled beforehand, into Triton's cache, by as many processes as there are processors.
"""

import argparse
import datetime
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vqmm.kernels.nearest_code import fused
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.nearest_code.tables import TABLES, Config
from vqmm.kernels.tables import ANY, capability_of
from vqmm.measure.check import Outcome, verdict
from vqmm.measure.contenders import versions
from vqmm.measure.shapes import Operands, Shape, operands
from vqmm.measure.timing import once, summary

DOTS = {
    "exact": ("split", "tf32x3", "fma", "torch"),
    "fast": ("tf32", "bf16", "torch"),
    "certified": ("high", "tf32"),
}
TILES = ((128, 128), (128, 64), (128, 32), (64, 64), (64, 128), (64, 32), (256, 64))
ROUNDS = 9
FEW = 2  # configurations of a class, when only the plumbing is tried
BFLOAT16 = 2.0**-7.9  # see search_triton


class Class(NamedTuple):
    """Searches that share a row of the table, and the shape that stands for them."""

    row: Config
    shape: Shape


def classes(rows: Sequence[Config], small: bool = False) -> list[Class]:
    """One for each row of a table. Its shape has the widest width and the usual number of codes that the row serves."""
    workloads = []
    for row in rows:
        below = [r.max_width for r in rows if r.precision == row.precision and r.max_width < row.max_width]
        width = row.max_width if row.max_width < ANY else 2 * max([128, *below])
        smaller = [
            r.max_k
            for r in rows
            if (r.precision, r.max_width) == (row.precision, row.max_width) and r.max_k < row.max_k
        ]
        k = 4 * max(smaller) if smaller and row.max_k == ANY else min(row.max_k, 8192)
        shape = Shape("class", 16_384 if k > 65_536 else 65_536, k, width)
        if small:
            shape = Shape("class", 40, 48, min(width, 32))
        workloads.append(Class(row, shape))
    return workloads


def candidates(row: Config, width: int) -> Iterator[Config]:
    """The row as it is, then whatever fits a chip by a rough count: what does not is told by its trial."""
    yield row
    whole = max(16, 1 << (width - 1).bit_length())
    for dot in DOTS[row.precision]:
        if dot == "torch":
            yield row._replace(dot=dot)
            continue
        if dot == "fma" and width > 16:
            continue
        for block_n, block_k in TILES:
            for block_d in sorted({min(whole, 32), min(whole, 64), whole}):
                for warps, stages in ((8, 3), (8, 2), (4, 3)):
                    tile = (block_n + stages * block_k * (2 if dot == "split" else 1)) * block_d * 4
                    if tile <= 227 * 1024 and block_n * block_k <= 2048 * warps:
                        yield row._replace(
                            block_n=block_n, block_k=block_k, block_d=block_d, warps=warps, stages=stages, dot=dot
                        )


@contextmanager
def using(config: Config) -> Iterator[None]:
    """The kernels take this configuration for its precision."""
    real = fused.config_for

    def config_for(width: int, k: int, precision: str, capability: tuple[int, int]) -> Config:
        return config if precision == config.precision else real(width, k, precision, capability)

    fused.config_for = config_for
    try:
        yield
    finally:
        fused.config_for = real


@functools.lru_cache(maxsize=64)
def given_of(shape: Shape, device: torch.device) -> Operands:
    return operands(shape, device)


def search(given: Operands, config: Config) -> Callable[[], Outcome]:
    """One search with a configuration; the codebook's preparation is part of it, as it is for a user."""
    x_1ND = given.x_ND[None]

    def run() -> Outcome:
        with using(config):
            prepared = prepare(given.code_KD, "euclidean")
            index_1N, _ = fused.search_triton(x_1ND, prepared, "euclidean", config.precision, False)
        return Outcome(index_1N[0, :, None])

    return run


def tried(given: Operands, config: Config, rounds: int = ROUNDS) -> float | str:
    """Milliseconds, or why there is no figure."""
    device = given.x_ND.device
    run = search(given, config)
    try:
        outcome = verdict(given, run(), config.precision, rounding=BFLOAT16 if config.dot == "bf16" else 2.0**-9)
        if outcome.wrong:
            return outcome.wrong
        return summary([once(run, device) for _ in range(rounds)]).median
    except Exception as error:  # too much shared memory, or a product that this GPU does not have
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def spread(made: Sequence[Class], most: int | None) -> Iterator[tuple[int, Config]]:
    """(class, configuration) in turn over the classes, so that time that runs out is short for all alike."""
    each = [list(dict.fromkeys(candidates(c.row, c.shape.d)))[:most] for c in made]
    for i in range(max(map(len, each), default=0)):
        for number, configs in enumerate(each):
            if i < len(configs):
                # spread over the list too: neighbours differ by a stage
                yield number, configs[i if i == 0 else 1 + (i - 1) * _stride(len(configs) - 1) % (len(configs) - 1)]


def _stride(length: int) -> int:
    """A step that visits every place of a list once, far from the one before."""
    return next(s for s in range(int(length * 0.38) + 1, 2 * length + 2) if math.gcd(s, length) == 1)


def tune(
    device: torch.device, seconds: float, *, small: bool = False, folder: Path | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Try, choose and write. Returns {"table", "tried", "classes": what was measured for each}."""
    capability = capability_of(device)
    rows = TABLES.rows(capability)
    made, most = classes(rows, small), FEW if small else None
    end = time.monotonic() + seconds
    if device.type == "cuda":
        compile_ahead(seconds * 0.55, workers)
    results: list[dict[Config, float | str]] = [{} for _ in made]
    for number, config in spread(made, most):
        if time.monotonic() > end:
            break
        given = given_of(made[number].shape, device)
        results[number][config] = tried(given, config, 1 if small else ROUNDS)
    chosen = []
    for row, result in zip(rows, results, strict=True):
        times = {config: ms for config, ms in result.items() if isinstance(ms, float)}
        best = min(times, key=lambda config: times[config]) if times else row
        chosen.append(best._replace(measured=bool(times)))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"
    metadata: dict[str, Any] = dict(device=name, versions=versions(), date=datetime.date.today().isoformat())
    path = TABLES.save(capability, chosen, folder=folder, **metadata)
    return {"table": path.name, "tried": sum(map(len, results)), "classes": list(map(_told, made, results, chosen))}


def _told(of: Class, result: dict[Config, float | str], best: Config) -> dict[str, Any]:
    times = sorted((ms, list(c[3:])) for c, ms in result.items() if isinstance(ms, float))
    return {
        "shape": of.shape._asdict(),
        "precision": of.row.precision,
        "chosen": best._asdict(),
        "before_ms": result.get(of.row),
        "fastest": times[:5],
        "failed": [[list(c[3:]), why] for c, why in result.items() if isinstance(why, str)][:10],
    }


def compile_ahead(seconds: float, workers: int | None = None) -> None:
    """Fill Triton's cache from many processes; each runs its share of the configurations once, until time is up."""
    workers = workers or max(1, min(12, (os.cpu_count() or 2) - 2))
    command = [sys.executable, "-m", "vqmm.benchmarks.tune_kernels", "--seconds", str(seconds), "--share"]
    running = [subprocess.Popen([*command, f"{i}/{workers}"], stdout=subprocess.DEVNULL) for i in range(workers)]
    for process in running:
        process.wait()


def compile_share(share: str, seconds: float) -> None:
    mine, workers = map(int, share.split("/"))
    device, end = torch.device("cuda"), time.monotonic() + seconds - 10
    made = classes(TABLES.rows(capability_of(device)))
    for i, (number, config) in enumerate(spread(made, None)):
        if time.monotonic() > end:
            return
        if i % workers == mine:
            try:
                search(given_of(made[number].shape, device), config)()
            except Exception as error:  # told when it is measured
                print(f"{config}: {error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--folder", type=Path, help="for the table; else that of the package")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("tune_kernels: there is no GPU here", file=sys.stderr)
        sys.exit(2)
    if args.share:
        compile_share(args.share, args.seconds)
        return
    result = tune(torch.device("cuda"), args.seconds, folder=args.folder)
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
