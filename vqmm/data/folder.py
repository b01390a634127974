"""Which files a folder or a CSV names, and what label and split that gives them. None is opened."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import NoReturn

from torch import Tensor

from vqmm.contracts.sample import Sample
from vqmm.utils.errors import UserError, one_of


@dataclass(frozen=True, slots=True)
class Kind:
    """What a modality looks for, and how messages call it.

    Attributes:
        noun: in the singular; its plural ends in s.
        suffixes: lower case, with the dot.
        hint: the end of the message that a folder holds none.
    """

    noun: str
    suffixes: tuple[str, ...]
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, by name.

    Attributes:
        key: its path below the folder or, for a CSV, as written there; always a place inside a folder.
        path: where it is.
        label, split: as in `Sample`.
        columns: what else a CSV says of it, by column, empty where the row is too short.
    """

    key: str
    path: Path
    label: str | None = None
    split: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


# Folders


def folder_entries(folder: Path, kind: Kind) -> Iterator[Entry]:
    """The files of a kind in a folder and its sub-folders, with the labels and the split that `sorted_out` finds."""
    names = list_files(folder, kind.suffixes)
    if not names:
        looked_for = ", ".join(kind.suffixes)
        raise UserError(f"{folder} holds no {kind.noun}: looked in it and its sub-folders for {looked_for}{kind.hint}")
    for name, (label, split) in zip(names, sorted_out(names), strict=True):
        yield Entry(name, folder / name, label, split)


def sorted_out(names: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Label and split of every relative path, from the folders in it.

    Where every file lies in a sub-folder, the first one names its label: `cats/1.png` is a "cats". Sub-folders `train`
    and `test`, and nothing beside them, are the folder's own split; labels come one level below.
    """
    folders = [name.split("/")[:-1] for name in names]
    has_split = {inside[0] if inside else "" for inside in folders} == {"train", "test"}
    level = 1 if has_split else 0
    labelled = all(len(inside) > level for inside in folders)
    return [(inside[level] if labelled else None, inside[0] if has_split else None) for inside in folders]


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The files with such suffixes in a folder and its sub-folders as sorted relative paths. None is opened.

    Hidden files are left out (macOS writes a `._x.png` beside an x.png). Links to folders are followed; a folder that
    can be reached twice is taken once.
    """
    paths: list[str] = []
    seen: set[Path] = set()
    for where, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        real = Path(where).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(where).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        paths += [prefix + name for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(paths)


def _refuse_folder(error: OSError) -> NoReturn:
    raise UserError(f"the folder {error.filename} cannot be listed: {error.strerror}") from None


def file_samples(
    path: Path, suffixes: tuple[str, ...], read: Callable[[Path], Tensor], noun: str = "file"
) -> Iterator[Sample]:
    """Every file with such suffixes (lower case, with the dot) as a sample that `read` reads, once it is wanted.

    `path` is one such file, or a folder of them, whose sub-folders give labels and a split as `sorted_out` says.

    Raises:
        UserError: there is none. `noun` is what the message calls them.
    """
    if path.is_dir():
        entries = folder_entries(path, Kind(noun, suffixes))
    elif path.name.lower().endswith(suffixes):
        entries = iter([Entry(path.name, path)])
    else:
        raise UserError(f"{path} is no {noun}: take a file {', '.join(suffixes)}, or a folder of them")
    for entry in entries:
        yield Sample(entry.key, partial(read, entry.path), entry.label, entry.split)


# Lists


def csv_entries(path: Path, kind: Kind, exists: Callable[[Path], bool] = os.path.lexists) -> Iterator[Entry]:
    """The files that a CSV names in its column `path`, with `label` and `split` where it has such columns.

    Args:
        exists: says whether a file is there; one that looks into archives, say.

    Raises:
        UserError: the CSV cannot be read, has no column `path` or no rows; a row without a path, with one that an
            earlier row had, or with a split other than train and test; files that are missing.
    """
    rows = _csv_rows(path, kind)
    has_split = any(row.get("split") for _, row in rows)
    entries: dict[str, tuple[int, Entry]] = {}  # key -> line, entry
    for line, row in rows:
        name, label, split = (row.pop(column, "") for column in ("path", "label", "split"))
        key = inner_name(name)
        if not key:
            raise UserError(f"{path}, line {line}: the column 'path' is empty: it must name a {kind.noun}")
        if key in entries:
            raise UserError(f"{path}, line {line}: {name} is named again, first in line {entries[key][0]}")
        if has_split and split not in ("train", "test"):
            raise UserError(f"{path}, line {line}: the split is {split!r}: it must be 'train' or 'test'")
        entries[key] = line, Entry(key, path.parent / name, label or None, split or None, row)
    missing = [(line, entry.path) for line, entry in entries.values() if not exists(entry.path)]
    if missing:
        raise UserError(
            f"{path} names {len(rows)} {kind.noun}s, and {len(missing)} are missing, first {missing[0][1]} "
            f"(line {missing[0][0]}): paths are relative to the folder of the CSV"
        )
    yield from (entry for _, entry in entries.values())


def _csv_rows(path: Path, kind: Kind) -> list[tuple[int, dict[str, str]]]:
    """Each row's line, and its values by column, stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if "path" not in columns:
        raise UserError(f"{path} has no column 'path'. {one_of(filter(None, columns), 'path')}")
    if not rows:
        raise UserError(f"{path} has a header and no rows: each row must name a {kind.noun}")
    return [(line, {name: row[name].strip() for name in columns if name}) for line, row in rows]


def inner_name(name: str) -> str:
    """A path as a key that stays inside a folder, as names of decoded files must: `../a/b.png` -> `a/b.png`."""
    path = PurePath(name)
    return "/".join(part for part in path.parts if part not in (path.anchor, ".."))
