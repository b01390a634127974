"""What the verbs share: their common options, and how a result is printed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object; everything else on stderr.")]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE.py|MODULE", help="Load this plugin as well. Repeatable.")
]


def print_json(result: Mapping[str, Any]) -> None:
    print(json.dumps(result, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
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


def print_unreadable(unreadable: Sequence[str]) -> None:
    """Name what was skipped, on standard error."""
    if unreadable:
        typer.echo(f"{len(unreadable)} damaged samples were skipped:", err=True)
        for said in unreadable[:10]:
            typer.echo(f"  {said}", err=True)


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
