"""Time of a search against K and against N, log-log: a picture beside the benchmark's JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vqmm.measure import Shape, bench

GRID = {  # the codebooks and the vectors that are swept, and what the other is meanwhile
    "cuda": (tuple(2**i for i in range(7, 19)), 65_536, tuple(2**i for i in range(4, 21)), 8_192),
    "cpu": (tuple(2**i for i in range(6, 15)), 4_096, tuple(2**i for i in range(4, 16)), 1_024),
}
WIDTH = 64


def sweep(device: torch.device, grid: Sequence[Any], seconds: float = 120.0) -> dict[str, list[dict[str, Any]]]:
    """Rows of search (see bench) for K with N fixed, and for N with K fixed. Half of the time each."""
    codes, n, vectors, k = grid
    shapes = {
        "K": [Shape(f"K {each}", n, each, WIDTH) for each in codes],
        "N": [Shape(f"N {each}", each, k, WIDTH) for each in vectors],
    }
    curves = {}
    for letter, line in shapes.items():
        work = [(shape, "search") for shape in line]
        result = bench(work, device=device, seconds=seconds / 2, rounds=7, memory=False)
        # fewer vectors than asked for is another shape: a hole in the line
        asked = {shape.name: shape.n for shape in line}
        curves[letter] = [row for row in result["rows"] if "ms" in row and row["n"] == asked[row["name"]]]
    return curves


def plot(device: torch.device, path: Path, result: dict[str, Any], grid: Sequence[Any] | None = None) -> Path:
    """Sweep, draw and save; the rows go into `result` as "sweep"."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result["sweep"] = rows = sweep(device, grid or GRID[device.type])
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    _, n, _, k = grid or GRID[device.type]
    for axis, letter, rest in zip(axes, "KN", (f"N {n:,}", f"K {k:,}"), strict=True):
        names = dict.fromkeys((row["contender"], row["precision"]) for row in rows[letter])
        for contender, precision in names:
            line = [row for row in rows[letter] if (row["contender"], row["precision"]) == (contender, precision)]
            x, y = [row[letter.lower()] for row in line], [row["ms"]["median"] for row in line]
            axis.plot(x, y, marker=".", linewidth=2.5 if contender == "vqmm" else 1, label=f"{contender} {precision}")
        axis.set(xscale="log", yscale="log", xlabel=letter, title=f"search, D {WIDTH}, {rest}")
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[1].legend(fontsize=8)
    where = result["gpu"] if device.type == "cuda" else f"{result['cpu']}, one thread"
    figure.suptitle(f"{where}, torch {result['torch']}, {result['date']}", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
