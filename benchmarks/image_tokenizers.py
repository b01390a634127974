"""How well do the recipes reconstruct pictures?

    python -m vqmm.benchmarks.image_tokenizers cifar10_subset.npz --name cifar10 --steps 3000 --out benchmarks/results

Trains each recipe on the source's training split on one thread and evaluates it on all of its test split.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import vqmm
from vqmm.utils.machine import machine

RECIPES = ("ae", "vae", "vqvae", "vqvae-ema")


def measure(recipe: str, data: str, steps: int, settings: list[str], folder: Path) -> dict[str, Any]:
    """Train and evaluate one recipe; a row of the table."""
    start = time.perf_counter()
    trained = vqmm.train("image", data, folder / recipe, recipe, steps=steps, settings=settings)
    seconds = time.perf_counter() - start
    evaluation = vqmm.eval(folder / recipe, data)
    row = {"recipe": recipe, "steps": steps, "weights": trained["weights"], "train_seconds": round(seconds, 1)}
    return {
        **row,
        "split": evaluation["split"],
        "view": evaluation["view"],
        "count": evaluation["count"],
        **evaluation["metrics"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in args.recipes.split(","):
            rows.append(measure(recipe, args.data, args.steps, args.settings, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    result = {"question": "image_tokenizers", "data": args.name, "settings": args.settings, "rows": rows, **machine()}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"image_tokenizers-{args.name}-{args.steps}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
