"""vqmm new-plugin"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, print_json


def new_plugin(
    name: Annotated[str, typer.Argument(help="The modality's name: lower-case letters, digits and underscores.")],
    out: Annotated[Path, typer.Option(help="The folder to put its files into.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a working one-file modality, with its test."""
    from vqmm.commands.new_plugin import new_plugin as write

    result = write(name, out)
    if as_json:
        print_json(result)
        return
    print("\n".join(result["files"]))
    print(f"Next: pytest {result['files'][1]}; vqmm plugins --plugin {result['files'][0]}")
