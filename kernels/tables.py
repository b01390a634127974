"""The tiles of the kernels: tables of JSON in each kernel's folder, one for each kind of GPU, and no autotuning.

A table is a list of rows; the first whose limits hold is taken. A row that was measured on a GPU says so.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

ANY = 2**31 - 1  # a limit that is none
PRECISIONS = ("exact", "fast", "certified")

R = TypeVar("R", bound=tuple[Any, ...])


def capability_of(device: torch.device) -> tuple[int, int]:
    """Of the GPU; Triton's interpreter works as the largest there is a table for."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def as_version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in text.split(".")[:2])


@functools.cache
def triton_version() -> tuple[int, ...]:
    """(3, 8); (0, 0) where there is none."""
    try:
        import triton
    except ImportError:
        return 0, 0
    return as_version(triton.__version__)


def power_of_two(number: int, least: int) -> bool:
    """Whether it is one, and no less than the least."""
    return number >= least and not number & (number - 1)


class Tables(Generic[R]):
    """The tables of one kernel, or of kernels that share them: `sm_90.json` for a GPU of capability 9.0, and
    `default.json`, which fits every GPU from 8.0 on.

    Args:
        kernel: the folder under `kernels/`.
        row: a NamedTuple. By the names of its fields: `max_...` is a limit; `block_...` a side of a tile, a power of
            two; `warps`, `stages` and `precision` are what they are everywhere; `measured` says that the row was
            chosen by a measurement; `below` is the first Triton that it is not for, such as "3.8", or "".
        least: of a side of a tile; 16 where a tensor core multiplies it.
        wrong: what else makes a row wrong, in words; None: nothing.
    """

    def __init__(
        self, kernel: str, row: type[R], *, least: int = 16, wrong: Callable[[R], str | None] = lambda row: None
    ) -> None:
        self.folder = Path(str(resources.files(f"vqmm.kernels.{kernel}"))) / "tables"
        self.kernel, self.row, self.least, self.wrong = kernel, row, least, wrong
        self.rows = functools.cache(self._rows)

    def file_for(self, capability: tuple[int, int], folder: Path | None = None) -> Path:
        """Where the table of a GPU is, if it has one of its own."""
        return (folder or self.folder) / f"sm_{capability[0]}{capability[1]}.json"

    def _rows(self, capability: tuple[int, int]) -> tuple[R, ...]:
        """The rows for a GPU of a compute capability such as (9, 0), in the order in which they are tried."""
        path = self.file_for(capability)
        return self.read(path if path.exists() else self.folder / "default.json")

    def find(self, capability: tuple[int, int], **wanted: Any) -> R | None:
        """The first row that is for this: `max_width=64` is within the row's limit, `precision="fast"` equal to its."""
        for row in self.rows(capability):
            if all(
                value <= getattr(row, name) if name.startswith("max_") else value == getattr(row, name)
                for name, value in wanted.items()
            ):
                return row
        return None

    def read(self, path: Path) -> tuple[R, ...]:
        """The rows of a file that this Triton takes.

        Raises:
            ValueError: a row that cannot be run.
        """
        rows = [
            self.made(values, f"{self.kernel}, {path.name}, row {number}")
            for number, values in enumerate(json.loads(path.read_text())["rows"])
        ]
        below: Callable[[R], str] = lambda row: row._asdict().get("below", "")  # type: ignore[attr-defined] # noqa: E731
        return tuple(row for row in rows if not below(row) or triton_version() < as_version(below(row)))

    def made(self, values: dict[str, Any], where: str) -> R:
        """A row of its values by name; ValueError where it cannot be run."""
        fields: Any = self.row
        missing = [name for name in fields._fields if name not in values and name not in fields._field_defaults]
        unknown = [name for name in values if name not in fields._fields]
        if missing or unknown:
            problem = f"{unknown[0]!r} is no column" if unknown else f"{missing[0]!r} is missing"
            raise ValueError(f"{where}: {problem}; the columns are {', '.join(fields._fields)}.")
        row = self.row(**values)
        self.check(row, where)
        return row

    def check(self, row: R, where: str) -> None:
        """Raises:
        ValueError: a row that cannot be run: where, what is wrong, what would be right.
        """
        for name, value in row._asdict().items():  # type: ignore[attr-defined]
            kind = self.row.__annotations__[name]
            problem = None
            if type(value) is not kind:
                problem = f"is {value!r}; it is of type {kind.__name__}"
            elif name.startswith("max_") and value < 1:
                problem = f"is {value}; it is 1 or more, {ANY} for no limit"
            elif name.startswith("block_") and not power_of_two(value, self.least):
                problem = f"is {value}; it is a power of two, {self.least} or more"
            elif name == "warps" and not (power_of_two(value, 1) and value <= 32):
                problem = f"is {value}; it is a power of two, 1 to 32"
            elif name == "stages" and value < 1:
                problem = f"is {value}; it is 1 or more"
            elif name == "precision" and value not in PRECISIONS:
                problem = f"is {value!r}; it can be {', '.join(PRECISIONS)}"
            elif name == "below" and not re.fullmatch(r"(\d+\.\d+)?", value):
                problem = f'is {value!r}; it is a Triton such as "3.8", or ""'
            if problem:
                raise ValueError(f"{where}: {name} {problem}.")
        if problem := self.wrong(row):
            raise ValueError(f"{where}: {problem}.")

    def save(
        self,
        capability: tuple[int, int],
        rows: Iterable[R],
        *,
        device: str | None = None,
        versions: dict[str, str] | None = None,
        date: str | None = None,
        folder: Path | None = None,
    ) -> Path:
        """Write the table of a GPU, rows in the order in which they are tried, with where and when it was measured.

        Raises:
            ValueError: a row that cannot be run; nothing is written.
        """
        rows = list(rows)
        for number, row in enumerate(rows):
            self.check(row, f"{self.kernel}, row {number}")
        head: dict[str, Any] = {"capability": list(capability), "device": device, "versions": versions, "date": date}
        lines = ",\n    ".join(json.dumps(row._asdict()) for row in rows)  # type: ignore[attr-defined]
        path = self.file_for(capability, folder)
        fresh = path.with_suffix(".new")
        fresh.write_text(f'{json.dumps(head, indent=2)[:-2]},\n  "rows": [\n    {lines}\n  ]\n}}\n')
        fresh.replace(path)
        self.rows.cache_clear()
        return path
