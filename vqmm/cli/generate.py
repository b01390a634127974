"""vqmm generate"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json


def generate(
    run: Annotated[Path, typer.Argument(help="The folder of a prior's run.")],
    want: Annotated[str, typer.Option(metavar="MODALITY", help="What to make: image, audio, text, ...")],
    out: Annotated[Path, typer.Option(help="The folder for the samples; must not exist yet.")],
    given: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help='What to go by: text="seven" (or text=@FILE), image=cat.png, label=7. One of each; repeatable.',
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="How many samples.")] = 16,
    temperature: Annotated[float, typer.Option(help="Below 1 likelier codes, above 1 more varied ones.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many likeliest codes.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest codes that together have this probability.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Above 1: follow what is given more closely; 2 to 4, say.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same one gives the same samples.")] = 0,
    complete: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A sample to go on with; of texts the text itself, or @FILE."),
    ] = None,
    keep: Annotated[
        float, typer.Option(help="The share of its codes that stays: a picture's upper part, a sound's beginning.")
    ] = 0.5,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Make samples from a prior: from nothing, by class, from other modalities, or from a part of one."""
    from vqmm.commands.generate import generate as make
    from vqmm.generation.prompts import parse_given
    from vqmm.generation.sampling import Draw

    result = make(
        run,
        want,
        out,
        given=parse_given(given or ()),
        count=count,
        draw=Draw(temperature, top_k, top_p, guidance),
        seed=seed,
        complete=complete,
        keep=keep,
        plugins=plugin or (),
    )
    if as_json:
        print_json(result)
        return
    print(f"{len(result['files'])} of {want}, {result['codes_per_second']:,.0f} codes a second, in {out}")
    print(f"page: {result['page']}")
