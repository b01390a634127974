"""vqmm compare"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_table, print_unreadable
from vqmm.utils.errors import UserError


def compare(
    modality: Annotated[str, typer.Argument(help="What kind of signal: image, or what a plugin brings.")],
    recipes: Annotated[str, typer.Option(metavar="A,B,C", help="Names (see vqmm recipes) or YAML files.")],
    data: Annotated[str, typer.Option(help="A file, folder or archive of samples, or builtin:digits.")],
    out: Annotated[Path, typer.Option(help="The folder; the same call with the same folder goes on.")],
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of every run.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Or its wall seconds: what fits is measured first.")] = None,
    seeds: Annotated[str, typer.Option(metavar="0,1,2", help="Train every recipe once with each.")] = "0",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PART.OPTION=VALUE", help="Change all recipes. Repeatable.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Beside them what needs no network, where some is known.")
    ] = True,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train several recipes on the same data with the same budget, and evaluate them in one table."""
    from vqmm.comparison.compare import compare as run_compare

    result = run_compare(
        modality,
        recipes,
        data,
        out,
        steps=steps,
        seconds=seconds,
        seeds=seeds,
        settings=settings or (),
        baselines=baselines,
        plugins=plugin or (),
    )
    print_comparison(result, out, as_json)


def print_comparison(result: dict[str, Any], out: Path, as_json: bool) -> None:
    """One table of all rows, and one of baselines. A `UserError` where a run failed."""
    from vqmm.comparison.compare import failures
    from vqmm.comparison.page import own_rules

    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
    else:
        rows = result["rows"]
        _print_rows("mean over seeds", [row for row in rows if not row["baseline"]], result["rules"])
        _print_rows("\nwithout a network", [row for row in rows if row["baseline"]], result["rules"])
        for name, rule, labels in own_rules(rows):
            print(f"{', '.join(labels)}, {name}: {rule}")
        print(f"\n{result['split']}; {result['view']}; every figure's rule: {out / 'compare.html'}")
    failed = failures(result)
    if failed:
        raise UserError(f"{len(failed)} of the runs failed: {'; '.join(failed)}: the others are in {out}")


def _print_rows(title: str, rows: Sequence[dict[str, Any]], names: Iterable[str]) -> None:
    """A line a figure that any of the rows has, a column a row: there are more figures than fit beside each other."""
    if rows:
        shown = [name for name in names if any(row[name] is not None for row in rows)] if rows[0]["baseline"] else names
        print_table((title, *(row["recipe"] for row in rows)), ([n, *(r[n] for r in rows)] for n in shown))
