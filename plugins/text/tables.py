"""Rows of texts: CSV, TSV, and JSON objects one a line."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqmm.data.folder import inner_name
from vqmm.utils.errors import UserError, one_of

LINE_END = re.compile(r"\r?\n")  # and nothing else: str.splitlines would also end a line at U+2028, form feeds and more
BLANK = " \t\r\n"  # what a line may hold and still be blank
NAMED = 40  # characters of a column's name that a message shows: a table without a header has texts there


class TableRow(NamedTuple):
    """A row of a table, or an object: the line that it begins in (from 1), and its values by column.

    `damage` says why it cannot be read, empty where it can.
    """

    line: int
    cells: dict[str, Any]
    damage: str = ""


def table_rows(path: Path, text: str, quoted: bool, needed: Sequence[str], used: Sequence[str]) -> list[TableRow]:
    """The rows below the header of a table, blank lines left out. Rows of another length than the header are damaged.

    Args:
        path: what messages call the file.
        text: what it holds; more than blank lines.
        quoted: CSV; otherwise TSV, in which a quote is a character like any other, and a cell has no tab or line end.
        needed: columns that must be there.
        used: columns that must not be there twice.

    Raises:
        UserError: a column that is missing or there twice; no rows; CSV that cannot be parsed.
    """
    if quoted:
        lines = _csv_lines(path, text)
    else:
        lines = [(n, line.split("\t")) for n, line in enumerate(LINE_END.split(text), 1) if line]
    columns = [name.strip() for name in lines[0][1]]
    _check_columns(str(path), columns, needed, "column")
    for name in used:
        if name and columns.count(name) > 1:
            raise UserError(f"{path} has {columns.count(name)} columns {name!r}: rename all but one")
    if len(lines) == 1:
        raise UserError(f"{path} has a header and no rows: each row must hold a text")
    rows = []
    for line, cells in lines[1:]:
        wrong = len(cells) != len(columns)
        damage = f"the header has {len(columns)} cells, the row {len(cells)}" if wrong else ""
        rows.append(TableRow(line, dict(zip(columns, cells, strict=False)), damage))
    return rows


def _csv_lines(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The cells of each row that has any, and the line it begins in. Inside quotes line ends stay as they are."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # else an open quote swallows the rest in silence
    before = csv.field_size_limit(len(text) + 1)  # the default, 131,072, is less than a long text
    rows, line = [], 1
    try:
        for cells in reader:
            if cells:
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not a row of a CSV file: {error}") from None
    finally:
        csv.field_size_limit(before)
    return rows


def object_rows(path: Path, text: str, field: str, needed: Sequence[str]) -> list[TableRow]:
    """The object of each line that is not blank.

    Args:
        path: what messages call the file.
        text: what it holds; more than blank lines.
        field: of each object; its value must be a string.
        needed: fields of which each must be in some object.

    Raises:
        UserError: a line that is no JSON object, or that lacks the field; a field that is in none.
    """
    lines = [(n, line) for n, line in enumerate(LINE_END.split(text), 1) if line.strip(BLANK)]
    rows = [TableRow(n, _object(f"{path}, line {n}", line, field)) for n, line in lines]
    _check_columns(str(path), sorted({name for row in rows for name in row.cells}), needed, "field")
    return rows


def _object(where: str, line: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{where}: not JSON{place}: {getattr(error, 'msg', error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: {shown(line)} is no JSON object: it must be one with a field {field!r}")
    _check_columns(where, list(value), [field], "field")
    if not isinstance(value[field], str):
        raise UserError(f"{where}: the field {field!r} is {shown(json.dumps(value[field]))}: it must be a string")
    return value


def _check_columns(where: str, columns: Iterable[str], needed: Sequence[str], noun: str) -> None:
    columns = [name for name in columns if name]
    for name in needed:
        if name not in columns:
            raise UserError(f"{where} has no {noun} {name!r}. {one_of(map(shown, columns), name)}")


def numbered(name: str, number: int) -> str:
    """The key of a sample by its file and line: `poems.txt:00012`."""
    return f"{name}:{number:05}"


def row_keys(name: str, rows: Sequence[TableRow]) -> list[str]:
    """A key for each row: by its `id` if every sound row has one and no two keys meet, else by its line."""
    by_line = [numbered(name, row.line) for row in rows]
    ids = ["" if row.damage else inner_name(word(row.cells.get("id")) or "") for row in rows]
    by_id = [f"{name}:{row_id}" if row_id else key for row_id, key in zip(ids, by_line, strict=True)]
    complete = all(row_id or row.damage for row_id, row in zip(ids, rows, strict=True))
    return by_id if complete and len(set(by_id)) == len(rows) else by_line


def word(value: Any) -> str | None:
    """A cell, or a value of JSON, as a label: without spaces around it, None where there is nothing."""
    if value is None:
        return None
    return (value if isinstance(value, str) else json.dumps(value)).strip() or None


def shown(text: str) -> str:
    """What a message shows of a text: one line of it, and not all."""
    preview = " ".join(text[: 4 * NAMED].split())
    return preview if len(preview) <= NAMED else preview[: NAMED - 3] + "..."
