"""vqmm compare-priors"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.compare import print_comparison
from vqmm.cli.output import Json, Plugins


def compare_priors(
    run: Annotated[Path, typer.Argument(help="The folder of the priors' tokenizer.")],
    tokens: Annotated[Path, typer.Option(metavar="DIR", help="The run's token shards.")],
    priors: Annotated[str, typer.Option(metavar="A,B,C", help="Names (see vqmm plugins).")],
    out: Annotated[Path, typer.Option(help="The folder; the same call with the same folder goes on.")],
    condition: Annotated[str | None, typer.Option(help="label, to tell each of them the class.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of every prior.")] = None,
    seeds: Annotated[str, typer.Option(metavar="0,1,2", help="Train every prior once with each.")] = "0",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PART.OPTION=VALUE", help="Change all priors. Repeatable.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train several priors over the tokens of one tokenizer, and evaluate them in one table."""
    from vqmm.comparison.priors import compare_priors as run_compare

    result = run_compare(
        run,
        tokens,
        priors,
        out,
        condition=condition,
        steps=steps,
        seeds=seeds,
        settings=settings or (),
        plugins=plugin or (),
    )
    print_comparison(result, out, as_json)
