"""What does the quantizer cost beside what one would use in its place?

    python -m vqmm.benchmarks.quantizer [--shapes NAME,...] [--tasks search,...] [--device cpu|cuda] [--out FILE]

For every shape: search, search and sums, training forward, and forward and backward, each by vqmm, by the naive
reference, by the best plain torch, by vector-quantize-pytorch and, for searches, by faiss (on a CPU) or flash-kmeans
(on a GPU). All in one run and in turn, each result checked first; on a GPU also 100 runs of each kernel for the same
bits. A wrong result has no figure, and the exit code is 1. `vqmm bench` measures by the same code, in less
time. With --plot also time against K and against N, as a picture beside FILE.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from vqmm.measure import CPU_SHAPES, NAMED, NO_GPU, SHAPES, Shape, bench, wrong_rows
from vqmm.measure.contenders import TASKS, tasks_of
from vqmm.measure.repeat import same_bits
from vqmm.measure.table import HEAD, notes, table

RUNS = 100


def run(
    shapes: list[Shape],
    device: torch.device,
    *,
    tasks: tuple[str, ...] = TASKS,
    seconds: float | None = None,
    rounds: int = 15,
    runs: int = RUNS,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure shapes and tasks (see vqmm.measure.bench); on a GPU also repeat each kernel `runs` times.

    `out` is written after every task, so that a run that is stopped has left what it had.
    """

    def keep(result: dict[str, Any]) -> None:
        if out is not None:
            write(out, result)

    work = [(shape, task) for shape in shapes for task in tasks_of(shape) if task in tasks]
    tell = lambda said: print(said, file=sys.stderr, flush=True)  # noqa: E731
    result = bench(work, device=device, seconds=seconds, rounds=rounds, tell=tell, keep=keep)
    if device.type == "cuda" and runs:
        result["same_bits"] = same_bits(shapes, device, runs)
    keep(result)
    return result


def write(out: Path, result: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_suffix(".new")
    fresh.write_text(json.dumps(result, indent=2) + "\n")
    fresh.replace(out)


def show(result: dict[str, Any]) -> None:
    """The table as Markdown, as a README takes it."""
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for row in table(result["rows"]):
        print(f"| {' | '.join(map(str, row))} |")
    for said in notes(result["rows"]):
        print(said)


def chosen(names: str | None, device: torch.device) -> list[Shape]:
    if names is None:
        return [*SHAPES, *(CPU_SHAPES if device.type == "cpu" else ())]
    unknown = [name for name in names.split(",") if name not in NAMED]
    if unknown:
        print(f"quantizer: no shape is called {', '.join(unknown)}; there is {', '.join(NAMED)}", file=sys.stderr)
        sys.exit(2)
    return [NAMED[name] for name in names.split(",")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", metavar="NAME,...", help=", ".join(NAMED))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, help="for all; slow contenders then get fewer vectors, and say so")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--plot", action="store_true", help="also time against K and against N, as PNG beside --out")
    args = parser.parse_args(arguments)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.plot and args.out is None:
        parser.error("--plot is written beside --out: give --out FILE")
    if device.type == "cpu":
        print(NO_GPU if not torch.cuda.is_available() else "the CPU paths are measured, on one thread", file=sys.stderr)
    options: dict[str, Any] = dict(seconds=args.seconds, rounds=args.rounds, out=args.out)
    result = run(chosen(args.shapes, device), device, tasks=tuple(args.tasks.split(",")), **options)
    show(result)
    if args.plot:
        from vqmm.benchmarks.quantizer_plot import plot

        print(plot(device, args.out.with_suffix(".png"), result))
        write(args.out, result)
    wrong = wrong_rows(result) + [
        f"{name}: other bits" for name, same in result.get("same_bits", {}).items() if not same
    ]
    if wrong:
        print(f"quantizer: wrong: {'; '.join(wrong)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
