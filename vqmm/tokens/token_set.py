"""TokenSet: the rows of a folder of token shards by number, for a prior that draws them in any order."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from sys import getsizeof

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqmm.contracts.batch import check_codes
from vqmm.tokens.shards import HELD_OUT, READING_ERRORS, TRAIN, Header, Row, not_ours, read_header
from vqmm.utils.errors import UserError, one_of

KEPT = 150  # bytes that a kept row takes beside its codes and its key (measured)


class TokenSet:
    """The rows of token shards, read when they are asked for; what was read is kept while there is room.

    `tokens[number]` is a `Row` without vectors, its maps int64 (stages, *grid), for 0 <= number < len(tokens) in the
    order of the shards. A row that is not kept costs reading its row group: those next to it come with it.

    Args:
        split: only rows of that split, TRAIN or HELD_OUT.
        cache_mb: how many megabytes to keep; the group asked for longest ago goes first.

    Attributes:
        header: what the shards say about themselves.

    Raises:
        UserError: no shards there, an unfinished encode, damaged shards; a split of shards that do not tell it.
    """

    def __init__(self, folder: str | Path, split: str | None = None, cache_mb: int = 256):
        self.header, self._files = read_header(Path(folder))
        if split is not None:
            self._check_split(folder, split)
        self._places: list[tuple[int, int]] = []  # of each row group: its file's number, its number in the file
        counts = [0]
        for number, file in enumerate(self._files):
            of_file = _group_sizes(file)
            self._places += [(number, group) for group in range(len(of_file))]
            counts += of_file
        self._starts = np.cumsum(counts, dtype=np.int64)  # of each row group, and the end of the last
        self._numbers: np.ndarray | None = None  # of the rows that count; None: all
        if split is not None:
            self._numbers = np.flatnonzero(np.array(self.column("split"), dtype=object) == split)
        self._kept: OrderedDict[int, _Group] = OrderedDict()
        self._room = cache_mb * 2**20

    def _check_split(self, folder: str | Path, split: str) -> None:
        if split not in (TRAIN, HELD_OUT):
            raise UserError(f"no split of tokens is called {split!r}. {one_of((TRAIN, HELD_OUT), split)}")
        if self.header.split is None:
            raise UserError(f"{folder} does not tell which of its rows are held out: encode it anew")

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._numbers is None else len(self._numbers)

    def __getitem__(self, number: int) -> Row:
        if not 0 <= number < len(self):  # not from the end: a loop over an index that is off by one should fail
            raise IndexError(f"row {number} of {len(self)}")
        at = number if self._numbers is None else int(self._numbers[number])
        place = int(self._starts.searchsorted(at, side="right")) - 1
        group = self._kept.get(place)
        if group is None:
            group = self._read(place)
        else:
            self._kept.move_to_end(place)
        return group.row(at - int(self._starts[place]))

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def column(self, name: str) -> list[str | None]:
        """The `key`, `label` or `split` of every row, in order, read without the codes."""
        values: list[str | None] = []
        for file in self._files:
            try:
                values += pq.read_table(file, columns=[name])[name].to_pylist()
            except READING_ERRORS as error:
                raise not_ours(file, error) from None
        return values if self._numbers is None else [values[number] for number in self._numbers]

    def _read(self, place: int) -> "_Group":
        number, inner = self._places[place]
        file = self._files[number]
        try:
            group = _Group.read(file, inner, self.header)
        except READING_ERRORS as error:
            raise not_ours(file, error) from None
        self._kept[place] = group
        self._room -= group.size
        while self._room < 0 and self._kept:
            _, gone = self._kept.popitem(last=False)
            self._room += gone.size
        return group


def _group_sizes(file: Path) -> list[int]:
    """How many rows each row group of a shard has."""
    try:
        metadata = pq.read_metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except READING_ERRORS as error:
        raise not_ours(file, error) from None


@dataclass(frozen=True)
class _Map:
    """The codes of one map of all rows of a group: `codes` one after another, narrow; of row i, ends[i] to ends[i + 1].

    Shapes are (stages, *grid), one object for all rows that share it.
    """

    codes: np.ndarray
    ends: list[int]
    shapes: list[tuple[int, ...]]


@dataclass(frozen=True)
class _Group:
    """The rows of a row group, as few objects as can be: a row made in advance takes ten times its codes."""

    keys: list[str]
    labels: list[str | None]
    splits: list[str | None]
    sizes: list[tuple[int, ...]]
    maps: list[_Map]
    size: int  # bytes, about

    @classmethod
    def read(cls, file: Path, inner: int, header: Header) -> "_Group":
        header = replace(header, dim=None)
        with pq.ParquetFile(file) as shard:
            table = shard.read_row_group(inner, columns=header.schema().names, use_threads=False)
        shared: dict = {}  # labels and shapes are few: one object each
        keys = table["key"].to_pylist()
        labels = [shared.setdefault(label, label) for label in table["label"].to_pylist()]
        splits = [None] * len(keys) if header.split is None else table["split"].to_pylist()
        splits = [shared.setdefault(split, split) for split in splits]
        sizes = [shared.setdefault(tuple(size), tuple(size)) for size in table["size"].to_pylist()]
        maps = [_map_of(table, m, stage_sizes, keys, shared) for m, stage_sizes in enumerate(header.sizes)]
        size = sum(map(getsizeof, keys)) + sum(code_map.codes.nbytes for code_map in maps) + KEPT * len(keys)
        return cls(keys, labels, splits, sizes, maps, size)

    def row(self, i: int) -> Row:
        maps = tuple(
            [
                code_map.codes[code_map.ends[i] : code_map.ends[i + 1]].astype(np.int64).reshape(code_map.shapes[i])
                for code_map in self.maps
            ]
        )
        return Row(self.keys[i], self.labels[i], self.sizes[i], maps, None, self.splits[i])


def _map_of(table: pa.Table, m: int, stage_sizes: tuple[int, ...], keys: list[str], shared: dict) -> _Map:
    """One map of a row group. A `ValueError` for codes that fill no grid, or that the codebooks do not have."""
    column = table[f"map{m}"].combine_chunks()
    ends = column.offsets.to_numpy()
    codes = column.values.to_numpy()[ends[0] : ends[-1]].copy()  # not the table's own memory, which holds all columns
    ends = (ends - ends[0]).tolist()
    # the last stages may have larger codebooks than the first
    suspect = codes.size > 0 and codes.max() >= min(stage_sizes)
    shapes = []
    for i, grid in enumerate(table[f"map{m}_grid"].to_pylist()):
        cells = prod(grid)
        shape = ((ends[i + 1] - ends[i]) // cells if cells else len(stage_sizes), *grid)
        if not shape[0]:
            raise ValueError(f"{keys[i]!r} has no codes for its grid of {grid}")
        if suspect or prod(shape) != ends[i + 1] - ends[i] or shape[0] > len(stage_sizes):
            check_codes(codes[ends[i] : ends[i + 1]].reshape(shape), stage_sizes, f"map {m} of {keys[i]!r}")
        shapes.append(shared.setdefault(shape, shape))
    return _Map(codes, ends, shapes)
