"""What the verbs share: their common options, and how a result is printed."""

import json
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, TextIO

import typer

SHOWN = 10  # damaged samples that are named one by one

_reserved: list[TextIO] = []  # standard output while --json keeps it for the result


@contextmanager
def _reserve_stdout() -> Iterator[None]:
    _reserved.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved.pop()


def _keep_to_result(context: typer.Context, wanted: bool) -> bool:
    """With --json, whatever else is printed (by a plugin, say) goes to standard error."""
    if wanted:
        context.with_resource(_reserve_stdout())
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_keep_to_result,
        is_eager=True,
        help="Print the result as one JSON object; everything else on stderr.",
    ),
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE.py|MODULE", help="Load this plugin as well. Repeatable.")
]


def print_next(words: Sequence[str], plugins: Sequence[str] | None = None) -> None:
    """A command that goes on from here, as it can be pasted; with the plugins without which it would not work."""
    added = [word for plugin in plugins or () for word in ("--plugin", plugin)]
    print(f"Next: {shlex.join([*words, *added])}")


def print_json(result: Mapping[str, Any]) -> None:
    """One object. Plain ASCII, so that no terminal stumbles over a name; null for numbers that JSON does not have."""
    print(json.dumps(_finite(result), indent=2, allow_nan=False), file=_reserved[-1])


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output: floats with four significant digits, None as "-"; the first column does not wrap."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    if not console.is_terminal:  # a pipe has no width: fold nothing
        console.width = max(console.width, 160)
    console.print(table)


def print_metrics(result: Mapping[str, Any]) -> None:
    """The metrics of an evaluation, each with its rule."""
    rules = result["rules"]
    print_table(("metric", "value", "rule"), ((name, value, rules[name]) for name, value in result["metrics"].items()))


def print_stages(stages: Sequence[Mapping[str, Any]]) -> None:
    """How each stage of each map is used, where there are several: the mean over them hides the one that is not."""
    if len(stages) < 2:
        return
    columns = ("map", "stage", "size", "use", "perplexity")
    print()
    print_table(columns, ([stage[column] for column in columns] for stage in stages))


def print_unreadable(unreadable: Sequence[str]) -> None:
    """Name what was skipped, on standard error."""
    if unreadable:
        typer.echo(f"{len(unreadable)} damaged samples were skipped:", err=True)
        for said in unreadable[:SHOWN]:
            typer.echo(f"  {said}", err=True)
        if len(unreadable) > SHOWN:
            typer.echo(f"  and {len(unreadable) - SHOWN} more: --json names them all", err=True)


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
