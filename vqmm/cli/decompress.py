"""vqmm decompress"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.compress import Model, Overwrite
from vqmm.cli.output import Json, Plugins, print_json


def decompress(
    run: Annotated[Path, typer.Argument(help="The folder of the run that compressed the file.")],
    file: Annotated[Path, typer.Argument(help="A file made by vqmm compress.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; else beside FILE, as NAME.decoded.*")] = None,
    model: Model = None,
    seed: Annotated[int, typer.Option(help="For decoders that draw at random.")] = 0,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Turn a compressed file back into a sample."""
    from vqmm.commands.compress import decompress as run_decompress

    result = run_decompress(run, file, out, model=model, seed=seed, overwrite=overwrite, plugins=plugin or ())
    if as_json:
        print_json(result)
    else:
        print(result["file"])
