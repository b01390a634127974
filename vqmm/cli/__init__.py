"""The command line: one file a verb. Nothing here imports torch before a verb needs it."""

import errno
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from vqmm import __version__
from vqmm.cli import (
    bench,
    coherence,
    compare,
    compare_priors,
    compress,
    decode,
    decompress,
    demo,
    encode,
    eval,
    generate,
    new_plugin,
    plugins,
    prior,
    recipes,
    reconstruct,
    report,
    train,
)
from vqmm.utils.errors import Remark, Stopped, UserError
from vqmm.utils.files import must_be_writable

UsageError: Any = typer.BadParameter.__base__  # what typer raises for a mistyped command line, and does not export
OUTSIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # the machine says no, not our code

WRITTEN = ("out", "show")  # the options that say where a verb writes

_python_formatted = warnings.formatwarning


class Verb(TyperCommand):
    """Looks at the place that a verb is to write to before it begins: what verbs import takes a second and more."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb, once --out and --show are known to be writable where given. Raises UserError where not."""
        for name in WRITTEN:
            if ctx.params.get(name) is not None:
                must_be_writable(Path(ctx.params[name]), f"--{name}")
        return super().invoke(ctx)


app = typer.Typer(
    name="vqmm",
    help="Turn images, audio and text into discrete tokens and back, around one shared vector quantizer.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    demo.demo,
    train.train,
    eval.eval,
    coherence.coherence,
    compare.compare,
    compare_priors.compare_priors,
    bench.bench,
    encode.encode,
    decode.decode,
    compress.compress,
    decompress.decompress,
    reconstruct.reconstruct,
    generate.generate,
    prior.prior,
    report.report,
    recipes.recipes,
    plugins.plugins,
    new_plugin.new_plugin,
):
    app.command(cls=Verb)(verb)


@app.callback()
def _options(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and leave.")
) -> None:
    if version or context.invoked_subcommand is None:
        print(__version__ if version else context.get_help())
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line. A user's mistake is one line on standard error and exit code 2."""
    warnings.formatwarning = _formatted
    try:
        code = app(None if arguments is None else list(arguments), prog_name="vqmm", standalone_mode=False)
    except UserError as error:
        _leave(str(error), 2)
    except Stopped as stopped:
        _leave(str(stopped), stopped.code)
    except UsageError as error:
        said = error.format_message()
        _leave(f"{said.removesuffix('.')}. See {error.ctx.command_path} --help." if error.ctx else said, 2)
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        _leave(f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror), 2)
    if code == 130:  # typer has caught the interrupt itself
        _leave("interrupted", 130)
    sys.exit(code or 0)


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A remark as one line; other warnings as Python writes them."""
    if issubclass(category, Remark):
        return f"vqmm: {' '.join(str(message).split())}\n"
    return _python_formatted(message, category, filename, lineno, line)


def _leave(said: str, code: int) -> None:
    print(f"vqmm: {' '.join(said.split())}", file=sys.stderr)
    sys.exit(code)
