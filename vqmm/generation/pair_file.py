"""Pairs that a CSV names: each row an example, its columns named by modality; encoded in memory."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vqmm.contracts.mixins import Strings
from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Unreadable
from vqmm.data.source import HELD_OUT as SHARE
from vqmm.data.source import key_hash
from vqmm.generation.prompts import LABEL, sample_of
from vqmm.tokenizer.inputs import batches, may_pad
from vqmm.tokenizer.long_signals import encode_long
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import HELD_OUT, TRAIN, Row, rows_of
from vqmm.utils.errors import UserError, one_of

SPLIT = "split"
SPLITS = {"train": TRAIN, "test": HELD_OUT}  # what the column says, as everywhere


@dataclass(frozen=True)
class Pairs:
    """The pairs of a CSV, encoded.

    Attributes:
        rows: for each modality the rows of all pairs that could be read, aligned; each knows its split and label.
        unreadable: of each pair that could not, why.
    """

    rows: Mapping[str, list[Row]]
    unreadable: list[str]


@dataclass(frozen=True)
class _Line:
    number: int
    cells: dict[str, str]

    def word(self, column: str) -> str:
        """A label, a split or a path."""
        return self.cells.get(column, "").strip()


def read_pairs(path: str | Path, tokenizers: Mapping[str, Tokenizer]) -> Pairs:
    """Read and encode every pair. A cell is a path relative to the CSV, or for a modality that takes strings (text)
    the string itself.

    Raises:
        UserError: the CSV cannot be read, has no rows or lacks a column; fewer than two modalities; a split other
            than train and test; no pair that can be read.
    """
    path = Path(path)
    if len(tokenizers) < 2:
        raise UserError(
            f"{path} holds pairs, and {len(tokenizers)} run was given ({', '.join(tokenizers)}): give the runs of two "
            "or more modalities, or train on --tokens"
        )
    lines = _read(path, list(tokenizers))
    values: dict[int, dict[str, Tensor]] = {}
    unreadable = []
    for line in lines:
        try:
            values[line.number] = {name: _value(t.modality, line, path) for name, t in tokenizers.items()}
        except UserError as error:
            unreadable.append(f"line {line.number}: {error}")
    if not values:
        raise UserError(f"none of the {len(lines)} pairs of {path} can be read; the first: {unreadable[0]}")
    kept = [line for line in lines if line.number in values]
    splits = _splits(kept, tokenizers)
    rows = {
        name: list(_encoded(tokenizer, kept, [values[line.number][name] for line in kept], splits))
        for name, tokenizer in tokenizers.items()
    }
    return Pairs(rows, unreadable)


def _read(path: Path, names: Sequence[str]) -> list[_Line]:
    """The rows of the CSV, values as they stand."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            lines = [_Line(reader.line_num, {name: row[name] for name in columns if name}) for row in reader]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from None
    missing = [name for name in names if name not in columns]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(map(repr, missing))}: pairs need one named after the modality of each "
            f"run. {one_of(filter(None, columns), missing[0])}"
        )
    if not lines:
        raise UserError(f"{path} has a header and no rows: each row must name a pair")
    if any(line.word(SPLIT) for line in lines):
        for line in lines:
            if line.word(SPLIT) not in SPLITS:
                problem = f"the split is {line.word(SPLIT)!r}: it must be 'train' or 'test'"
                raise UserError(f"{path}, line {line.number}: {problem}")
    return lines


def _value(modality: Modality, line: _Line, path: Path) -> Tensor:
    """The sample (C, *extent) that a cell stands for. A `UserError` where there is none."""
    cell = line.cells[modality.name]
    if not cell.strip():
        raise Unreadable(f"its {modality.name} is empty")
    if isinstance(modality, Strings):
        return modality.ids_of(cell)
    file = path.parent / line.word(modality.name)
    if not file.is_file():
        raise Unreadable(f"there is no file {file}")
    sample = sample_of(modality, file)
    if not sample.numel():
        raise Unreadable(f"{file} is empty")
    return sample


def _splits(lines: Sequence[_Line], tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """The pairs' own split, else the lowest tenth by a hash (at least one, never all) is held out.

    The hash is that of a row's paths where it has any: pictures with several captions each stay on one side.
    """
    if any(line.word(SPLIT) for line in lines):
        return [SPLITS[line.word(SPLIT)] for line in lines]
    deciding = [name for name, t in tokenizers.items() if not isinstance(t.modality, Strings)] or list(tokenizers)
    hashes = [key_hash("\n".join(line.word(name) for name in deciding)) for line in lines]
    border = SHARE if 0 < sum(each < SHARE for each in hashes) < len(hashes) else min(hashes)
    return [HELD_OUT if each <= border else TRAIN for each in hashes]


def _encoded(
    tokenizer: Tokenizer, lines: Sequence[_Line], values: Sequence[Tensor], splits: Sequence[str]
) -> Iterator[Row]:
    """The rows of one modality, in order; neighbours go through the networks together."""
    items = zip(zip(lines, splits, strict=True), values, strict=True)
    for group, some in batches(items, may_pad(tokenizer)):
        keys = [f"line {line.number}" for line, _ in group]
        codes = encode_long(tokenizer, tokenizer.modality.collate(some, keys))
        labels = [line.word(LABEL) or None for line, _ in group]
        yield from rows_of(codes, keys, labels, splits=[split for _, split in group])
