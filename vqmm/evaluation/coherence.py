"""Coherence: does a frozen classifier give what a joint prior makes of a sample that sample's class?

For every ordered pair of modalities, FROM and TO: samples of TO are drawn, each given one held-out item of FROM, and
TO's label classifier, which has learnt from real training data alone, names them. The cell is the share that is given
the item's own label. The same samples held against the labels of other items, at random, are the control: it lies at
chance, unless the classifier or the counting is broken. Codes are drawn, never taken for being the likeliest.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.contracts.labels import LabelClassifier
from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.source import Source
from vqmm.evaluation.evaluate import originals_of
from vqmm.evaluation.labels import wilson_interval
from vqmm.generation.generator import Generator
from vqmm.generation.prompts import LABEL, Given
from vqmm.generation.sampling import Draw
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

FITTED, EVALUATED = 20_000, 2_000  # samples of each modality at most, spread over the labels
FEW = 4  # distinct texts of a label, on average, up to which a text is known by its wording

Items = list[tuple[Tensor, int]]  # samples (C, *extent) as in a batch, and the numbers of their labels
Cell = tuple[Sequence[int], Sequence[int]]  # what each sample is called, and what it should be


def coherence(
    run: str | Path,
    data: Mapping[str, str | Path],
    *,
    count: int = 200,
    draw: Draw | None = None,
    seed: int = 0,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """The coherence of a joint prior's run, on held-out data.

    Args:
        data: by modality where its labelled data are, as the prior was trained on them. The held-out part is the
            source's own test split, else the held-out tenth; where that lacks some label (a list of words, say) it is
            all of the source, and `split` says so.
        count: samples of each cell, spread evenly over the labels.
        draw: how codes are drawn: temperature, top_k, top_p, guidance; None: as the prior says.

    Returns:
        As `coherence_of`; with `run`, `data`, `split` and `unreadable`.

    Raises:
        UserError: the prior does not speak a modality, or `data` leaves no pair; data without labels, or with fewer
            than two in common; a modality without a label classifier; `top_k` 1.
    """
    generator = Generator.load(run, Registry.discover(plugins))
    for name in data:
        if name not in generator.tokenizers:
            raise UserError(f"data for {name!r}: this prior speaks {', '.join(generator.tokenizers)}")
    sources = {name: Source(generator.tokenizers[name].modality, path) for name, path in data.items()}
    labels = common_labels(sources, generator.labels if generator.has_modality(LABEL) else None)
    fitted, held_out, split = {}, {}, {}
    unreadable: list[str] = []
    for name, source in sources.items():
        training, rest, split[name] = _parted(source, labels)
        modality = generator.tokenizers[name].modality
        fitted[name] = read_items(modality, spread(training, labels, FITTED), labels, unreadable)
        held_out[name] = read_items(modality, spread(rest, labels, EVALUATED), labels, unreadable)
    result = coherence_of(generator, fitted, held_out, labels, count=count, draw=draw, seed=seed)
    return {
        "run": str(run),
        "data": {name: source.path for name, source in sources.items()},
        "split": split,
        **result,
        "unreadable": unreadable,
    }


def coherence_of(
    generator: Generator,
    fitted: Mapping[str, Items],
    held_out: Mapping[str, Items],
    labels: Sequence[str],
    *,
    count: int = 200,
    draw: Draw | None = None,
    seed: int = 0,
    classifiers: Mapping[str, LabelClassifier] | None = None,
    into: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The coherence of a generator, by labelled items of each modality.

    A prior that speaks "label" has a row of that name too: samples drawn by class.

    Args:
        fitted: what the classifiers learn from.
        held_out: what samples are drawn from, and the classifiers tried on. Every label comes in each modality.
        classifiers: ones that are fitted already; without them fresh ones of the modalities.
        into: the modalities that are drawn and evaluated, the columns of the table; None: all.

    Returns:
        `coherence`: {FROM: {TO: share}}, on the diagonal the classifier's own accuracy on held-out data; `intervals`
        (95%, Wilson) and `control` in the same way, the latter without a diagonal; `classifiers`: {name: accuracy};
        `per_class`: {FROM: {TO: {label: {"accuracy", "f1", "count"}}}}; `labels`, `count`, `chance`, and `rules`.
    """
    draw = draw or Draw()
    if draw.top_k == 1:
        raise UserError("top_k 1 takes the likeliest codes, and those make blank samples: coherence is of drawn ones")
    if count < len(labels):
        raise UserError(f"count {count}: take one sample for each of the {len(labels)} labels at least")
    rows = [*([LABEL] if generator.has_modality(LABEL) else []), *held_out]
    if not any(row_name != other for row_name in rows for other in held_out):
        raise UserError(
            f"coherence is between modalities, and there are data of {', '.join(held_out) or 'none'} alone: this prior "
            f"speaks {', '.join(generator.tokenizers)}"
        )
    columns = {name: items for name, items in held_out.items() if into is None or name in into}
    if classifiers is None:
        classifiers = {name: classifier_of(generator.tokenizers[name].modality, fitted[name]) for name in columns}
    cells: dict[str, dict[str, Cell]] = {row_name: {} for row_name in rows}
    for row_name in rows:
        given, goals = _conditions(row_name, held_out.get(row_name), labels, count)
        for other, items in columns.items():
            if row_name == other:
                samples, theirs = [sample for sample, _ in items], [label for _, label in items]
            else:
                samples, theirs = generator.generate(other, given=given, draw=draw, seed=seed), goals
            cells[row_name][other] = (classifiers[other].predict(samples), theirs)
    return _told(cells, labels, count, seed, {name: classifiers[name].rule for name in columns})


def common_labels(sources: Mapping[str, Source], known: Sequence[str] | None) -> list[str]:
    """The labels that every source has, and the prior where it knows labels; a `UserError` for fewer than two."""
    sets = {name: set(source.labels) for name, source in sources.items()}
    if known is not None:
        sets["the prior"] = set(known)
    common = set.intersection(*sets.values()) if sets else set()
    if len(common) < 2:
        listing = "; ".join(f"{name}: {', '.join(sorted(labels)[:5]) or 'none'}" for name, labels in sets.items())
        raise UserError(f"{len(common)} labels in common, and coherence needs two ({listing}): name classes alike")
    return [label for label in next(iter(sources.values())).labels if label in common]


def read_items(modality: Modality, samples: Sequence[Sample], labels: Sequence[str], unreadable: list[str]) -> Items:
    """Samples as they are in a batch, whole; a damaged one is added to `unreadable`. A `UserError` where all are."""
    numbers = {label: number for number, label in enumerate(labels)}
    items, damaged = [], []
    for sample in samples:
        try:
            value = sample.read()
        except Unreadable as error:
            damaged.append(str(error))
            continue
        (original,) = originals_of(modality.collate([value], [sample.key]))
        items.append((original.clone(), numbers[sample.label or ""]))
    unreadable += damaged
    if not items:
        raise UserError(f"none of {len(samples)} samples of {modality.name!r} can be read; the first: {damaged[0]}")
    return items


def _parted(source: Source, labels: Sequence[str]) -> tuple[list[Sample], list[Sample], str]:
    """What classifiers learn from, what is held out, and how that is called."""
    training = [sample for sample in source.training() if sample.label in labels]
    held_out = [sample for sample in source.held_out() if sample.label in labels]
    missing = set(labels) - {sample.label for sample in held_out}
    if missing:
        every = [sample for sample in source.samples if sample.label in labels]
        return every, every, f"all of it: its held-out part lacks {len(missing)} of {len(labels)} labels"
    return training, held_out, "the source's own test split" if source.has_split else "the held-out tenth"


def spread(samples: Sequence[Sample], labels: Sequence[str], most: int) -> list[Sample]:
    """At most so many, as evenly over the labels as they come."""
    by_label = {label: [sample for sample in samples if sample.label == label] for label in labels}
    rounds = max(map(len, by_label.values()), default=0)
    interleaved = (some[turn] for turn in range(rounds) for some in by_label.values() if turn < len(some))
    return [sample for _, sample in zip(range(most), interleaved, strict=False)]


# Evaluation


class WordingClassifier:
    """Labels samples of ids (a word, a short phrase) by being the same as one it was fitted to: else -1, no label."""

    rule = "the same ids as a training sample has; anything else has no label"

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], int] = {}

    def fit(self, samples: Sequence[Tensor], labels: Sequence[int]) -> None:
        """Learn from samples and labels. A `UserError` for one wording with two labels."""
        for sample, label in zip(samples, labels, strict=True):
            if self._known.setdefault(_wording(sample), label) != label:
                raise UserError(f"one wording has two labels, {self._known[_wording(sample)]} and {label}")

    def predict(self, samples: Sequence[Tensor]) -> list[int]:
        """For each sample the label that `fit` was given for the same ids; -1 for ids that are new."""
        return [self._known.get(_wording(sample), -1) for sample in samples]


def _wording(sample: Tensor) -> tuple[int, ...]:
    return tuple(sample.long().flatten().tolist())


def classifier_of(modality: Modality, items: Items) -> LabelClassifier:
    """A fitted classifier: of few distinct samples of ids by their wording, else the modality's own."""
    samples, labels = [sample for sample, _ in items], [label for _, label in items]
    classifier: LabelClassifier | None = None
    if modality.ids is not None:
        wordings = {(_wording(sample), label) for sample, label in items}
        clear = len({wording for wording, _ in wordings}) == len(wordings)
        if clear and len(wordings) <= FEW * len(set(labels)):
            classifier = WordingClassifier()
    if classifier is None:
        classifier = modality.evaluation().label_classifier()
    if classifier is None:
        raise UserError(f"the modality {modality.name!r} has no label classifier: leave its data out")
    classifier.fit(samples, labels)
    return classifier


def _conditions(name: str, items: Items | None, labels: Sequence[str], count: int) -> tuple[list[Given], list[int]]:
    """What each sample of a cell is given, and the number of its label; every label as often as the others."""
    goals = [place % len(labels) for place in range(count)]
    if items is None:
        return [{LABEL: labels[goal]} for goal in goals], goals
    prompts: list[list[Given]] = [[{name: s} for s, label in items if label == number] for number in range(len(labels))]
    lacking = [label for label, some in zip(labels, prompts, strict=True) if not some]
    if lacking:
        raise UserError(f"no held-out {name} of {', '.join(lacking)} can be read")
    return [prompts[goal][place // len(labels) % len(prompts[goal])] for place, goal in enumerate(goals)], goals


# Counting


def _told(
    cells: Mapping[str, Mapping[str, Cell]],
    labels: Sequence[str],
    count: int,
    seed: int,
    classifiers: Mapping[str, str],
) -> dict[str, Any]:
    def table(figure: Callable[[Cell], Any], diagonal: bool = True) -> dict[str, dict[str, Any]]:
        return {
            row_name: {other: figure(cell) for other, cell in row.items() if diagonal or row_name != other}
            for row_name, row in cells.items()
        }

    shares = table(_share)
    return {
        "coherence": shares,
        "intervals": table(lambda cell: wilson_interval(_hits(cell), len(cell[1]))),
        "control": table(lambda cell: _share((cell[0], _shuffled(cell[1], seed))), diagonal=False),
        "classifiers": {name: shares[name][name] for name in classifiers},
        "per_class": table(lambda cell: by_class(*cell, labels)),
        "labels": [*labels],
        "count": count,
        "chance": 1 / len(labels),
        "rules": {
            "coherence": f"share of {count} samples of TO, each drawn from one held-out item of FROM (label: from the "
            "class's name), that TO's classifier gives the item's label; labels come equally often. On the diagonal: "
            "share of real held-out items that the classifier gives their own label",
            "intervals": "95%, Wilson",
            "control": "the same samples against the labels of conditions shuffled among them: chance is expected",
            "per_class": "accuracy: share of the samples drawn from a class that are given it; f1: its harmonic mean "
            "with the share of samples given a class that were drawn from it",
            **{f"classifier of {name}": rule for name, rule in classifiers.items()},
        },
    }


def by_class(named: Sequence[int], goals: Sequence[int], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each label: `accuracy` (recall), `f1` and `count`; both 0 where nothing hits."""
    drawn, given = Counter(goals), Counter(named)
    right = Counter(goal for predicted, goal in zip(named, goals, strict=True) if predicted == goal)
    return {
        label: {
            "accuracy": right[number] / max(drawn[number], 1),
            "f1": 2 * right[number] / max(drawn[number] + given[number], 1),
            "count": drawn[number],
        }
        for number, label in enumerate(labels)
    }


def _share(cell: Cell) -> float:
    return _hits(cell) / len(cell[1])


def _hits(cell: Cell) -> int:
    return sum(predicted == goal for predicted, goal in zip(*cell, strict=True))


def _shuffled(goals: Sequence[int], seed: int) -> list[int]:
    order = torch.randperm(len(goals), generator=torch.Generator().manual_seed(seed))
    return [goals[place] for place in order.tolist()]
