"""vqmm report"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Write the page of a run: RUN/report.html, one file that opens offline."""
    from vqmm.pages import report as write

    result = write(run, plugins=plugin or ())
    if as_json:
        print_json(result)
    else:
        print(result["report"])
