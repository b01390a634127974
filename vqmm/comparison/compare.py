"""`vqmm compare`: several recipes, trained on the same data with the same budget and evaluated on the same samples."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.commands.evaluate import degradation_of
from vqmm.commands.evaluate import eval as evaluate_run
from vqmm.commands.train import train
from vqmm.comparison.baselines import baseline_record, degrading, wanted_baselines
from vqmm.comparison.page import Shown, write_page
from vqmm.comparison.plan import (
    Calibrations,
    ComparisonPlan,
    claim,
    finite,
    is_begun,
    look_at,
    make_plan,
    note,
    read_json,
    run_folder,
)
from vqmm.comparison.timing import calibrate, code_speeds, train_seconds
from vqmm.contracts.batch import Batch
from vqmm.data.loader import evaluation_batches
from vqmm.data.source import evaluation_samples
from vqmm.evaluation.evaluate import evaluation_views, originals_of
from vqmm.registry import Registry
from vqmm.tokenizer.loading import load_model
from vqmm.tokenizer.model import Model
from vqmm.utils.errors import Stopped, UserError
from vqmm.utils.files import write_text
from vqmm.utils.machine import machine

EVALUATION = "evaluation.json"  # in a run's folder: this run is finished and evaluated
BATCH_SIZE = 32  # of the evaluation
SPEED_BATCHES = 4  # held-out batches that encode and decode are timed on
SHOWN = 8  # samples that the page shows

Record = dict[str, Any]


def compare(
    modality: str,
    recipes: str | Sequence[str],
    data: str | Path,
    out: str | Path,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seeds: str | Sequence[int] = (0,),
    settings: Sequence[str] = (),
    baselines: bool = True,
    plugins: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every recipe with every seed, evaluate each run on the same held-out data, and put all into one table.

    Called again with the same arguments it goes on where it was: finished runs are kept, an unfinished one is resumed.

    Args:
        recipes: names or YAML files, as a list or with commas between them.
        steps: the budget of every run in optimizer steps; without a budget that of the recipes.
        seconds: the budget in wall seconds of training: the number of steps that fits is measured beforehand, once
            for each recipe. Looks at held-out data and checkpoints come on top.
        seeds: of `train.seed`, each once.
        settings: `a.b=c` changes to all recipes.
        baselines: beside the recipes, what people use without a network, where the modality knows of some
            (`Evaluation.baselines`). Not where a recipe degrades its inputs: a baseline restores nothing.

    Returns:
        `rows`, one a recipe, then one a baseline (its `baseline` is true): means over the seeds, `spread` (lowest and
        highest) where there are several, `runs` for each seed, and `error` where one failed. `rules` says how each
        figure came about; the rest what was looked at. The same is in `compare.json`, and in `compare.html` for people.

    Raises:
        UserError: arguments or data that do not fit, before anything is written.
        Stopped: SIGTERM or SIGINT came.
    """
    out = Path(out)
    look_at(out)
    registry = Registry.discover(plugins)
    plan = make_plan(registry, modality, recipes, data, steps=steps, seconds=seconds, seeds=seeds, settings=settings)
    work = _Work(plan, out, registry, tuple(plugins), quiet, claim(out, plan))
    known = work.baselines() if baselines else []  # first: they are quick, and a library that is missing is known early
    runs: dict[str, list[Record]] = {label: [] for label in plan.recipes}
    for label, seed in plan.jobs:
        runs[label].append(work.record(label, seed))
    result = _summary(plan, runs, known, work.calibrations)
    write_text(out / "compare.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    write_page(out / "compare.html", result, work.shown(runs))
    return result


def failures(result: Mapping[str, Any]) -> list[str]:
    """What went wrong in a comparison, one entry a run."""
    wrong = [(row["recipe"], run) for row in result["rows"] for run in row["runs"] if run["error"]]
    seeds = ["" if run["seed"] is None else f", seed {run['seed']}" for _, run in wrong]  # a baseline has none
    return [f"{recipe}{seed}: {run['error']}" for (recipe, run), seed in zip(wrong, seeds, strict=True)]


@dataclass
class _Work:
    """The runs of a plan, in a folder."""

    plan: ComparisonPlan
    out: Path
    registry: Registry
    plugins: tuple[str, ...]
    quiet: bool
    calibrations: Calibrations

    def baselines(self) -> list[Record]:
        """The figures of every baseline of the modality."""
        baselines = wanted_baselines(self.plan)
        degraded = degrading(self.plan)
        if baselines and degraded:
            self._say(f"no baselines: {', '.join(degraded)} is given degraded samples, and a baseline restores nothing")
            return []
        records = []
        for number, baseline in enumerate(baselines, start=1):
            place = f"baseline {number} of {len(baselines)}: {baseline.name}"
            self._say(place)
            record, stored = baseline_record(self.plan, self.out, baseline)
            if stored or record["run"]["error"]:
                self._say(f"{place}: finished before" if stored else f"{place} failed: {record['run']['error']}")
            records.append(record)
        return records

    def record(self, label: str, seed: int) -> Record:
        """A finished run's figures with their rules: those that are stored, or after training and evaluating it."""
        folder = run_folder(self.out, label, seed)
        place = f"{self.plan.jobs.index((label, seed)) + 1} of {len(self.plan.jobs)}: {label}, seed {seed}"
        stored = folder / EVALUATION
        if stored.is_file():
            self._say(f"{place}: finished before")
            return read_json(stored)
        self._say(place)
        try:
            steps = self._steps(label)
            self._train(label, seed, steps)
            record = self._evaluate(label, seed, steps)
        except Stopped as stopped:  # it would speak of --resume
            stopped.args = (f"stopped in run {place}: repeat the same call to go on",)
            raise
        except UserError as error:  # the others go on
            self._say(f"{place} failed: {error}")
            return {"run": {"seed": seed, "run": str(folder.relative_to(self.out)), "error": str(error)}}
        write_text(stored, json.dumps(record, indent=2, allow_nan=False) + "\n")
        return record

    def _steps(self, label: str) -> int:
        """The budget of a recipe in steps; measured once, and kept for its other seeds and for going on."""
        if self.plan.steps is not None:
            return self.plan.steps
        assert self.plan.seconds is not None  # a plan has one of the two
        if label not in self.calibrations:
            self.calibrations[label] = calibrate(
                self.plan.modality.name,
                self.plan.source.path,
                self.plan.names[label],
                self._settings(self.plan.seeds[0]),
                self.plugins,
                self.plan.seconds,
            )
            note(self.out, self.plan, self.calibrations)
            self._say(f"{label}: {self.calibrations[label]['steps']} steps fit into {self.plan.seconds:g} s")
        return int(self.calibrations[label]["steps"])

    def _settings(self, seed: int) -> list[str]:
        return [*self.plan.settings, f"train.seed={seed}"]

    def _train(self, label: str, seed: int, steps: int) -> None:
        folder = run_folder(self.out, label, seed)
        train(
            self.plan.modality.name,
            self.plan.source.path,
            folder,
            self.plan.names[label],
            steps=steps,
            settings=self._settings(seed),
            resume=is_begun(folder),
            plugins=self.plugins,
            quiet=self.quiet,
        )

    def _evaluate(self, label: str, seed: int, steps: int) -> Record:
        folder = run_folder(self.out, label, seed)
        evaluation = evaluate_run(folder, self.plan.source.path, batch_size=BATCH_SIZE, plugins=self.plugins)
        model = load_model(folder, self.registry)
        metrics, contract = evaluation["metrics"], model.modality.evaluation()
        first = (f"bits_per_{contract.rate_unit}", contract.main_metric)
        figures = {
            **{name: metrics[name] for name in (*first, *metrics)},
            **code_speeds(model, self._held_out(model, folder, BATCH_SIZE, SPEED_BATCHES * BATCH_SIZE)),
            "weights": sum(p.numel() for p in model.parameters()),
            "train_seconds": train_seconds(folder, self.plan.recipe(label, seed, steps).train),
            "steps": steps,
        }
        run = {"seed": seed, "run": str(folder.relative_to(self.out)), "error": None, **finite(figures)}
        rules = evaluation["rules"] | _rules(model, self.plan)
        judged_on = {name: evaluation[name] for name in ("split", "view", "count", "unreadable")}
        return {"run": {**run, "machine": machine()}, "rules": {name: rules[name] for name in figures}, **judged_on}

    def shown(self, runs: Mapping[str, Sequence[Record]]) -> Shown:
        """Held-out samples, and what the first finished run of each recipe makes of them."""
        modality = self.plan.modality
        rows: dict[str, list[Tensor]] = {}
        for label, records in runs.items():
            seeds = [record["run"]["seed"] for record in records if not record["run"]["error"]]
            if not seeds:
                continue
            folder = run_folder(self.out, label, seeds[0])
            model = load_model(folder, self.registry)
            for batch in self._held_out(model, folder, SHOWN, SHOWN):
                modality = model.modality  # one that has learnt what it must
                rows.setdefault("original", originals_of(batch))
                rows[label] = [output.cpu() for output in model.evaluation_outputs(batch.to(model.device))[0]]
        return modality, rows

    def _held_out(self, model: Model, run: Path, batch_size: int, limit: int) -> list[Batch]:
        """Some of the batches that `eval` looks at, spread over all of them, degraded as the run's are."""
        source = self.plan.source
        samples = evaluation_samples(source, source.path)[0]
        views = evaluation_views(model, samples, degrade=degradation_of(run))
        return [batch for batch, _ in evaluation_batches(views, batch_size, limit) if batch is not None]

    def _say(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)


def _rules(model: Model, plan: ComparisonPlan) -> dict[str, str]:
    """How the figures came about that `eval` does not have."""
    timed = (
        f"the median over held-out batches of up to {BATCH_SIZE}, {model.device.type}, {torch.get_num_threads()} "
        "threads; null for a recipe without codes: see samples_per_second, the time of both ways together"
    )
    measured = f"what fits {plan.seconds or 0:g} s of training by the mean of a few timed steps of a throw-away run"
    return {
        "encode_samples_per_second": f"Tokenizer.encode: {timed}",
        "decode_samples_per_second": f"Tokenizer.decode: {timed}",
        "weights": "parameters that gradients train; a codebook of moving averages is none of them",
        "train_seconds": "wall time from the start to the last step, evaluations between them included",
        "steps": "optimizer steps" + (f": {measured}" if plan.seconds is not None else ""),
    }


def _summary(
    plan: ComparisonPlan, runs: Mapping[str, Sequence[Record]], known: Sequence[Record], calibrations: Calibrations
) -> dict[str, Any]:
    """The object of compare.json; `known` are the records of the baselines."""
    done = [record for records in [*runs.values(), known] for record in records if not record["run"]["error"]]
    first = done[0] if done else {}
    rules: dict[str, str] = {}  # of every figure that any recipe has; where two say different things, the first's
    for record in done:
        rules |= {name: rule for name, rule in record["rules"].items() if name not in rules}
    evaluation = plan.modality.evaluation()
    rows = [row_of(label, records, rules, calibrations.get(label)) for label, records in runs.items()]
    rows += [row_of(record["label"], [record], rules, None) for record in known]
    return {
        "rows": rows,
        "rules": rules,
        "modality": plan.modality.name,
        "rate": f"bits_per_{evaluation.rate_unit}",
        "main_metric": evaluation.main_metric,
        "higher_is_better": {name: metric.higher_is_better for name, metric in evaluation.metrics().items()},
        **plan.arguments(),
        "split": plan.split,
        "view": first.get("view", evaluation.view),
        "count": first.get("count"),
        "unreadable": first.get("unreadable", []),
        "machine": first["run"]["machine"] if done else None,
    }


def row_of(
    label: str, records: Sequence[Record], rules: Mapping[str, str], calibration: Mapping[str, float] | None
) -> Record:
    """One recipe: the mean of every figure over the seeds that finished, their spread, and rules that are its own.

    Or one baseline: a single run that has no seed.
    """
    runs = [record["run"] for record in records]
    done = [run for run in runs if not run["error"]]
    family = records[0].get("family")  # only a baseline has one
    wrong = [f"seed {run['seed']}: {run['error']}" if family is None else run["error"] for run in runs if run["error"]]
    values = {name: [run.get(name) for run in done] for name in rules}
    said = {name: rule for record in records for name, rule in record.get("rules", {}).items()}
    return {
        "recipe": label,
        "baseline": family is not None,
        "family": family,
        "seeds": [run["seed"] for run in runs if run["seed"] is not None],
        "error": "; ".join(wrong) or None,
        **{name: _mean(some) for name, some in values.items()},
        "spread": {name: [min(some), max(some)] for name, some in values.items() if len(some) > 1 and None not in some},
        "rules": {name: rule for name, rule in said.items() if rule != rules[name]},
        "calibration": None if calibration is None else dict(calibration),
        "runs": runs,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None where any is: a figure that only some of the runs have is not that of the recipe."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return None
    return there[0] if len(set(there)) == 1 else math.fsum(there) / len(there)
