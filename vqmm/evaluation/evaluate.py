"""One pass over held-out data: metrics, rate, use of the codebook."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vqmm.contracts.batch import Batch, Codes
from vqmm.contracts.decoder import grid_mask
from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Sample
from vqmm.data.degrade import Degradation
from vqmm.data.loader import Loaded, Views, evaluation_batches
from vqmm.data.source import label_numbers
from vqmm.evaluation.usage import CodeUsage
from vqmm.tokenizer.long_signals import evaluation_outputs_long
from vqmm.tokenizer.model import Model, evaluating
from vqmm.utils.files import write_text

if TYPE_CHECKING:
    from vqmm.contracts.metric import Metric

NOT_JUDGED = "null: new samples belong beside no original"  # of a metric that compares, for a generator
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body style="font-family: system-ui, sans-serif; max-width: 1080px; margin: 0 auto; padding: 24px">
<h1>{title}</h1>
{shown}
</body>
</html>
"""


@dataclass
class EvaluationResult:
    """What a pass has found.

    Attributes:
        metrics, rules: by name: values, and how each comes about.
        count: of the samples that could be read; `unreadable` names the others.
        stages: how each stage of each map was used (see `CodeUsage.stages`).
        code_counts: for each stage of each map, how often each code came.
        keys: of the samples in `rows`.
        looked_at: which samples these were, in words, where `evaluate_held_out` has chosen them.
        produces: what the model gave for them, in words: reconstructions, or new samples.
        shown: originals, and what the model gave for them.
        inputs: what the shown ones were made from, where that was degraded.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    count: int = 0
    unreadable: list[str] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    code_counts: list[list[list[int]]] = field(default_factory=list)
    looked_at: str = ""
    produces: str = "reconstructions"
    keys: list[str] = field(default_factory=list)
    shown: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    inputs: list[Tensor] = field(default_factory=list)

    @property
    def rows(self) -> tuple[list[Tensor], ...]:
        """What to look at: originals and what the model gave; or inputs, what it gave, originals."""
        return (self.inputs, *self.shown[::-1]) if self.inputs else self.shown

    def as_dict(self) -> dict[str, Any]:
        """What can be written as JSON: everything but the samples to look at."""
        return {name: getattr(self, name) for name in ("count", "metrics", "rules", "stages", "unreadable")}


@torch.no_grad()
def evaluate(
    model: Model,
    batches: Iterable[Loaded],
    as_written: bool = False,
    show: int = 8,
    stages: int | None = None,
) -> EvaluationResult:
    """Run the model on every sample of the batches and measure what it gives; for a decoder that is slow to sample, on
    the first few. Metrics that compare are for reconstructions, not for new samples (`Model.reference_metrics`).

    Args:
        as_written: measure what a decoded file would hold (8-bit pictures), not the network's output.
        show: keep so many originals, and what stands beside them, for a look.
        stages: use only the first so many stages of the quantizer.
    """
    evaluation_pass = _Pass(model, as_written, show, stages)
    for batch, unreadable in batches:
        evaluation_pass.result.unreadable += unreadable
        if batch is not None:
            evaluation_pass.add(batch.to(model.device))
    return evaluation_pass.finished()


def evaluate_held_out(
    model: Model, views: Views, split: str, batch_size: int, limit: int | None = None
) -> EvaluationResult:
    """Evaluate on the views of held-out samples, at most `limit` of them, spread evenly; `split` says what they are."""
    result = evaluate(model, evaluation_batches(views, batch_size, limit))
    available = len(views.samples)
    of_all = f" of {available:,}" if result.count < available else ""
    degraded = "" if views.degrade is None else f", {views.degrade.said}"
    result.looked_at = f"{result.count:,}{of_all} samples; {split}; {views.modality.evaluation().view}{degraded}"
    return result


class _Pass:
    """What one pass over the data counts on its way."""

    def __init__(self, model: Model, as_written: bool, show: int, stages: int | None):
        self.model, self.as_written, self.show, self.stages = model, as_written, show, stages
        self.result = EvaluationResult(produces=model.produces)
        self.evaluation = model.modality.evaluation()
        self.metrics = self.evaluation.metrics()
        self.compared = model.reference_metrics(self.metrics)
        self.usage = CodeUsage([each[:stages] for each in model.quantizer.sizes])
        self.amount, self.seconds, self.evaluated = 0.0, 0.0, 0
        self.bits, self.bits_shuffled, self.values, self.values_shuffled = 0.0, 0.0, 0, 0
        self.measures: dict[str, float] = {}  # sums over positions
        self.positions = 0

    def add(self, batch: Batch) -> None:
        self.result.count += len(batch)
        self.amount += sum(map(self.evaluation.size_in_units, batch.targets))
        if self.model.decoder.likelihood:
            self._weigh(batch)
        if self.model.quantizer.measured:
            self._measure(batch)
        most = self.model.decoder.evaluation_limit
        codes = self._evaluate(batch) if most is None or self.evaluated < most else self._codes(batch)
        if codes is not None:
            self.usage.update(codes)

    def _weigh(self, batch: Batch) -> None:
        count = batch.target_or_x.numel() if batch.mask is None else int(batch.mask.sum()) * batch.target_or_x.shape[1]
        losses = self.model.shuffled_losses(batch, self.stages)
        if losses is None:
            return
        right, wrong = losses
        self.bits += right * count
        self.values += count
        if len(batch) > 1:  # one sample has nobody to exchange codes with
            self.bits_shuffled += wrong * count
            self.values_shuffled += count

    def _measure(self, batch: Batch) -> None:
        with evaluating(self.model):
            quantized = self.model.decoder_input(batch, self.stages)
        mask = grid_mask(batch, quantized.vectors)
        count = quantized.vectors[:, 0].numel() if mask is None else int(mask.sum())
        self.positions += count
        for name, value in quantized.measures.items():
            self.measures[name] = self.measures.get(name, 0.0) + float(value) * count

    def _codes(self, batch: Batch) -> Codes | None:
        with evaluating(self.model):
            return self.model.decoder_input(batch, self.stages).codes

    def _evaluate(self, batch: Batch) -> Codes | None:
        start = time.perf_counter()
        outputs, codes = evaluation_outputs_long(self.model, batch, self.stages)
        outputs = [output.cpu() for output in outputs]
        self.seconds += time.perf_counter() - start
        self.evaluated += len(batch)
        originals = originals_of(batch)
        if self.as_written:
            outputs = [self.model.modality.as_written(output) for output in outputs]
        for some_outputs, some_originals in alike(outputs, originals):
            for metric in self.compared.values():
                metric.update(some_outputs, some_originals)
        room = max(self.show - len(self.result.shown[0]), 0)
        self.result.keys.extend(batch.key[:room])
        self.result.shown[0].extend(originals[:room])
        self.result.shown[1].extend(outputs[:room])
        if batch.target is not None:
            self.result.inputs.extend(originals_of(replace(batch, target=None))[:room])
        return codes

    def finished(self) -> EvaluationResult:
        result, model = self.result, self.model
        if not result.count:
            return result
        of_some = f"; of the first {self.evaluated} samples" if self.evaluated < result.count else ""
        for name, metric in self.metrics.items():
            result.metrics[name], rule = figure(metric) if name in self.compared else (None, NOT_JUDGED)
            result.rules[name] = rule + of_some
        if self.values:
            result.metrics["bits_per_dim"] = self.bits / self.values
            result.rules["bits_per_dim"] = "negative log-likelihood of a sample given its codes, over its values"
        if self.values_shuffled:
            result.metrics["bits_per_dim_shuffled"] = self.bits_shuffled / self.values_shuffled
            result.rules["bits_per_dim_shuffled"] = "the same given another sample's codes: how much the codes say"
        for name, total in self.measures.items():
            result.metrics[name] = total / self.positions if self.positions else None
            result.rules[name] = model.quantizer.measured[name]
        unit = self.evaluation.rate_unit
        has_codes = bool(model.quantizer.sizes)
        result.stages = self.usage.stages()
        result.code_counts = [[counts.tolist() for counts in stages] for stages in self.usage.counts]
        result.metrics |= {
            f"bits_per_{unit}": self.usage.bits / self.amount if has_codes else None,
            f"entropy_bits_per_{unit}": self.usage.entropy_bits() / self.amount if has_codes else None,
            "codebook_usage": self.usage.use() if has_codes else None,
            "codebook_perplexity": self.usage.perplexity() if has_codes else None,
            "samples_per_second": self.evaluated / self.seconds,
        }
        result.rules |= {
            f"bits_per_{unit}": f"nominal: log2 of the codebook size for every code, over all {unit}s",
            f"entropy_bits_per_{unit}": (
                f"entropy of the codes of each stage, over all {unit}s: an ideal coder that knows how often each code "
                "comes in this evaluation and nothing of its neighbours; too low where a stage has few codes to count"
            ),
            "codebook_usage": "share of codes chosen at least once in this whole evaluation",
            "codebook_perplexity": "exp of the entropy of the codes of this whole evaluation",
            "samples_per_second": f"making {model.produces}, {model.device.type}, {torch.get_num_threads()} threads",
        }
        return result


def shuffled_loss_ratio(model: Model, batch: Batch) -> float | None:
    """How many times worse the decoder does with other samples' codes: 1 if it ignores them.

    The ratio of the losses; for a decoder with a likelihood, the ratio of the likelihoods of a value. None where there
    is nothing to exchange (one sample, or vectors that are of no sample) or nothing to divide by.
    """
    losses = model.shuffled_losses(batch) if len(batch) > 1 else None
    if losses is None:
        return None
    right, wrong = losses
    if model.decoder.likelihood:
        return 2.0 ** min(wrong - right, 64.0)
    return wrong / right if right > 0 else None


def evaluation_views(
    model: Model, samples: Sequence[Sample], *, whole: bool = False, degrade: Degradation | None = None
) -> Views:
    """Samples as a model is evaluated on them: with their labels where its decoder is told those.

    Raises:
        UserError: a label that the model does not know, or none where it needs one.
    """
    labels = label_numbers(samples, model.labels) if model.label_embedding is not None else {}
    return Views(model.modality, samples, labels, whole=whole, degrade=degrade)


def originals_of(batch: Batch) -> list[Tensor]:
    """What each output is compared with, on the CPU."""
    return [goal.cpu() for goal in batch.targets]


def figure(metric: "Metric") -> tuple[float | None, str]:
    """A metric's value and its rule. None where no finite number came out, as the rule then says: JSON has
    neither NaN nor infinity.
    """
    value = float(metric.accumulator.compute())
    return (value, metric.rule) if math.isfinite(value) else (None, f"{metric.rule}; null: {value} came out")


def alike(outputs: list[Tensor], originals: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Stacks of neighbours that have one shape, in their order: a metric of samples laid end to end needs that."""
    for _, places in groupby(range(len(originals)), key=lambda i: originals[i].shape):
        some = list(places)
        yield torch.stack([outputs[i] for i in some]), torch.stack([originals[i] for i in some])


def write_shown(modality: Modality, result: EvaluationResult, path: Path) -> Path:
    """Write what the modality shows of an evaluation's rows: a PNG picture, or its HTML as a page that says what the
    rows are. `path` has no suffix.
    """
    shown = modality.evaluation().show(*result.rows)
    if isinstance(shown, str):
        file = path.with_name(path.name + ".html")
        title = f"Inputs, {result.produces}, originals" if result.inputs else f"Originals, {result.produces}"
        write_text(file, PAGE.format(title=title, shown=shown))
    else:
        file = path.with_name(path.name + ".png")
        shown.save(file)
    return file
