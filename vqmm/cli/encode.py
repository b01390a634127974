"""vqmm encode"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_unreadable


def encode(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders or archives.")],
    out: Annotated[Path, typer.Option(help="The folder for the token shards; must not exist yet.")],
    stages: Annotated[
        int | None, typer.Option(help="Write only the first so many codes of each position: a lower rate.")
    ] = None,
    bitrate_kbps: Annotated[
        float | None, typer.Option(help="Or as many as fit into a rate, in kilobits per second of sound.")
    ] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="Also the vectors that the codes stand for.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse damaged samples instead of skipping them.")] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Turn files into token shards (Parquet)."""
    from vqmm.transcode import encode as run_encode

    result = run_encode(
        run,
        inputs,
        out,
        stages=stages,
        bitrate_kbps=bitrate_kbps,
        vectors=vectors,
        strict=strict,
        plugins=plugin or (),
    )
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
        return
    print(f"{result['samples']} samples -> {result['codes']:,} codes, {result['bits']:,.0f} bits, in {out}")
    if result["bitrate_kbps"] is not None:
        used = "1 stage" if result["stages"] == 1 else f"{result['stages']} stages"
        print(f"{result['bitrate_kbps']:.4g} kbit/s: {used} of codes")
