"""Texts on disk: which files there are, what one sample of them is, and one as bytes."""

import gzip
import io
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.folder import Entry, Kind, folder_entries
from vqmm.plugins.text.tables import BLANK, LINE_END, TableRow, numbered, object_rows, row_keys, shown, table_rows, word
from vqmm.utils.errors import Remark, UserError, one_of

PLAIN, TABLES, OBJECTS = (".txt", ".text", ".md"), (".csv", ".tsv"), (".jsonl",)
SUFFIXES = tuple(suffix + packed for suffix in (*PLAIN, *TABLES, *OBJECTS) for packed in ("", ".gz"))
TEXTS = Kind("text file", SUFFIXES)
BOM, UTF_16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")

Unit = Literal["lines", "paragraphs", "files", "blocks"]


@dataclass(frozen=True)
class TextReading:
    """How files are brought to samples.

    Attributes:
        text: the column of a table, or the field of a JSON object, that holds the text.
        label: the one that holds the label, where there is one; empty: none. It wins over what folders say.
        split: the one that says `train` or `test`, where there is one; empty: none. It wins over what folders say.
        unit: what one sample of a plain file is. "lines": each line without its end, empty ones left out;
            "paragraphs": what stands between blank lines, without its last line's end; "files": all of it; "blocks":
            so many characters after so many, which joined are the file.
        block: characters of a block; the last of a file may have fewer.
        longest: characters; longer samples are cut there, and counted in a `Remark`.
        tail: the share of each file's samples, rounded to a number of them, that is its test split: the last ones.
            Above 0 it wins over columns and folders.
        insist: refuse tables without a label or split column that was given by name, and a tail of no sample: a
            mistake in data to be trained on, and none in whatever a trained model is given.
    """

    text: str = "text"
    label: str = "label"
    split: str = "split"
    unit: Unit = "lines"
    block: int = 256
    longest: int | None = None
    tail: float = 0.0
    insist: bool = True

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise UserError(f"modality.unit: {self.unit!r} does not fit. {one_of(get_args(Unit), str(self.unit))}")
        if self.block < 1:
            raise UserError(f"modality.block: {self.block} characters: a block must have at least 1")
        if self.longest is not None and self.longest < 1:
            raise UserError(f"modality.longest: {self.longest} characters: a text must be allowed at least 1")
        if not 0 <= self.tail < 1:
            raise UserError(f"modality.tail: {self.tail} must be a share, at least 0 and below 1")


class _Item(NamedTuple):
    """A sample before it is one; `damage` says why it cannot be read, empty where it can."""

    key: str
    text: str = ""
    label: str | None = None
    split: str | None = None
    damage: str = ""


# Which texts there are


def text_samples(path: Path, reading: TextReading) -> Iterator[Sample]:
    """The texts of one file, or of all files in a folder (recursive), each as uint8 (1, bytes) of UTF-8.

    Plain text `.txt`, `.text`, `.md`; tables with a header `.csv` (quoted as usual), `.tsv` (never quoted); objects,
    one a line, `.jsonl`; each of these also as `.gz`. Folders name labels and splits as `sorted_out` says. Keys are
    the file's name and the line that the sample begins in (`poems.txt:00012`; for blocks their number), or the row's
    `id` where each row has another one; for whole files the name alone. Files are read here, once, and their texts
    kept.

    Raises:
        UserError: nothing of that kind there; the one file is empty, not UTF-8 or damaged (in a folder such a file
            is a sample that is `Unreadable`); a column that does not exist; a line that is no JSON object, or lacks
            the text; a split other than train and test; a table that cannot be parsed.
    """
    samples: list[Sample] = []
    cut = held_out = 0
    for entry in _entries(path):
        items = _items_or_damage(entry, reading, alone=not path.is_dir())
        tail = round(len(items) * reading.tail)
        held_out += tail
        for i, item in enumerate(items):
            split = item.split or entry.split
            if reading.tail:
                split = "train" if i < len(items) - tail else "test"
            samples.append(Sample(item.key, _reader(item, reading), item.label or entry.label, split))
            cut += reading.longest is not None and len(item.text) > reading.longest
    if reading.tail and reading.insist and not held_out:
        raise UserError(
            f"modality.tail: {reading.tail:g} of the samples of each file is none: {path} has {len(samples)} in all"
        )
    if cut:
        message = f"{path}: {cut} of {len(samples)} texts are longer than {reading.longest} characters"
        warnings.warn(f"{message} (modality.longest): they are cut there", Remark, stacklevel=2)
    yield from samples


def _entries(path: Path) -> Iterator[Entry]:
    if path.is_dir():
        return folder_entries(path, TEXTS)
    if not path.name.lower().endswith(SUFFIXES):
        some = ", ".join(suffix for suffix in SUFFIXES if not suffix.endswith(".gz"))
        raise UserError(f"{path} is no text file: take a file {some} (each also .gz), or a folder of them")
    return iter([Entry(path.name, path)])


def _items_or_damage(entry: Entry, reading: TextReading, alone: bool) -> list[_Item]:
    """The samples of one file. One that cannot be read is refused if `alone`, else it is one damaged sample."""
    try:
        return list(_items(entry, reading))
    except Unreadable as error:
        if alone:
            raise UserError(str(error)) from None
        return [_Item(entry.key, damage=str(error))]


def _items(entry: Entry, reading: TextReading) -> Iterator[_Item]:
    text = _content(entry.path)
    name = entry.path.name.lower().removesuffix(".gz")
    as_it_is = name.endswith(PLAIN) and reading.unit in ("files", "blocks")
    if not as_it_is and not text.strip(BLANK):
        raise _unreadable(entry.path, "it holds blank lines only")
    if name.endswith(OBJECTS):
        return _row_items(entry, object_rows(entry.path, text, reading.text, _insisted(reading)), reading)
    if name.endswith(TABLES):
        needed, used = [reading.text, *_insisted(reading)], [reading.text, reading.label, reading.split]
        return _row_items(entry, table_rows(entry.path, text, name.endswith(".csv"), needed, used), reading)
    return (_Item(entry.key if n is None else numbered(entry.key, n), piece) for n, piece in _pieces(text, reading))


def _reader(item: _Item, reading: TextReading) -> Callable[[], Tensor]:
    """What gives the sample as a tensor; it holds the bytes, and can be pickled."""
    if item.damage:
        return partial(_refuse, item.damage)
    try:
        return partial(_tensor, _utf8(item.text[: reading.longest]))
    except UserError as error:  # JSON can write what UTF-8 cannot
        return partial(_refuse, str(_unreadable(item.key, str(error))))


# Plain text


def _pieces(text: str, reading: TextReading) -> Iterator[tuple[int | None, str]]:
    """Number (from 1) and text of each sample; None for a whole file."""
    if reading.unit == "files":
        yield None, text
    elif reading.unit == "lines":
        yield from ((n, line) for n, line in enumerate(LINE_END.split(text), 1) if line)
    elif reading.unit == "paragraphs":
        yield from _paragraphs(text)
    else:
        starts = range(0, len(text), reading.block)
        yield from ((n, text[start : start + reading.block]) for n, start in enumerate(starts, 1))


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Each paragraph and the line it begins in. A line of spaces and tabs is blank, too."""
    lines = enumerate(io.StringIO(text, newline="\n"), 1)  # with their ends, which inside a paragraph stay as they are
    for blank, group in groupby(lines, key=lambda pair: not pair[1].strip(BLANK)):
        if not blank:
            numbers, kept = zip(*group, strict=True)
            joined = "".join(kept)
            yield numbers[0], joined.removesuffix("\r\n") if joined.endswith("\r\n") else joined.removesuffix("\n")


def _row_items(entry: Entry, rows: Sequence[TableRow], reading: TextReading) -> Iterator[_Item]:
    has_split = any(word(row.cells.get(reading.split)) for row in rows if not row.damage and reading.split)
    for row, key in zip(rows, row_keys(entry.key, rows), strict=True):
        where = f"{entry.path}, line {row.line}"
        if row.damage:
            yield _Item(key, damage=str(_unreadable(where, row.damage)))
            continue
        label, split = (word(row.cells.get(name)) if name else None for name in (reading.label, reading.split))
        if has_split and split not in ("train", "test"):
            raise UserError(f"{where}: the split is {shown(split or '')!r}: it must be 'train' or 'test'")
        text = row.cells[reading.text]
        damage = "" if text else str(_unreadable(where, f"{reading.text!r} is empty"))
        yield _Item(key, text, label, split, damage)


def _insisted(reading: TextReading) -> list[str]:
    """The columns beside the text that must be there: those that were given by name."""
    given = [(reading.label, TextReading.label), (reading.split, TextReading.split)]
    return [name for name, default in given if name and name != default and reading.insist]


# One file


def _content(path: Path) -> str:
    """What a file holds, unpacked if its name ends in .gz, without a byte order mark.

    Raises:
        Unreadable: no such file, damaged, empty, or not UTF-8: with the place of the first wrong byte.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("not a file")  # a pipe would be waited for
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from None
    start = len(BOM) if data.startswith(BOM) else 0
    if len(data) == start:
        raise _unreadable(path, "it is empty")
    try:
        return data[start:].decode()
    except UnicodeDecodeError as error:
        place = start + error.start
        hint = "it begins as UTF-16 does: save it as UTF-8" if data.startswith(UTF_16) else "save it as UTF-8"
        packed = " of what it unpacks to" if path.name.lower().endswith(".gz") else ""
        raise _unreadable(path, f"not UTF-8: byte {place}{packed} is 0x{data[place]:02X}; {hint}") from None


def _unreadable(where: Path | str, reason: str) -> Unreadable:
    message = " ".join(f"{where}: {reason}".split())
    return Unreadable(message.encode(errors="backslashreplace").decode())


def _refuse(reason: str) -> Tensor:
    raise Unreadable(reason)


# One file again

PART = re.compile(rf"^(.*?({'|'.join(map(re.escape, SUFFIXES))})):", re.IGNORECASE | re.DOTALL)


def file_of(key: str) -> str:
    """The file that a sample was read from: `poems.txt` for `poems.txt:00012`."""
    match = PART.match(key)
    return match[1] if match else key


def joined(texts: Sequence[str], reading: TextReading) -> str:
    """The samples of a file as one text: what it was, but for blank lines, line ends and what a table has beside."""
    if reading.unit == "blocks":
        return "".join(texts)
    return ("\n\n" if reading.unit == "paragraphs" else "\n").join(texts) + "\n"


# One text


def encode_bytes(text: str) -> Tensor:
    """A text as a sample: uint8 (1, bytes) of UTF-8.

    Raises:
        UserError: it holds half of a surrogate pair, which UTF-8 cannot write.
    """
    return _tensor(_utf8(text))


def decode_bytes(sample: Tensor) -> str:
    """The text of a sample, uint8 (1, bytes).

    Raises:
        ValueError: another type or shape.
        UserError: bytes that are not UTF-8.
    """
    if sample.dtype != torch.uint8 or sample.ndim != 2 or len(sample) != 1:
        raise ValueError(f"a text is uint8 (1, bytes), not {sample.dtype} of shape {tuple(sample.shape)}")
    data = sample.cpu().numpy().tobytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the bytes of a text are not UTF-8: byte {error.start} is 0x{data[error.start]:02X}") from None


def write_text_file(text: str, path: Path) -> Path:
    """Write a text as UTF-8, line ends as they are; `path` has no suffix yet. Returns the file.

    Raises:
        UserError: it holds half of a surrogate pair; nothing is written then.
    """
    data = _utf8(text)
    file = path.with_name(path.name.removesuffix(".txt") + ".txt")  # what was `poems.txt.gz` comes as `poems.txt`
    file.write_bytes(data)
    return file


def _tensor(data: bytes) -> Tensor:
    if not data:
        return torch.zeros(1, 0, dtype=torch.uint8)  # frombuffer takes no empty buffer
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[None]


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        problem = f"character {error.start} is U+{ord(text[error.start]):04X}"
        raise UserError(f"{problem}, half of a surrogate pair: UTF-8 cannot write it") from None
