"""Source: all samples of one place, split into what is trained on and what is held out."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from vqmm.contracts.labels import check_labels
from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Sample
from vqmm.data.builtin import BUILTIN, builtin, source_must_exist
from vqmm.utils.errors import UserError

HELD_OUT = 0.1  # the share of a source without a split of its own that is held out


class Source:
    """What a modality finds at a path (or at `builtin:NAME`).

    Attributes:
        samples: all of them, unread, in a stable order.
        path: where they are, resolved; what a recipe records.
        labels: the names of the classes, sorted; empty where no sample has one.
    """

    def __init__(self, modality: Modality, path: str | Path):
        source_must_exist(path)
        self.path = str(path)
        if self.path.startswith(BUILTIN):
            where = builtin(self.path.removeprefix(BUILTIN))
        else:
            where = Path(path)
            self.path = str(where.resolve())
        self.samples = list(modality.samples(where))
        if not self.samples:
            raise UserError(f"{path} holds no sample of the modality {modality.name!r}")
        self.labels = tuple(sorted({s.label for s in self.samples if s.label is not None}, key=natural))
        self.has_split = any(sample.split == "test" for sample in self.samples)

    def training(self) -> list[Sample]:
        """The source's own training split, else all that is not held out. A `UserError` where it is all for testing."""
        held_out = {sample.key for sample in self.held_out()}
        rest = [sample for sample in self.samples if sample.key not in held_out]
        if not rest and self.has_split:
            raise UserError(f"{self.path} holds a test split of {len(self.samples)} samples and nothing to train on")
        return rest or self.samples  # a source of one sample is trained and evaluated on

    def held_out(self) -> list[Sample]:
        """The source's own test split, else the lowest tenth by a hash of the key (at least one sample, never all)."""
        if self.has_split:
            return [sample for sample in self.samples if sample.split == "test"]
        lowest = [sample for sample in self.samples if key_hash(sample.key) < HELD_OUT]
        if 0 < len(lowest) < len(self.samples):
            return lowest
        return [min(self.samples, key=lambda sample: key_hash(sample.key))]

    def fingerprint(self) -> str:
        """16 hex digits for the set of keys: the same data in another place is recognised."""
        return hashlib.sha256("\n".join(sorted(s.key for s in self.samples)).encode()).hexdigest()[:16]


def evaluation_samples(source: Source, trained_on: str | None) -> tuple[list[Sample], str]:
    """What an evaluation may look at, and what to call it.

    The source's own test split; all of a source that was not trained on; else its held-out tenth.

    Raises:
        UserError: the source lies inside the one trained on, or holds it: which of its samples are unseen is unknown.
    """
    same = trained_on == source.path
    if trained_on is not None and not same and _nested(source.path, trained_on):
        raise UserError(
            f"{source.path} overlaps with the training data {trained_on}: evaluate on exactly that path (its held-out "
            "part is taken), or on data elsewhere"
        )
    if source.has_split:
        return source.held_out(), "the source's own test split"
    if same:
        return source.held_out(), "the held-out tenth"
    return source.samples, "all of a source that was not trained on"


def _nested(path: str, other: str) -> bool:
    if path.startswith(BUILTIN) or other.startswith(BUILTIN):
        return False
    return Path(path).is_relative_to(other) or Path(other).is_relative_to(path)


def label_numbers(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, int]:
    """The number of every label; a `UserError` where a sample has one that is not in `labels`.

    Without any `labels` (of a tokenizer whose training data had none) those of the samples are of no use, and allowed.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    strange = {s.label: s.key for s in reversed(samples) if s.label is not None and s.label not in numbers}
    if strange and labels:
        names = sorted(strange, key=natural)
        check_labels(names, labels, strange[names[0]] + (" and others" if len(names) > 1 else ""))
    return numbers


def key_hash(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest()) / 2**56


def natural(label: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorts 2 before 10, and class2 before class10. Numbers by length, then text: they may have any length."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    order = [(False, len(n := part.lstrip("0")), n) if part[0] in "0123456789" else (True, 0, part) for part in parts]
    return order, label  # 1 and 01 are equal up to here
