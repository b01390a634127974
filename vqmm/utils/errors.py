"""What a user's mistake is answered with: one line that says what is wrong, the values, and what would be right."""

import difflib
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError


class UserError(ValueError):
    """A mistake that the person at the keyboard can mend. The command line prints it as one line, exit code 2."""


class Remark(UserWarning):
    """Something the person at the keyboard should know while the work goes on; the command line prints one line."""


class Stopped(Exception):  # noqa: N818
    """Not an error: a run that saved and left because of a signal; `code` is the exit code that says which."""

    def __init__(self, step: int, signum: int):
        self.step, self.signum, self.code = step, signum, 128 + signum
        super().__init__(f"stopped at step {step} by {signal.Signals(signum).name} and saved: go on with --resume")

    def __reduce__(self) -> tuple[type["Stopped"], tuple[int, int]]:
        return Stopped, (self.step, self.signum)


def one_of(choices: Iterable[str], wrong: str = "") -> str:
    """`"Choices: a, b, c. Did you mean 'b'?"`: the end of an error about a name."""
    names = sorted(choices)
    listed = f"There is: {', '.join(names)}." if names else "There is none."
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.55)
    return f"{listed} Did you mean {near[0]!r}?" if near else listed


def unknown(kind: str, wrong: str, choices: Iterable[str]) -> UserError:
    """The error for a name that does not exist, to be raised by the caller: it lists the choices."""
    return UserError(f"no {kind} is called {wrong!r}. {one_of(choices, wrong)}")


@contextmanager
def explained(where: str, fields: Mapping[str, Any]) -> Iterator[None]:
    """Turn pydantic's report into one line that names every wrong field, its value and what would fit.

    `where` is the part that is being checked ("quantizer"), empty for a whole recipe; `fields` are the `model_fields`
    of its model: the names that a wrong one could have meant.
    """
    try:
        yield
    except ValidationError as error:
        problems: dict[str, str] = {}
        for detail in error.errors():
            path = [str(part) for part in detail["loc"]][: 1 if where else 2]  # deeper parts name members of a union
            name = ".".join(filter(None, [where, *path]))
            problems.setdefault(name, _sentence(detail["type"], name, detail["input"], detail["msg"], fields, path))
        raise UserError("; ".join(f"{name}: {said}" for name, said in problems.items())) from None


def _sentence(kind: str, name: str, value: object, said: str, fields: Mapping[str, Any], path: list[str]) -> str:
    if kind in ("extra_forbidden", "invalid_key"):
        for part in path[:-1]:  # the choices are those of the innermost part
            fields = getattr(fields[part].annotation, "model_fields", {}) if part in fields else {}
        return f"there is no such option. {one_of(fields, *path[-1:])}"
    if kind == "missing":
        return "is required and missing"
    if kind == "model_type":
        return f"{value!r} does not fit: it has options of its own, written as {name}.OPTION=VALUE"
    said = said.removeprefix("Value error, ")
    return f"{value!r} does not fit: {said[0].lower()}{said[1:]}"
