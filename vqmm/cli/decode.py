"""vqmm decode"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json


def decode(
    run: Annotated[Path, typer.Argument(help="The folder of the run that encoded the tokens.")],
    tokens: Annotated[Path, typer.Argument(help="The folder of token shards.")],
    out: Annotated[Path, typer.Option(help="The folder for the files; must not exist yet.")],
    seed: Annotated[int, typer.Option(help="For decoders that draw at random.")] = 0,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Turn token shards back into files."""
    from vqmm.commands.decode import decode as run_decode

    result = run_decode(run, tokens, out, seed=seed, plugins=plugin or ())
    if as_json:
        print_json(result)
    else:
        print(f"{result['samples']} samples in {out}")
