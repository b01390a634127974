"""vqmm reconstruct"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_unreadable


def reconstruct(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders or archives.")],
    out: Annotated[Path, typer.Option(help="The folder for the files; must not exist yet.")],
    enlarge: Annotated[
        int, typer.Option(help="Repeat every value so many times along each axis first (super-resolution).")
    ] = 1,
    stages: Annotated[int | None, typer.Option(help="Use only the first so many codes of each position.")] = None,
    seed: Annotated[int, typer.Option(help="For decoders that draw at random.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse damaged samples instead of skipping them.")] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Send files through a tokenizer and write what comes out: restored, by a run trained with train.degrade."""
    from vqmm.commands.reconstruct import reconstruct as run_reconstruct

    result = run_reconstruct(
        run, inputs, out, enlarge=enlarge, stages=stages, seed=seed, strict=strict, plugins=plugin or ()
    )
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
    else:
        print(f"{result['samples']} samples in {out}")
