"""The command line: one file a verb. Nothing here imports torch before a verb needs it."""

import sys
from collections.abc import Sequence

import typer

from vqmm import __version__
from vqmm.cli import decode, encode, eval, new_plugin, plugins, recipes, train
from vqmm.errors import UserError

UsageError = typer.BadParameter.__base__  # what typer raises for a mistyped command line; it exports this subclass only
assert UsageError is not None

app = typer.Typer(
    name="vqmm",
    help="Turn images, audio and text into discrete tokens and back, around one shared vector quantizer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (train.train, eval.eval, encode.encode, decode.decode, recipes.recipes, plugins.plugins, new_plugin.new_plugin):
    app.command()(verb)


@app.callback()
def _options(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line. A user's mistake is one line on standard error and exit code 2."""
    try:
        code = app(None if arguments is None else list(arguments), prog_name="vqmm", standalone_mode=False)
    except UserError as error:
        _leave(str(error), 2)
    except UsageError as error:
        _leave(error.format_message() or "say what to do: vqmm --help lists the verbs", 2)
    except (KeyboardInterrupt, typer.Abort):
        _leave("interrupted", 130)
    sys.exit(code or 0)


def _leave(said: str, code: int) -> None:
    print(f"vqmm: {' '.join(said.split())}", file=sys.stderr)
    sys.exit(code)
