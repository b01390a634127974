"""Codes on disk: a folder of Parquet files, one row a sample, that knows which tokenizer it came from.

Columns: `key`, `label`, `size` (the original extent), and for each map m `map<m>_grid` and `map<m>`: its codes as the
smallest unsigned integer that holds the codebook, row-major over (stages, *grid). Where the vectors that the codes
stand for were asked for, `vectors_grid` and `vectors`: float32, row-major over (*grid, dim), so that the numbers of one
position lie side by side. The schema's metadata holds, under `vqmm`, a JSON object: format, code_fingerprint, modality,
`sizes` (the codebook size of each stage of each map), and with vectors `dim`, how many numbers each has.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vqmm.batch import Codes, mask_size
from vqmm.errors import UserError

ROWS_A_SHARD = 10_000
CODES_A_SHARD = 2**24  # a shard is closed earlier where rows are large: its rows wait in memory until then

READING_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError)  # pyarrow's are the first two, or both


@dataclass(frozen=True)
class Header:
    """What a folder of shards says about itself."""

    code_fingerprint: str
    modality: str
    sizes: tuple[tuple[int, ...], ...]
    dim: int | None = None  # of the vectors beside the codes; None: there are none

    def schema(self) -> pa.Schema:
        fields = [("key", pa.string()), ("label", pa.string()), ("size", pa.list_(pa.int32()))]
        for m, stages in enumerate(self.sizes):
            codes = pa.from_numpy_dtype(code_type(max(stages)))
            fields += [(f"map{m}_grid", pa.list_(pa.int32())), (f"map{m}", pa.list_(codes))]
        told = {"format": 1, "code_fingerprint": self.code_fingerprint, "modality": self.modality, "sizes": self.sizes}
        if self.dim is not None:
            fields += [("vectors_grid", pa.list_(pa.int32())), ("vectors", pa.list_(pa.float32()))]
            told["dim"] = self.dim
        return pa.schema(fields, metadata={"vqmm": json.dumps(told)})


@dataclass(frozen=True)
class Row:
    """One sample's codes: `maps` are integer arrays (stages, *grid), `vectors` float32 (*grid, dim) where asked for."""

    key: str
    label: str | None
    size: tuple[int, ...]
    maps: tuple[np.ndarray, ...]
    vectors: np.ndarray | None = None


class ShardWriter:
    """Writes rows to `part-00000.parquet`, `part-00001.parquet`, ... in a folder."""

    def __init__(self, folder: Path, header: Header):
        self.folder, self.header, self.schema = folder, header, header.schema()
        self.shards, self.rows = 0, 0
        self._waiting: list[dict[str, Any]] = []
        self._codes_waiting = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and (self._waiting or not self.shards):
            self._flush()  # a folder without rows still says what it is

    def add(self, row: Row) -> None:
        told: dict[str, Any] = {"key": row.key, "label": row.label, "size": list(row.size)}
        for m, (one, stages) in enumerate(zip(row.maps, self.header.sizes, strict=True)):
            _check_range(one, stages, row.key)
            codes = one.reshape(-1).astype(code_type(max(stages)))
            told |= {f"map{m}_grid": list(one.shape[1:]), f"map{m}": codes}
            self._codes_waiting += codes.size
        if self.header.dim is not None:
            if row.vectors is None or row.vectors.shape[-1] != self.header.dim:
                have = "none" if row.vectors is None else f"an array of shape {row.vectors.shape}"
                raise ValueError(f"{row.key!r} has {have} where the header says vectors of {self.header.dim} numbers")
            told |= {"vectors_grid": list(row.vectors.shape[:-1]), "vectors": row.vectors.reshape(-1)}
            self._codes_waiting += row.vectors.size
        self._waiting.append(told)
        self.rows += 1
        if len(self._waiting) == ROWS_A_SHARD or self._codes_waiting >= CODES_A_SHARD:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._waiting, schema=self.schema)
        pq.write_table(table, self.folder / f"part-{self.shards:05d}.parquet", compression="zstd")
        self.shards += 1
        self._waiting, self._codes_waiting = [], 0


def read_header(folder: Path) -> tuple[Header, list[Path]]:
    """What the shards say about themselves, and the shards in order. A `UserError` where they are not shards."""
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no token shards (*.parquet): make some with vqmm encode")
    headers = {file: _header_of(file) for file in files}
    first = headers[files[0]]
    for file, header in headers.items():
        if header != first:
            raise UserError(
                f"{file} is of the tokenizer {header.code_fingerprint}, {files[0]} of {first.code_fingerprint}"
            )
    return first, files


def _header_of(file: Path) -> Header:
    try:
        schema = pq.read_schema(file)
        told = json.loads(schema.metadata[b"vqmm"])
        sizes = tuple(tuple(stages) for stages in told["sizes"])
        header = Header(told["code_fingerprint"], told["modality"], sizes, told.get("dim"))
        missing = set(header.schema().names) - set(schema.names)
    except READING_ERRORS as error:
        raise _not_ours(file, error) from None
    if missing:
        raise _not_ours(file, f"it lacks the columns {', '.join(sorted(missing))}")
    return header


def _not_ours(file: Path, why: object) -> UserError:
    return UserError(f"{file} is no token shard of vqmm, or is damaged: {' '.join(str(why).split())[:160]}")


def read_keys(files: Sequence[Path]) -> list[str]:
    """The keys of all rows, without their codes."""
    keys: list[str] = []
    for file in files:
        try:
            keys += pq.read_table(file, columns=["key"])["key"].to_pylist()
        except READING_ERRORS as error:
            raise _not_ours(file, error) from None
    return keys


def read_rows(header: Header, files: Sequence[Path], vectors: bool = False) -> Iterator[Row]:
    """Every row, a few hundred in memory at a time; its vectors too, where they are there and wanted."""
    header = header if vectors else replace(header, dim=None)
    columns = header.schema().names  # vectors take far more room than codes: unread where nobody wants them
    for file in files:
        try:
            with pq.ParquetFile(file) as shard:
                for batch in shard.iter_batches(batch_size=256, columns=columns):
                    yield from (_row(header, batch, i) for i in range(len(batch)))
        except READING_ERRORS as error:
            raise _not_ours(file, error) from None


def _row(header: Header, batch: pa.RecordBatch, i: int) -> Row:
    key, label, size = (batch[name][i].as_py() for name in ("key", "label", "size"))
    maps = []
    for m, stages in enumerate(header.sizes):
        grid = batch[f"map{m}_grid"][i].as_py()
        codes = batch[f"map{m}"][i].values.to_numpy().astype(np.int64)
        used = len(codes) // prod(grid) if prod(grid) else len(stages)  # fewer stages: a lower rate
        maps.append(codes.reshape(used, *grid))
        _check_range(maps[-1], stages, key)
    vectors = None
    if header.dim is not None:
        grid = batch["vectors_grid"][i].as_py()
        vectors = batch["vectors"][i].values.to_numpy().reshape(*grid, header.dim)
    return Row(key, label, tuple(size), tuple(maps), vectors)


def _check_range(codes: np.ndarray, sizes: Sequence[int], key: str) -> None:
    for stage, size in zip(codes, sizes, strict=False):  # the last stages may be left out
        if stage.size and not (stage.min() >= 0 and stage.max() < size):
            raise ValueError(f"{key!r} has codes from {stage.min()} to {stage.max()} where the codebook has {size}")
    if len(codes) > len(sizes):
        raise ValueError(f"{key!r} has {len(codes)} stages of codes where the tokenizer has {len(sizes)}")


def code_type(codebook_size: int) -> np.dtype:
    """The smallest unsigned integer that holds every code of a codebook."""
    return np.min_scalar_type(codebook_size - 1)


def rows_of(
    codes: Codes, keys: Sequence[str], labels: Sequence[str | None], vectors: torch.Tensor | None = None
) -> Iterator[Row]:
    """The samples of a batch one by one, without padding; `vectors`, (B, dim, *grid of the last map), go with them."""
    boxes = []  # per map: the extent of each sample's own grid
    for one, mask in zip(codes.maps, codes.map_masks(), strict=True):
        boxes.append([one.shape[2:]] * len(one) if mask is None else [tuple(box) for box in mask_size(mask).tolist()])
    for i, (key, label) in enumerate(zip(keys, labels, strict=True)):
        maps = []
        for one, box in zip(codes.maps, boxes, strict=True):
            own = (slice(None), *(slice(0, n) for n in box[i]))
            maps.append(one[i][own].cpu().numpy())
        own_vectors = None
        if vectors is not None:
            own_vectors = vectors[i][own].movedim(0, -1).float().contiguous().cpu().numpy()
        yield Row(key, label, tuple(codes.size[i].tolist()), tuple(maps), own_vectors)


def codes_of(rows: Sequence[Row], label_numbers: dict[str, int]) -> Codes:
    """The inverse of `rows_of`, for rows of one size."""
    maps = tuple(torch.from_numpy(np.stack(of_map)) for of_map in zip(*(row.maps for row in rows), strict=True))
    labels = [label_numbers.get(row.label, -1) if row.label is not None else -1 for row in rows]
    label = None if min(labels, default=-1) < 0 else torch.tensor(labels)
    return Codes(maps, torch.tensor([row.size for row in rows]), None, label)
