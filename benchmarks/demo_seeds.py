"""The demo with several seeds: the lowest cell of its coherence, and its time.

    python -m vqmm.benchmarks.demo_seeds --seeds 0,1,2,3,4 --out demo_seeds.json
    python -m vqmm.benchmarks.demo_seeds --validation         # the data that settings are chosen by

One run after the other, each in a folder of its own that is removed. The machine should have two idle cores.
"""

import argparse
import json
import resource
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from vqmm.commands.demo import PARTS, Parts, demo
from vqmm.utils.machine import machine
from vqmm.utils.requirements import installed


def run(seeds: list[int], validation: bool) -> dict[str, Any]:
    """One row a seed: seconds, seconds of all processors, coherence by cell, the lowest cell off the diagonal."""
    rows = []
    with mock.patch("vqmm.commands.demo.PARTS", on_validation(PARTS) if validation else PARTS):
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                before = processor_seconds()
                made = demo(Path(folder) / "demo", seed=seed)
                joint = made["parts"]["joint"]
                row = {
                    "seed": seed,
                    "seconds": round(made["seconds"], 1),
                    "processor_seconds": round(processor_seconds() - before, 1),
                    **joint["metrics"],
                    "cells": joint["coherence"],
                }
            rows.append(row)
            print(json.dumps(row), flush=True)
    versions = {name: installed(name) for name in ("torch", "torchaudio", "triton", "numpy")}
    lowest = min(row["lowest_cell"] for row in rows)
    split = "validation" if validation else "test"
    return {"split": split, "lowest_cell": lowest, "rows": rows, "machine": machine() | {"versions": versions}}


def on_validation(parts: Parts) -> Parts:
    """The same parts, evaluated on the third split."""
    image, audio = (
        None if part is None else replace(part, data=f"{part.data}-validation") for part in (parts.image, parts.audio)
    )
    assert image is not None
    return replace(parts, image=image, audio=audio, joint=replace(parts.joint, names=f"{parts.joint.names}-validation"))


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma-separated")
    parser.add_argument("--validation", action="store_true", help="evaluate on the split that settings are chosen by")
    parser.add_argument("--out", type=Path, help="a JSON file; without it only lines are printed")
    given = parser.parse_args()
    result = run([int(seed) for seed in given.seeds.split(",")], given.validation)
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
