"""Source: all samples of one place, split into what is trained on and what is held out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vqmm.data.builtin import BUILTIN, builtin
from vqmm.data.sample import Sample
from vqmm.errors import UserError
from vqmm.modality import Modality

HELD_OUT = 0.1  # the share of a source without a split of its own that is held out


class Source:
    """What a modality finds at a path (or at `builtin:NAME`).

    Attributes:
        samples: all of them, unread, in a stable order.
        path: where they are, resolved; what a recipe records.
        labels: the names of the classes, sorted; empty where no sample has one.
    """

    def __init__(self, modality: Modality, path: str | Path):
        self.path = str(path)
        if self.path.startswith(BUILTIN):
            where = builtin(self.path.removeprefix(BUILTIN))
        else:
            where = Path(path)
            if not where.exists():
                raise UserError(f"there is nothing at {path}: give a file or folder, or {BUILTIN}digits")
            self.path = str(where.resolve())
        self.samples = list(modality.samples(where))
        if not self.samples:
            raise UserError(f"{path} holds no sample of the modality {modality.name!r}")
        self.labels = tuple(sorted({s.label for s in self.samples if s.label is not None}, key=_natural))
        self.has_split = any(sample.split == "test" for sample in self.samples)

    def training(self) -> list[Sample]:
        """The source's own training split, else all that is not held out."""
        held_out = {sample.key for sample in self.held_out()}
        rest = [sample for sample in self.samples if sample.key not in held_out]
        return rest or self.samples  # a source of one sample is trained on, and judged, by that one

    def held_out(self) -> list[Sample]:
        """The source's own test split, else the lowest tenth by a hash of the key (one sample at the least)."""
        if self.has_split:
            return [sample for sample in self.samples if sample.split == "test"]
        lowest = [sample for sample in self.samples if key_hash(sample.key) < HELD_OUT]
        return lowest or [min(self.samples, key=lambda sample: key_hash(sample.key))]

    def fingerprint(self) -> str:
        """16 hex digits for the set of keys: the same data in another place is recognised."""
        return hashlib.sha256("\n".join(sorted(s.key for s in self.samples)).encode()).hexdigest()[:16]


def judged(source: Source, trained_on: str | None) -> tuple[list[Sample], str]:
    """What an evaluation may look at, and what to call it.

    The source's own test split; all of a source that was not trained on; else its held-out tenth.

    Raises:
        UserError: the source lies inside the one trained on, or holds it: which of its samples are unseen is unknown.
    """
    if source.has_split:
        return source.held_out(), "the source's own test split"
    if trained_on is None or trained_on.startswith(BUILTIN) or source.path.startswith(BUILTIN):
        same, nested = trained_on == source.path, False
    else:
        here, there = Path(source.path), Path(trained_on)
        same, nested = here == there, here.is_relative_to(there) or there.is_relative_to(here)
    if same:
        return source.held_out(), "the held-out tenth"
    if nested:
        raise UserError(
            f"{source.path} overlaps with the training data {trained_on}: evaluate on exactly that path (its held-out "
            "tenth is taken), or on data elsewhere"
        )
    return source.samples, "all of a source that was not trained on"


def label_numbers(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, int]:
    """Number of every label among the samples; a `UserError` for one that is not in `labels`."""
    numbers = {label: number for number, label in enumerate(labels)}
    strange = sorted({s.label for s in samples if s.label is not None and s.label not in numbers})
    if strange:
        raise UserError(f"labels {', '.join(strange[:5])} are unknown: the tokenizer was trained with {', '.join(labels)}")
    return numbers


def key_hash(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest()) / 2**56


def _natural(label: str) -> tuple[int, int, str]:
    return (0, int(label), label) if label.isascii() and label.isdigit() else (1, 0, label)
