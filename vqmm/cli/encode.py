"""vqmm encode"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_unreadable


def encode(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders or archives.")],
    out: Annotated[Path, typer.Option(help="The folder for the token shards; must not exist yet, but for --resume.")],
    stages: Annotated[
        int | None, typer.Option(help="Write only the first so many codes of each position: a lower rate.")
    ] = None,
    bitrate_kbps: Annotated[
        float | None, typer.Option(help="Or as many as fit into a rate, in kilobits per second of sound.")
    ] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="Also the vectors that the codes stand for.")] = False,
    augment: Annotated[
        int, typer.Option(help="Also so many altered views of each training sample: priors learn few by heart.")
    ] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse damaged samples instead of skipping them.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was stopped or killed.")
    ] = False,
    processes: Annotated[
        int, typer.Option(help="Shards made at a time, each by one core; the bytes are the same.")
    ] = 1,
    shard_samples: Annotated[
        int | None, typer.Option(help="Samples of a shard; fewer for long recordings. 1,024 unless told.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Turn files into token shards (Parquet)."""
    from vqmm.commands.encode import SAMPLES_A_SHARD
    from vqmm.commands.encode import encode as run_encode

    result = run_encode(
        run,
        inputs,
        out,
        stages=stages,
        bitrate_kbps=bitrate_kbps,
        vectors=vectors,
        augment=augment,
        strict=strict,
        plugins=plugin or (),
        resume=resume,
        processes=processes,
        shard_samples=SAMPLES_A_SHARD if shard_samples is None else shard_samples,
    )
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
        return
    print(f"{result['samples']} samples -> {result['codes']:,} codes, {result['bits']:,.0f} bits, in {out}")
    if result["bitrate_kbps"] is not None:
        used = "1 stage" if result["stages"] == 1 else f"{result['stages']} stages"
        print(f"{result['bitrate_kbps']:.4g} kbit/s: {used} of codes")
