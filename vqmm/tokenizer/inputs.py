"""The inputs of encode and reconstruct: their samples, each named once, read in batches of neighbours of one shape."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from torch import Tensor

from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.loader import key_generator
from vqmm.data.source import HELD_OUT as SHARE
from vqmm.data.source import Source
from vqmm.nn.network import as_network
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import HELD_OUT, TRAIN
from vqmm.utils.errors import UserError

BATCH = 32  # samples at a time,
LONGER = 2  # in one batch of lines: times the shortest line of a batch may the longest be,
BATCH_VALUES = 2**22  # but no more than so many values, so that large pictures go one by one

Item = TypeVar("Item")

OWN_SPLIT = "the source's own test split"
BY_KEY = f"the {SHARE:.0%} of keys that hash lowest"


@dataclass(frozen=True)
class Inputs:
    """All samples of some files, folders and archives, in a stable order, unread.

    Attributes:
        splits: of each sample, TRAIN or HELD_OUT: what training on its own source would make of it.
        rule: in words, how that was decided.
    """

    samples: list[Sample]
    splits: list[str]
    rule: str

    @classmethod
    def of(cls, modality: Modality, inputs: str | Path | Sequence[str | Path], verb: str) -> "Inputs":
        """A `UserError` where there is no sample, or where two have one name."""
        paths = [inputs] if isinstance(inputs, str | Path) else inputs
        samples, splits, rules = [], [], []
        for path in paths:
            source = Source(modality, path)
            samples += source.samples
            splits += splits_of(source)
            rules.append(OWN_SPLIT if source.has_split else BY_KEY)
        if not samples:
            raise UserError(f"nothing to {verb}: give a file, folder or archive of samples")
        return cls(samples, splits, "; ".join(dict.fromkeys(rules))).named_once(verb)

    def named_once(self, verb: str) -> "Inputs":
        """Itself. A `UserError` where two samples have one name."""
        twice = [key for key, count in Counter(sample.key for sample in self.samples).items() if count > 1]
        if twice:
            raise UserError(
                f"{len(twice)} names stand for two samples, such as {twice[0]!r}: {verb} their folders one by one"
            )
        return self

    def with_augmented(self, modality: Modality, augment: int) -> "Inputs":
        """After each training sample so many altered ones (`Modality.augment`): of `cat.png` `cat~1.png`, and so on.

        What is altered, and how, depends on key and number alone. A `UserError` where nothing would be altered.
        """
        if not augment:
            return self
        if augment < 0:
            raise UserError(f"augment {augment}: take 0 (none), or how many altered ones of each training sample")
        if not modality.augments:
            raise UserError(
                f"augment {augment}: nothing alters {modality.name} samples with the options that this run was trained "
                "with: leave it out, or train with one that does, where there is such"
            )
        samples, splits = [], []
        for sample, split in zip(self.samples, self.splits, strict=True):
            views = [view_of(modality, sample, number + 1) for number in range(augment if split == TRAIN else 0)]
            samples += [sample, *views]
            splits += [split] * (1 + len(views))
        return replace(self, samples=samples, splits=splits).named_once("encode")

    def fingerprint(self) -> str:
        """16 hex digits for the names, labels and splits of all samples, in their order; their content is not read."""
        digest = hashlib.sha256()
        for sample, split in zip(self.samples, self.splits, strict=True):
            digest.update(json.dumps([sample.key, sample.label, split]).encode())
        return digest.hexdigest()[:16]


def view_of(modality: Modality, sample: Sample, number: int) -> Sample:
    """One altered view of a sample."""

    def varied() -> Tensor:
        return modality.augment(sample.read(), key_generator(0, number, sample.key))

    key = PurePosixPath(sample.key)
    return replace(sample, key=str(key.with_name(f"{key.stem}~{number}{key.suffix}")), read=varied)


def splits_of(source: Source) -> list[str]:
    """TRAIN or HELD_OUT for each sample of a source."""
    held_out = {sample.key for sample in source.held_out()}
    if len(source.samples) == 1 and not source.has_split:
        held_out = set()  # `Source.training` has it too, and codes that nobody may learn from are of no use
    return [HELD_OUT if sample.key in held_out else TRAIN for sample in source.samples]


def read(samples: Iterable[Sample], unreadable: list[str], strict: bool) -> Iterator[tuple[Sample, Tensor]]:
    """Samples with their values; a damaged one is added to `unreadable`, or with `strict` raised."""
    for sample in samples:
        try:
            yield sample, sample.read()
        except Unreadable as error:
            if strict:
                raise
            unreadable.append(str(error))


def batches(items: Iterable[tuple[Item, Tensor]], padded: bool = False) -> Iterator[tuple[list[Item], list[Tensor]]]:
    """Neighbours of one shape together, each beside what it is the value of; with `padded` also lines of other lengths,
    the longest twice the shortest.
    """
    some: list[tuple[Item, Tensor]] = []
    low = high = 0  # values of the smallest and of the largest of them
    for item, value in items:
        size = value.numel()
        low, high = min(low, size), max(high, size)
        fits = high <= LONGER * low if padded else bool(some) and value.shape == some[-1][1].shape
        if some and not (fits and len(some) < at_once(high)):
            yield [each for each, _ in some], [value for _, value in some]
            some = []
        if not some:
            low = high = size
        some.append((item, value))
    if some:
        yield [each for each, _ in some], [value for _, value in some]


def may_pad(tokenizer: Tokenizer) -> bool:
    """Whether lines of several lengths may go through the networks together: those skip padding."""
    return tokenizer.modality.rank == 1 and as_network(tokenizer.encoder).takes_mask


def at_once(values: int) -> int:
    """How many samples of so many values each go through the networks together."""
    return max(1, min(BATCH, BATCH_VALUES // max(values, 1)))


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last may be shorter."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
