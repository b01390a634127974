"""Whether labels survive: does a reconstruction look like its class to somebody who has only seen originals?"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vqmm.contracts.batch import Batch
from vqmm.contracts.labels import LabelClassifier
from vqmm.contracts.sample import Sample
from vqmm.data.degrade import Degradation
from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.source import Source
from vqmm.evaluation.evaluate import evaluation_views, originals_of
from vqmm.tokenizer.long_signals import evaluation_outputs_long
from vqmm.tokenizer.model import Model
from vqmm.utils.errors import UserError

DEVIATIONS = 1.959964  # to each side of the middle of a normal distribution, between which 95% of it lie


@dataclass
class _Seen:
    """What could be read of a part of a source: originals, the numbers of their labels, what the model gave
    for each; `unreadable`: what is wrong with the rest.
    """

    numbers: Mapping[str, int]  # by key
    originals: list[Tensor] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def batches(self, views: Views, batch_size: int) -> Iterator[Batch]:
        for batch, damaged in evaluation_batches(views, batch_size):
            self.unreadable += damaged
            if batch is not None:
                # without a copy each original would keep the whole of its padded batch
                self.originals += [original.clone() for original in originals_of(batch)]
                self.labels += [self.numbers[key] for key in batch.key]
                yield batch
        if not self.originals:
            raise UserError(
                f"none of the {len(views.samples)} samples with a label can be read; the first: {self.unreadable[0]}"
            )


def label_survival(
    model: Model,
    source: Source,
    *,
    whole: bool = False,
    stages: int | None = None,
    degrade: Degradation | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Fit the modality's label classifier to a source's training originals, and try it on the held-out ones.

    Samples without a label are left out. Originals and reconstructions of both parts are held in memory. Of a decoder
    that is slow to sample the first few are evaluated, as everywhere.

    Args:
        whole: samples uncropped, and evaluated as a decoded file would hold them.
        stages: use only the first so many stages of the quantizer.
        degrade: what the model is given; the classifier sees the clean originals.

    Returns:
        `metrics` and `rules` for `label_accuracy`, `label_accuracy_reconstructed` and `label_agreement`, each 0 to 1;
        `unreadable`: which of the samples could not be read.

    Raises:
        UserError: the modality has no such classifier, or a library that it needs is missing; the source's training
            part has fewer than two labels, or its held-out part none; nothing of a part can be read.
    """
    classifier = model.modality.evaluation().label_classifier()
    if classifier is None:
        raise UserError(f"the modality {model.modality.name!r} has no label classifier: leave out --labels")
    training, held_out = _with_labels(source)
    numbers = {label: number for number, label in enumerate(source.labels)}
    by_key = {sample.key: numbers[sample.label or ""] for sample in (*training, *held_out)}

    fitted = _Seen(by_key)
    for _ in fitted.batches(Views(model.modality, training, {}, whole=whole), batch_size):
        pass
    classifier.fit(fitted.originals, fitted.labels)

    seen = _Seen(by_key)
    views = evaluation_views(model, held_out, whole=whole, degrade=degrade)
    for batch in seen.batches(views, batch_size):
        made, _ = evaluation_outputs_long(model, batch.to(model.device), stages)
        made = [output.cpu() for output in made]
        seen.outputs += [*map(model.modality.as_written, made)] if whole else made
        if len(seen.originals) >= (model.decoder.evaluation_limit or len(held_out)):
            break

    of = "the source's own test split" if source.has_split else "the held-out tenth"
    by = f"{classifier.rule}, fitted to {len(fitted.originals):,} training originals"
    label_note = "" if model.label_embedding is None else "; the decoder is told each label"
    return {
        "unreadable": fitted.unreadable + seen.unreadable,
        **_evaluated(classifier, seen, of, by, model.produces, label_note),
    }


def _evaluated(
    classifier: LabelClassifier, seen: _Seen, of: str, by: str, produces: str, label_note: str
) -> dict[str, dict[str, Any]]:
    """`metrics` and `rules`; `of`, `by`, `produces` and `label_note` are parts of the rules."""
    named, renamed = classifier.predict(seen.originals), classifier.predict(seen.outputs)
    commonest = Counter(seen.labels).most_common(1)[0][1] / len(seen.labels)
    compared = {
        "label_accuracy": (
            named,
            seen.labels,
            f"originals of {of} that are given their label by {by}; the commonest label is that of {commonest:.1%}",
        ),
        "label_accuracy_reconstructed": (
            renamed,
            seen.labels,
            f"{produces} of the same that are given the original's label{label_note}",
        ),
        "label_agreement": (
            renamed,
            named,
            f"{produces} of the same that are given what their original is given, right or wrong{label_note}",
        ),
    }
    metrics, rules = {}, {}
    for name, (ones, others, what) in compared.items():
        hits, count = sum(predicted == other for predicted, other in zip(ones, others, strict=True)), len(others)
        low, high = wilson_interval(hits, count)
        metrics[name] = hits / count
        rules[name] = f"share of {count:,} {what}; 95% interval {low:.3f} to {high:.3f} (Wilson)"
    return {"metrics": metrics, "rules": rules}


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Between which shares the true one lies with 95% confidence, where `hits` of `count` (1 or more) were seen.

    Source: Wilson 1927, doi 10.1080/01621459.1927.10502953. Unlike the usual one it stays within 0 and 1.
    """
    share, spread = hits / count, DEVIATIONS**2 / count
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max((middle - half) / (1 + spread), 0.0), min((middle + half) / (1 + spread), 1.0)


def _with_labels(source: Source) -> tuple[list[Sample], list[Sample]]:
    """The training and the held-out samples that have a label; a `UserError` where they do not suffice."""
    if not source.labels:
        raise UserError(
            f"{source.path} has no labels, so none can survive: give data with a folder for each, or a table with a "
            "column of them, or leave out --labels"
        )
    training, held_out = (
        [sample for sample in part if sample.label is not None] for part in (source.training(), source.held_out())
    )
    labels = sorted({sample.label or "" for sample in training})
    if len(labels) < 2:
        raise UserError(
            f"the {len(training)} labelled training samples of {source.path} have {len(labels)} label"
            f"{'s' if len(labels) != 1 else f', {labels[0]!r}'}: to tell labels apart takes two"
        )
    if not held_out:
        raise UserError(f"none of the held-out samples of {source.path} has a label: leave out --labels")
    return training, held_out
