"""Codes on disk: a folder of Parquet files, one row a sample, that knows which tokenizer it came from.

Columns: `key`, `label`, `size` (the original extent), and for each map m `map<m>_grid` and `map<m>`: its codes as the
smallest unsigned integer that holds the codebook, row-major over (stages, *grid). Where the vectors that the codes
stand for were asked for, `vectors_grid` and `vectors`: float32, row-major over (*grid, dim), so that the numbers of one
position lie side by side. Last `split`: TRAIN or HELD_OUT, as training on the same source would see the sample; shards
that older versions wrote lack it. Rows lie in groups of a bounded size, so that one can be read without the others.

The schema's metadata holds, under `vqmm`, a JSON object: format, code_fingerprint, modality, `sizes` (the codebook size
of each stage of each map), with vectors `dim`, how many numbers each has, and `split`, the rule by which samples were
held out. Under `vqmm.shard` another: what this one shard holds, and which samples could not be read.

`vqmm encode` puts PLAN beside the shards: how many there are to be. A folder that lacks some is refused.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import log2, prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vqmm.contracts.batch import Codes, check_codes
from vqmm.nn.masks import mask_size
from vqmm.utils.errors import UserError

PLAN = "encode.json"
TRAIN, HELD_OUT = "train", "held-out"
ROWS_A_GROUP = 256  # what a reader of one row reads; 1.2 ms for 7 x 7 codes
VALUES_A_GROUP = 2**20  # codes and numbers; a group is closed earlier where rows are large, as it waits in memory

READING_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError)  # pyarrow's are the first two, or both


@dataclass(frozen=True)
class Header:
    """What a folder of shards says about itself."""

    code_fingerprint: str
    modality: str
    sizes: tuple[tuple[int, ...], ...]
    dim: int | None = None  # of the vectors beside the codes; None: there are none
    split: str | None = None  # the rule by which samples were held out; None: rows do not say whether they were

    def schema(self) -> pa.Schema:
        """The columns of a shard, with this header as JSON in the metadata."""
        fields = [("key", pa.string()), ("label", pa.string()), ("size", pa.list_(pa.int32()))]
        for m, stages in enumerate(self.sizes):
            codes = pa.from_numpy_dtype(code_type(max(stages)))
            fields += [(f"map{m}_grid", pa.list_(pa.int32())), (f"map{m}", pa.list_(codes))]
        metadata = {
            "format": 1,
            "code_fingerprint": self.code_fingerprint,
            "modality": self.modality,
            "sizes": self.sizes,
        }
        if self.dim is not None:
            fields += [("vectors_grid", pa.list_(pa.int32())), ("vectors", pa.list_(pa.float32()))]
            metadata["dim"] = self.dim
        if self.split is not None:
            fields.append(("split", pa.string()))
            metadata["split"] = self.split
        return pa.schema(fields, metadata={"vqmm": json.dumps(metadata)})


@dataclass(frozen=True)
class Row:
    """One sample's codes: `maps` are integer arrays (stages, *grid), `vectors` float32 (*grid, dim) where asked for."""

    key: str
    label: str | None
    size: tuple[int, ...]
    maps: tuple[np.ndarray, ...]
    vectors: np.ndarray | None = None
    split: str | None = None


@dataclass
class Tally:
    """What a shard holds: rows, codes, their nominal bits; and of each sample that is not in it, why."""

    rows: int = 0
    codes: int = 0
    bits: float = 0.0
    unreadable: list[str] = field(default_factory=list)


class ShardWriter:
    """Writes one shard, `part-00000.parquet` for number 0: under a temporary name, until it is whole and checked.

    Its first row is read back from the disk, and must be what was written; `check`, where given, is then called with
    both, to refuse more. When the block does not end well nothing is left.

    Attributes:
        tally: what is in it; whoever writes adds to `unreadable` what could not be read.
    """

    def __init__(self, folder: Path, header: Header, number: int = 0, check: Callable[[Row, Row], None] | None = None):
        self.path = shard_path(folder, number)
        self.header, self.schema, self.check = header, header.schema(), check
        self.tally = Tally()
        self._temporary = folder / f".{self.path.name}.{uuid.uuid4().hex[:8]}.tmp"
        self._waiting: list[dict[str, Any]] = []
        self._values_waiting = 0
        self._first: Row | None = None

    def __enter__(self) -> "ShardWriter":
        self._file = pq.ParquetWriter(self._temporary, self.schema, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
                self._file.add_key_value_metadata({"vqmm.shard": json.dumps(asdict(self.tally))})
            self._file.close()
            if kind is None:
                self._read_back()
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def add(self, row: Row) -> None:
        """Append a sample's codes.

        Raises:
            ValueError: a code outside its codebook; more stages, or another number of maps, than the header says;
                vectors that are missing, or of another width than the header says.
        """
        record: dict[str, Any] = {"key": row.key, "label": row.label, "size": list(row.size), "split": row.split}
        for m, (code_map, stages) in enumerate(zip(row.maps, self.header.sizes, strict=True)):
            check_codes(code_map, stages, f"map {m} of {row.key!r}")
            codes = code_map.reshape(-1).astype(code_type(max(stages)))
            record |= {f"map{m}_grid": list(code_map.shape[1:]), f"map{m}": codes}
            self.tally.codes += codes.size
            self._values_waiting += codes.size
        if self.header.dim is not None:
            if row.vectors is None or row.vectors.shape[-1] != self.header.dim:
                have = "none" if row.vectors is None else f"an array of shape {row.vectors.shape}"
                raise ValueError(f"{row.key!r} has {have} where the header says vectors of {self.header.dim} numbers")
            record |= {"vectors_grid": list(row.vectors.shape[:-1]), "vectors": row.vectors.reshape(-1)}
            self._values_waiting += row.vectors.size
        self._first = self._first or row
        self._waiting.append(record)
        self.tally.rows += 1
        self.tally.bits += nominal_bits(row.maps, self.header.sizes)
        if len(self._waiting) == ROWS_A_GROUP or self._values_waiting >= VALUES_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.Table.from_pylist(self._waiting, schema=self.schema))
        self._waiting, self._values_waiting = [], 0

    def _read_back(self) -> None:
        if self._first is None:
            return
        again = next(read_rows(self.header, [self._temporary], vectors=True))
        if not _same(self._first, again, self.header):
            raise UserError(
                f"{self.path} was not written: its first row, {self._first.key!r}, reads back otherwise than it was "
                "encoded: look after the disk"
            )
        if self.check is not None:
            self.check(self._first, again)


def _same(row: Row, again: Row, header: Header) -> bool:
    """Whether two rows agree in all that a header says is on disk."""
    named = (row.key, row.label, row.size) == (again.key, again.label, again.size)
    split = header.split is None or row.split == again.split
    maps = all(np.array_equal(code_map, other) for code_map, other in zip(row.maps, again.maps, strict=True))
    if header.dim is None or row.vectors is None or again.vectors is None:
        return named and split and maps and header.dim is None
    return named and split and maps and np.array_equal(row.vectors, again.vectors, equal_nan=True)


def read_header(folder: Path) -> tuple[Header, list[Path]]:
    """What the shards say about themselves, and the shards in order. A `UserError` where they are not shards."""
    files = shards_of(folder)
    _must_be_whole(folder, len(files))
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


def shard_path(folder: Path, number: int) -> Path:
    """The file of shard `number` in a folder of tokens, whether it is there yet or not."""
    return folder / f"part-{number:05d}.parquet"


def shards_of(folder: Path) -> list[Path]:
    """The shards of a folder, in order; their numbers may be longer than five digits."""
    return sorted(folder.glob("*.parquet"), key=lambda file: (len(file.name), file.name)) if folder.is_dir() else []


def _must_be_whole(folder: Path, have: int) -> None:
    """Refuse a folder that `vqmm encode` has not finished: what is missing would go unnoticed."""
    plan = folder / PLAN
    if not plan.is_file():
        return
    try:
        shards = int(json.loads(plan.read_text(encoding="utf-8"))["shards"])
    except READING_ERRORS as error:
        raise UserError(f"{plan} is damaged: {' '.join(str(error).split())[:160]}") from None
    if have < shards:
        raise UserError(f"{folder} holds {have} of {shards} shards: finish it with vqmm encode --resume")


def _header_of(file: Path) -> Header:
    try:
        schema = pq.read_schema(file)
        metadata = json.loads(schema.metadata[b"vqmm"])
        sizes = tuple(tuple(stages) for stages in metadata["sizes"])
        header = Header(
            metadata["code_fingerprint"], metadata["modality"], sizes, metadata.get("dim"), metadata.get("split")
        )
        missing = set(header.schema().names) - set(schema.names)
    except READING_ERRORS as error:
        raise not_ours(file, error) from None
    if missing:
        raise not_ours(file, f"it lacks the columns {', '.join(sorted(missing))}")
    return header


def read_tally(file: Path) -> Tally:
    """What one shard says of itself. A `UserError` where it is damaged."""
    try:
        return Tally(**json.loads(pq.read_metadata(file).metadata[b"vqmm.shard"]))
    except READING_ERRORS as error:
        raise not_ours(file, error) from None


def not_ours(file: Path, why: object) -> UserError:
    """The error for a file that does not read as a shard."""
    return UserError(f"{file} is no token shard of vqmm, or is damaged: {' '.join(str(why).split())[:160]}")


def read_keys(files: Sequence[Path]) -> list[str]:
    """The keys of all rows, without their codes."""
    keys: list[str] = []
    for file in files:
        try:
            keys += pq.read_table(file, columns=["key"])["key"].to_pylist()
        except READING_ERRORS as error:
            raise not_ours(file, error) from None
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
            raise not_ours(file, error) from None


def _row(header: Header, batch: pa.RecordBatch, i: int) -> Row:
    key, label, size = (batch[name][i].as_py() for name in ("key", "label", "size"))
    maps = []
    for m, stages in enumerate(header.sizes):
        grid = batch[f"map{m}_grid"][i].as_py()
        codes = batch[f"map{m}"][i].values.to_numpy().astype(np.int64)
        used = len(codes) // prod(grid) if prod(grid) else len(stages)  # fewer stages: a lower rate
        maps.append(codes.reshape(used, *grid))
        check_codes(maps[-1], stages, f"map {m} of {key!r}")
    vectors = None
    if header.dim is not None:
        grid = batch["vectors_grid"][i].as_py()
        vectors = batch["vectors"][i].values.to_numpy().reshape(*grid, header.dim)
    split = None if header.split is None else batch["split"][i].as_py()
    return Row(key, label, tuple(size), tuple(maps), vectors, split)


def code_type(codebook_size: int) -> np.dtype:
    """The smallest unsigned integer that holds every code of a codebook."""
    return np.min_scalar_type(codebook_size - 1)


def rows_of(
    codes: Codes,
    keys: Sequence[str],
    labels: Sequence[str | None],
    vectors: torch.Tensor | None = None,
    splits: Sequence[str | None] | None = None,
) -> Iterator[Row]:
    """The samples of a batch one by one, without padding; `vectors`, (B, dim, *grid of the last map), go with them."""
    boxes = []  # per map: the extent of each sample's own grid
    for code_map, mask in zip(codes.maps, codes.map_masks(), strict=True):
        boxes.append(
            [code_map.shape[2:]] * len(code_map) if mask is None else [tuple(box) for box in mask_size(mask).tolist()]
        )
    for i, (key, label) in enumerate(zip(keys, labels, strict=True)):
        maps = []
        for code_map, box in zip(codes.maps, boxes, strict=True):
            crop = (slice(None), *(slice(0, n) for n in box[i]))
            maps.append(code_map[i][crop].cpu().numpy())
        own_vectors = None
        if vectors is not None:
            own_vectors = vectors[i][crop].movedim(0, -1).float().contiguous().cpu().numpy()
        split = None if splits is None else splits[i]
        yield Row(key, label, tuple(codes.size[i].tolist()), tuple(maps), own_vectors, split)


def codes_of(rows: Sequence[Row], label_numbers: dict[str, int]) -> Codes:
    """The inverse of `rows_of`, for rows of one size."""
    maps = tuple(torch.from_numpy(np.stack(of_map)) for of_map in zip(*(row.maps for row in rows), strict=True))
    labels = [label_numbers.get(row.label, -1) if row.label is not None else -1 for row in rows]
    label = None if min(labels, default=-1) < 0 else torch.tensor(labels)
    return Codes(maps, torch.tensor([row.size for row in rows]), None, label)


def nominal_bits(maps: Sequence[np.ndarray], sizes: Sequence[Sequence[int]]) -> float:
    """What the codes would take if all were equally likely: log2 of the codebook's size for each."""
    return sum(
        stage.size * log2(size)
        for code_map, stage_sizes in zip(maps, sizes, strict=True)
        for stage, size in zip(code_map, stage_sizes, strict=False)
    )
