"""vqmm new-plugin"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, print_json


def new_plugin(
    name: Annotated[str, typer.Argument(help="The part's name: lower-case letters, digits and underscores.")],
    kind: Annotated[str, typer.Option(help="What to write: modality, quantizer, decoder or prior.")] = "modality",
    out: Annotated[Path, typer.Option(help="The folder to put its files into.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a working plugin of one file, with its test."""
    from vqmm.commands.new_plugin import new_plugin as write

    result = write(name, out, kind=kind)
    if as_json:
        print_json(result)
        return
    print("\n".join(result["files"]))
    print(f"Next: pytest {result['files'][1]}")
    print(f"Then: {result['next']}")
