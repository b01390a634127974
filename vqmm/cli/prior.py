"""vqmm prior"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_next, print_table, print_unreadable


def prior(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The folders of tokenizers, one a modality.")],
    out: Annotated[Path, typer.Option(help="The prior's folder; must not exist yet, but for --resume.")],
    tokens: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Token shards made by a run. Once for each; several are paired by label."),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Instead: pairs, in columns named by modality.")
    ] = None,
    condition: Annotated[str | None, typer.Option(help="label: class numbers come first; as --set condition.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; short for --set train.steps=N.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PART.OPTION=VALUE", help="Change the recipe. Repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of --out.")] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train a prior over the tokens of one tokenizer, or of several together."""
    from vqmm.commands.prior import train_prior

    result = train_prior(
        runs,
        out,
        tokens=tokens or (),
        pairs=pairs,
        condition=condition,
        steps=steps,
        settings=settings or (),
        resume=resume,
        plugins=plugin or (),
    )
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
        return
    columns = ("bits per code", "held-out", "unconditional", "unigram", "train", "gap")
    fields = ("", "_unconditional", "_unigram", "_train", "_gap")
    rows = (
        (name, *(metrics[f"bits_per_code{each}"] for each in fields)) for name, metrics in result["modalities"].items()
    )
    print_table(columns, rows)
    print(
        f"\n{result['weights']:,} weights, {result['examples']:,} examples, {result['steps']} steps; the prior of step "
        f"{result['best']['step']} is in {result['prior']}"
    )
    want = list(result["modalities"])[-1]
    print_next(["vqmm", "generate", str(out), "--want", want, "--out", str(out / "samples")], plugin)
