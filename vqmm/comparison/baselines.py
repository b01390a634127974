"""The baselines of a comparison: fitted on the recipes' training data, evaluated on their held-out views."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.comparison.plan import ComparisonPlan, read_json
from vqmm.contracts.baseline import Baseline
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.loader import Loaded, Views, evaluation_batches
from vqmm.data.source import evaluation_samples
from vqmm.evaluation.evaluate import alike, figure, originals_of
from vqmm.utils.errors import UserError
from vqmm.utils.files import write_text
from vqmm.utils.machine import machine

EVALUATION = "evaluation.json"  # in a baseline's folder: it is done
BATCH_SIZE = 32  # as of the recipes, so that metrics meet the samples in the same order
FIT_SAMPLES = 4096  # training samples that a baseline may learn from
AT_ONCE = 2**22  # values that it is given together: a file's header weighs little then, and memory stays flat

Record = dict[str, Any]


def wanted_baselines(plan: ComparisonPlan) -> list[Baseline]:
    """Those that the modality offers."""
    baselines = list(plan.modality.evaluation().baselines())
    slugs = [_slug(each.name) for each in baselines]
    twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if twice:
        raise UserError(f"the modality {plan.modality.name!r} has two baselines called {twice[0]!r}: name each once")
    return baselines


def degrading(plan: ComparisonPlan) -> list[str]:
    """The recipes that are given degraded samples: a baseline, which only codes, cannot stand beside these."""
    return [label for label, recipe in plan.recipes.items() if recipe.train.degrade is not None]


def baseline_record(plan: ComparisonPlan, out: Path, baseline: Baseline) -> tuple[Record, bool]:
    """A baseline's figures with their rules, and whether they were there before. One that cannot run has an `error`."""
    folder = out / "baselines" / _slug(baseline.name)
    stored = folder / EVALUATION
    if stored.is_file():
        return read_json(stored), True
    place = {"seed": None, "run": str(folder.relative_to(out))}
    record: Record = {"label": baseline.name, "family": baseline.family or baseline.name}
    try:
        record |= _evaluate(plan, baseline)
    except UserError as error:  # the others go on
        return {**record, "run": {**place, "error": str(error)}}, False
    record["run"] = {**place, "error": None, **record["run"]}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(stored, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return record, False


def _slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-.")


def _evaluate(plan: ComparisonPlan, baseline: Baseline) -> Record:
    modality, source, evaluation = plan.modality, plan.source, plan.modality.evaluation()
    training = source.training()
    count = min(len(training), FIT_SAMPLES)
    start = time.perf_counter()
    baseline.fit(_fitting(plan, training, count))
    train_seconds = time.perf_counter() - start
    baseline_pass = _Pass(plan, baseline)
    baseline_pass.at(evaluation_batches(Views(modality, evaluation_samples(source, source.path)[0], {}), BATCH_SIZE))
    if not baseline_pass.count:
        raise UserError(f"none of the held-out samples can be read; the first: {baseline_pass.unreadable[0]}")
    figures, rules = baseline_pass.figures()
    rate = figures[f"bits_per_{evaluation.rate_unit}"]
    assert rate is not None  # there are samples
    return {
        "label": baseline.label(rate),
        "run": {**figures, "train_seconds": train_seconds, "machine": machine()},
        "rules": {**rules, "train_seconds": f"of a baseline: wall time to fit it on {count:,} training samples"},
        "split": plan.split,
        "view": evaluation.view,
        "count": baseline_pass.count,
        "unreadable": baseline_pass.unreadable,
    }


def _fitting(plan: ComparisonPlan, training: Sequence[Sample], count: int) -> Iterator[Tensor]:
    """So many training samples, spread over all of them, whole, as a batch holds them."""
    for place in range(count):
        sample = training[place * len(training) // count]
        try:
            value = sample.read()
        except Unreadable:
            continue
        yield originals_of(plan.modality.collate([value], [sample.key]))[0]


class _Pass:
    """One pass of a baseline over the held-out views."""

    def __init__(self, plan: ComparisonPlan, baseline: Baseline):
        self.evaluation, self.baseline = plan.modality.evaluation(), baseline
        self.metrics = self.evaluation.metrics()
        self.count, self.bits, self.amount, self.seconds = 0, 0.0, 0.0, 0.0
        self.unreadable: list[str] = []

    def at(self, batches: Iterator[Loaded]) -> None:
        """All of them, so many values at a time."""
        waiting: list[list[Tensor]] = []
        values = 0
        for batch, unreadable in batches:
            self.unreadable += unreadable
            if batch is None:
                continue
            originals = originals_of(batch)
            self.count += len(batch)
            self.amount += sum(map(self.evaluation.size_in_units, originals))
            waiting.append(originals)
            values += sum(original.numel() for original in originals)
            if values >= AT_ONCE:
                self._evaluate(waiting)
                waiting, values = [], 0
        if waiting:
            self._evaluate(waiting)

    def _evaluate(self, batches: Sequence[Sequence[Tensor]]) -> None:
        originals = [original for some in batches for original in some]
        start = time.perf_counter()
        outputs, bits = self.baseline.reconstruct(originals)
        self.seconds += time.perf_counter() - start
        if [each.shape for each in outputs] != [each.shape for each in originals]:
            raise ValueError(f"the baseline {self.baseline.name!r} gave samples of other shapes than it was given")
        self.bits += bits
        for some in batches:
            batch_outputs, outputs = outputs[: len(some)], outputs[len(some) :]
            for some_outputs, some_originals in alike(batch_outputs, list(some)):
                for metric in self.metrics.values():
                    metric.update(some_outputs, some_originals)

    def figures(self) -> tuple[dict[str, float | None], dict[str, str]]:
        """Figures by name, and a rule for each."""
        unit = self.evaluation.rate_unit
        results = {name: figure(metric) for name, metric in self.metrics.items()}
        figures: dict[str, float | None] = {
            f"bits_per_{unit}": self.bits / self.amount,
            **{name: value for name, (value, _) in results.items()},
            "samples_per_second": self.count / self.seconds,
        }
        rules = {
            f"bits_per_{unit}": f"of a baseline, measured: {self.baseline.rule}",
            **{name: rule for name, (_, rule) in results.items()},
            "samples_per_second": f"of a baseline: encode and decode, cpu, {torch.get_num_threads()} threads",
        }
        return figures, rules
