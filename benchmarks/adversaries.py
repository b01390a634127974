"""What a critic buys, and what it costs: recipes with and without one, at equal steps, in one table.

    python -m vqmm.benchmarks.adversaries image cifar10_subset.npz --name cifar10 --steps 3000 --out benchmarks/results
    python -m vqmm.benchmarks.adversaries audio fsdd.tar.bz2 --name fsdd --recipes rvq,rvq+critic,rvq:5600 --steps 1000

`rvq+critic` is a recipe with an adversary put in, `rvq:5600` one with its own number of steps, for equal time.

Every run is evaluated by the metrics of `vqmm eval`, and by `vqmm.evaluation.realism` with one set of features for all.
Beside them the seconds of the processor that a run took, and how far it fell below its own best before the critic
counted: by how much of the main metric at the most, and for what share of its evaluations by more than `--fall`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import vqmm
from vqmm.contracts.features import Features
from vqmm.data.source import Source
from vqmm.evaluation.realism import features_of, realism
from vqmm.recipe import read_named_recipe
from vqmm.tokenizer.loading import load_model
from vqmm.tokenizer.model import Model
from vqmm.utils.files import write_text
from vqmm.utils.machine import machine

RECIPES = ("vqvae-ema", "vqgan", "vqgan-wgan-gp", "cvqgan", "gan")
FALL = 0.5  # of the main metric: dB of PSNR
LOOKS = 40  # at held-out data in a run


def falls(run: Path, main_metric: str, higher_is_better: bool, fall: float) -> dict[str, float | None]:
    """How far a run fell below its own best before its critic counted; None where none ever did.

    `deepest`: by how much of the main metric at the most; `below_share`: the share of all evaluations on held-out data
    that were more than `fall` below.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    counted = [line["step"] for line in lines if line["kind"] == "critic" and "loss_scale" in line]
    evaluations = [(line["step"], line["metrics"].get(main_metric)) for line in lines if line["kind"] == "held-out"]
    sign = 1 if higher_is_better else -1
    known = [(step, sign * value) for step, value in evaluations if value is not None]
    before = [value for step, value in known if counted and step <= counted[0]]
    if not before:
        return {"deepest": None, "below_share": None}
    lost = [max(before) - value for step, value in known if step > counted[0]]
    return {"deepest": max([0.0, *lost]), "below_share": sum(each > fall for each in lost) / len(known)}


def parted(asked: str, steps: int) -> tuple[str, str, int]:
    """Of `rvq+critic:5600` the recipe, the adversary put into it ("": its own, if any), and the steps."""
    name, _, number = asked.partition(":")
    recipe, _, adversary = name.partition("+")
    return recipe, adversary, int(number or steps)


def trained(args: argparse.Namespace, recipe: str, seed: int, folder: Path) -> tuple[Model, dict[str, Any]]:
    """One run, with the figures that only its training knows."""
    plain, adversary, steps = parted(recipe, args.steps)
    every = max(steps // LOOKS, 1)
    critic = adversary or read_named_recipe(vqmm.Registry.discover().recipe(plain)).adversary is not None
    overrides = [setting for setting in args.settings if critic or not setting.startswith("adversary.")]
    overrides += [f"adversary.name={adversary}"] if adversary else []
    settings = [f"train.seed={seed}", f"train.evaluate_every={every}", "train.evaluate_samples=256", *overrides]
    begun = time.process_time()  # of this one thread, whoever else was busy
    made = vqmm.train(args.modality, args.data, folder, plain, steps=steps, settings=settings, quiet=True)
    seconds = round(time.process_time() - begun, 1)
    model = load_model(folder)
    evaluation = model.modality.evaluation()
    metric = evaluation.metrics()[evaluation.main_metric]
    fell = falls(folder, evaluation.main_metric, bool(metric.higher_is_better), args.fall)
    told_of_it = {"recipe": recipe, "seed": seed, "steps": steps, "weights": made["weights"], "cpu_seconds": seconds}
    return model, {**told_of_it, **fell}


def row_of(
    args: argparse.Namespace, recipe: str, seed: int, folder: Path, features: Features | None
) -> tuple[dict[str, Any], dict[str, str], Features | None]:
    """A run and all its figures; their rules; the features, learnt on the way where there are none yet. Sets are not
    compared where the modality (text, say) offers nothing to compare them by."""
    model, row = trained(args, recipe, seed, folder)
    shown = args.out / f"adversaries-{args.name}-{folder.name}"
    evaluated = vqmm.eval(folder, args.data, show=None if seed else shown)
    figures, rules = (
        {name: value for name, value in evaluated["metrics"].items() if value is not None},
        evaluated["rules"],
    )
    if model.modality.evaluation().features() is not None:
        source = Source(model.modality, args.data)
        features = features or features_of(model, source)
        scores = realism(model, source, features=features, inception=args.inception)
        figures, rules = figures | scores["metrics"], rules | scores["rules"]
    return {**row, **figures}, rules, features


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each recipe the mean of every figure over its seeds, and beside it the lowest and the highest."""
    means = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        runs = [row for row in rows if row["recipe"] == recipe]
        figures = {
            name: [row[name] for row in runs]
            for name in runs[0]
            if name not in ("recipe", "seed") and all(isinstance(row.get(name), int | float) for row in runs)
        }
        spread = {name: [min(values), max(values)] for name, values in figures.items()}
        means.append({"recipe": recipe, **{name: fmean(values) for name, values in figures.items()}, "spread": spread})
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality")
    parser.add_argument("data")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--fall", type=float, default=FALL, help="how far below its own best a run may be")
    parser.add_argument("--inception", type=Path, help="weights of torch-fidelity's Inception network: fid and kid too")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    rules: dict[str, str] = {}
    features: Features | None = None
    with tempfile.TemporaryDirectory() as folder:
        for recipe in args.recipes.split(","):
            for seed in map(int, args.seeds.split(",")):
                run = Path(folder) / f"{recipe.replace(':', '-')}-{seed}"
                row, said, features = row_of(args, recipe, seed, run, features)
                rows.append(row)
                rules = said | rules  # a GAN has none for what compares with an original
                print(json.dumps(row), flush=True)
    result = {"question": "adversaries", "data": args.name, "steps": args.steps, "fall": args.fall, "rules": rules}
    result |= {"settings": args.settings, "rows": table(rows), "runs": rows}
    file = args.out / f"adversaries-{args.name}-{args.steps}.json"
    write_text(file, json.dumps({**result, **machine()}, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
