"""vqmm train"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_metrics, print_next


def train(
    modality: Annotated[str, typer.Argument(help="What kind of signal: image, or what a plugin brings.")],
    data: Annotated[str, typer.Option(help="A file, folder or archive of samples, or builtin:digits.")],
    out: Annotated[Path, typer.Option(help="The run's folder; must not exist yet, but for --resume.")],
    recipe: Annotated[str, typer.Option(help="A recipe's name (see vqmm recipes) or a YAML file.")] = "vqvae-ema",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; short for --set train.steps=N.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PART.OPTION=VALUE", help="Change the recipe. Repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of --out.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse damaged samples instead of skipping them.")] = False,
    report: Annotated[bool, typer.Option(help="Write the page of the run at the end.")] = True,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on your own files."""
    from vqmm.commands.train import train as run

    result = run(
        modality,
        data,
        out,
        recipe,
        steps=steps,
        settings=settings or (),
        resume=resume,
        strict=strict,
        plugins=plugin or (),
        report=report,
    )
    if not result:  # another node of the same run tells
        return
    if as_json:
        print_json(result)
        return
    print_metrics(result)
    page = f", see {result['report']}" if report else ""
    print(f"\n{result['weights']:,} weights, evaluated on {result['count']} held-out samples{page}")
    print_next(["vqmm", "eval", str(out), "--data", str(data)], plugin)
