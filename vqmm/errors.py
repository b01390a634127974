"""What a user's mistake is answered with: one line that says what is wrong, the values, and what would be right."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class UserError(ValueError):
    """A mistake that the person at the keyboard can mend. The command line prints it as one line, exit code 2."""


def one_of(choices: Iterable[str], wrong: str = "") -> str:
    """`"Choices: a, b, c. Did you mean 'b'?"`: the end of an error about a name."""
    names = sorted(choices)
    listed = f"There is: {', '.join(names)}." if names else "There is none."
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.55)
    return f"{listed} Did you mean {near[0]!r}?" if near else listed


def unknown(kind: str, wrong: str, choices: Iterable[str]) -> UserError:
    return UserError(f"no {kind} is called {wrong!r}. {one_of(choices, wrong)}")


@contextmanager
def explained(where: str, fields: Iterable[str] = ()) -> Iterator[None]:
    """Turn pydantic's report into one line that names every wrong field, its value and what would fit.

    `where` is the part that is being checked ("quantizer"), empty for a whole recipe; `fields` are the names that a
    wrong one could have meant.
    """
    try:
        yield
    except ValidationError as error:
        told: dict[str, str] = {}
        for detail in error.errors():
            path = [str(part) for part in detail["loc"]][: 1 if where else 2]  # deeper parts name members of a union
            name = ".".join(filter(None, [where, *path]))
            told.setdefault(name, _sentence(detail["type"], path[-1:], detail["input"], detail["msg"], fields))
        raise UserError("; ".join(f"{name}: {said}" for name, said in told.items())) from None


def _sentence(kind: str, name: list[str], value: object, said: str, fields: Iterable[str]) -> str:
    if kind == "extra_forbidden":
        return f"there is no such option. {one_of(fields, *name)}"
    if kind == "missing":
        return "is required and missing"
    said = said.removeprefix("Value error, ")
    return f"{value!r} does not fit: {said[0].lower()}{said[1:]}"
