"""Which tile, product and pipeline a search takes: tables of JSON, one for each kind of GPU, and no autotuning.

A table is a list of rows; the first whose limits hold is taken. A row that was measured on a GPU says so.
"""

import functools
import json
import re
import warnings
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(str(resources.files("vqmm.kernels.nearest_code"))) / "tables"
EXACT_DOTS = ("split", "tf32x3", "fma")  # as good as float32
DOTS = (*EXACT_DOTS, "high", "tf32", "bf16", "unfused")
ANY = 2**31 - 1


class Config(NamedTuple):
    """A row of a table: for widths up to max_width and codebooks up to max_k, what runs."""

    max_width: int
    max_k: int
    precision: str
    block_n: int
    block_k: int  # of a search of all codes at once, without margins
    block_d: int  # at least the width: vectors stay on chip; less: they are read again for every tile of codes
    warps: int
    stages: int
    dot: str  # see scan; "unfused": a plain product and an argmax, which hold chunks of scores
    small_k: int  # block_k of any other: margins are half as much again in registers
    measured: bool = False
    below: str = ""  # the first Triton that this row is not for, such as "3.8": it would spill there


def file_for(capability: tuple[int, int], folder: Path = FOLDER) -> Path:
    return folder / f"sm_{capability[0]}{capability[1]}.json"


def check_row(row: Config, where: str) -> None:
    wrong = None
    if row.dot not in DOTS:
        wrong = f"dot is {row.dot!r}; it can be {', '.join(DOTS)}"
    elif row.precision not in ("exact", "fast", "certified"):
        wrong = f"precision is {row.precision!r}; it can be exact, fast, certified"
    elif row.precision == "exact" and row.dot not in (*EXACT_DOTS, "unfused"):
        wrong = f"dot is {row.dot!r}, which is not as good as float32; exact can have {', '.join(EXACT_DOTS)}"
    elif row.precision == "certified" and row.dot == "bf16":
        wrong = "dot is 'bf16'; certified needs a product whose rounding is known for each vector: tf32 or high"
    elif any(block < 16 or block & (block - 1) for block in (row.block_n, row.block_k, row.block_d, row.small_k)):
        wrong = (
            f"blocks are {row.block_n}, {row.block_k}, {row.block_d}, {row.small_k}; each is a power of two, 16 or more"
        )
    elif not re.fullmatch(r"(\d+\.\d+)?", row.below):
        wrong = f'below is {row.below!r}; it is a Triton such as "3.8", or ""'
    if wrong:
        raise ValueError(f"{where}: {wrong}.")


def as_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def triton_version() -> tuple[int, ...]:
    """(3, 8); (0, 0) where there is none."""
    try:
        import triton
    except ImportError:
        return 0, 0
    return as_version(triton.__version__)


@functools.lru_cache
def read_table(path: Path) -> tuple[Config, ...]:
    """The rows of a table that this Triton takes.

    Raises:
        ValueError: a row that cannot be run.
    """
    rows = tuple(Config(**row) for row in json.loads(path.read_text())["rows"])
    for number, row in enumerate(rows):
        check_row(row, f"{path.name}, row {number}")
    return tuple(row for row in rows if not row.below or triton_version() < as_version(row.below))


def save_table(
    capability: tuple[int, int],
    rows: Iterable[Config],
    *,
    device: str | None = None,
    versions: dict[str, str] | None = None,
    date: str | None = None,
    folder: Path = FOLDER,
) -> Path:
    """Write the table of a GPU, rows in the order in which they are tried, with where and when it was measured.

    Raises:
        ValueError: a row that cannot be run; nothing is written.
    """
    rows = list(rows)
    for number, row in enumerate(rows):
        check_row(row, f"save_table, row {number}")
    head: dict[str, Any] = {"capability": list(capability), "device": device, "versions": versions, "date": date}
    lines = ",\n    ".join(json.dumps(row._asdict()) for row in rows)
    opening = json.dumps(head, indent=2)[:-2]
    path = file_for(capability, folder)
    fresh = path.with_suffix(".new")
    fresh.write_text(f'{opening},\n  "rows": [\n    {lines}\n  ]\n}}\n')
    fresh.replace(path)
    read_table.cache_clear()
    return path


@functools.lru_cache
def table_for(capability: tuple[int, int]) -> tuple[Config, ...]:
    """The table of a GPU, or, said once, the one that fits every GPU from compute capability 8.0."""
    path = file_for(capability)
    if path.exists():
        return read_table(path)
    warnings.warn(
        f"vqmm has no table for GPUs of compute capability {capability[0]}.{capability[1]}; it takes tiles that fit "
        "every GPU from 8.0 on. To measure a table of your own, tune on this GPU and write it with save_table.",
        stacklevel=2,
    )
    return read_table(FOLDER / "default.json")


def config_for(width: int, k: int, precision: str, capability: tuple[int, int]) -> Config:
    """What a search of K codes of D dimensions takes on a GPU of a compute capability such as (9, 0).

    A row of the table with block_d below the width serves every width; block_d shrinks to the width where that is less.
    """
    for row in table_for(capability):
        if row.precision == precision and width <= row.max_width and k <= row.max_k:
            return row._replace(block_d=min(row.block_d, max(16, 1 << (width - 1).bit_length())))
    raise ValueError(
        f"nearest_code: the table of compute capability {capability} has no row for width {width}, K {k}, "
        f"{precision}; its last rows must have max_width and max_k {ANY}."
    )


def supported(capability: tuple[int, int]) -> bool:
    """Whether the Triton kernels run on a GPU; one that is too old takes plain torch, said once."""
    if capability >= (8, 0):
        return True
    say_too_old(capability)
    return False


@functools.lru_cache
def say_too_old(capability: tuple[int, int]) -> None:
    warnings.warn(
        f"vqmm: this GPU has compute capability {capability[0]}.{capability[1]}; the fused kernels need 8.0 or more, "
        "so searches take plain torch.",
        stacklevel=3,
    )


def parts_of(tiles: int, groups: int, k: int, block_k: int, processors: int) -> int:
    """Into how many parts each tile's codes are split, so that a few vectors use the whole GPU."""
    return max(1, min(2 * processors // groups // max(tiles, 1), k // (2 * block_k)))
