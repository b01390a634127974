"""vqmm compare"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_table, print_unreadable
from vqmm.utils.errors import UserError

PRIOR = "prior"  # in the place of a modality: priors over the tokens of one tokenizer


def compare(
    modality: Annotated[str, typer.Argument(help="What kind of signal: image, or what a plugin brings; or prior.")],
    out: Annotated[Path, typer.Option(help="The folder; the same call with the same folder goes on.")],
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Of priors: their tokenizer's folder.")] = None,
    recipes: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Names (see vqmm recipes) or YAML files.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A file, folder or archive of samples, or builtin:digits.")] = None,
    priors: Annotated[str | None, typer.Option(metavar="A,B,C", help="Of priors: names (see vqmm plugins).")] = None,
    tokens: Annotated[Path | None, typer.Option(metavar="DIR", help="Of priors: the run's token shards.")] = None,
    condition: Annotated[str | None, typer.Option(help="Of priors: label, to tell each of them the class.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of every run.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Or its wall seconds: what fits is measured first.")] = None,
    seeds: Annotated[str, typer.Option(metavar="0,1,2", help="Train every recipe or prior once with each.")] = "0",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PART.OPTION=VALUE", help="Change all recipes. Repeatable.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Beside them what needs no network, where some is known.")
    ] = True,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train several recipes, or several priors, on the same data with the same budget, and judge them in one table."""
    of_priors = {"RUN": run, "--priors": priors, "--tokens": tokens}
    of_recipes = {"--recipes": recipes, "--data": data}
    if modality == PRIOR:
        _must_be_given(of_priors, {**of_recipes, "--seconds": seconds}, "vqmm compare prior")
        from vqmm.comparison.priors import compare_priors

        result = compare_priors(
            run or "",
            tokens or "",
            priors or "",
            out,
            condition=condition,
            steps=steps,
            seeds=seeds,
            settings=settings or (),
            plugins=plugin or (),
        )
    else:
        _must_be_given(of_recipes, {**of_priors, "--condition": condition}, f"vqmm compare {modality}")
        from vqmm.comparison.compare import compare as run_compare

        result = run_compare(
            modality,
            recipes or "",
            data or "",
            out,
            steps=steps,
            seconds=seconds,
            seeds=seeds,
            settings=settings or (),
            baselines=baselines,
            plugins=plugin or (),
        )
    _print(result, out, as_json)


def _must_be_given(wanted: Mapping[str, object], others: Mapping[str, object], verb: str) -> None:
    lacking = [name for name, value in wanted.items() if value is None]
    if lacking:
        raise UserError(f"{verb} lacks {' and '.join(lacking)}")
    idle = [name for name, value in others.items() if value is not None]
    if idle:
        raise UserError(f"{verb} takes no {' and no '.join(idle)}: it takes {', '.join(wanted)}")


def _print(result: dict[str, Any], out: Path, as_json: bool) -> None:
    """A `UserError` where a run failed."""
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
        told = [name for name in names if any(row[name] is not None for row in rows)] if rows[0]["baseline"] else names
        print_table((title, *(row["recipe"] for row in rows)), ([n, *(r[n] for r in rows)] for n in told))
