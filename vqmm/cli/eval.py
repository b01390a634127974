"""vqmm eval"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_metrics, print_stages, print_unreadable


def eval(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    data: Annotated[
        list[str],
        typer.Option(help="A file, folder or archive of samples, or builtin:digits; for a prior MODALITY=PATH, each."),
    ],
    whole: Annotated[bool, typer.Option("--whole", help="Uncropped, and judged as a decoded file would be.")] = False,
    show: Annotated[Path | None, typer.Option(help="Write originals over reconstructions here (no suffix).")] = None,
    stages: Annotated[int | None, typer.Option(help="Use only the first so many codes of each position.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Say whether labels survive, by a classifier.")] = False,
    realism: Annotated[
        bool, typer.Option("--realism", help="Compare originals and reconstructions as sets: Frechet distance, recall.")
    ] = False,
    inception: Annotated[
        Path | None, typer.Option(help="With --realism: torch-fidelity's Inception weights, for FID and KID.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Of a prior: samples of each cell, 200.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of a prior, as of vqmm generate; 1.")] = None,
    top_k: Annotated[int | None, typer.Option(help="The same.")] = None,
    top_p: Annotated[float | None, typer.Option(help="The same.")] = None,
    guidance: Annotated[float | None, typer.Option(help="The same; 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same; 0.")] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Judge a run on held-out data: its metrics, each with its rule; of a joint prior its coherence."""
    from vqmm.cli.coherence import judge_prior
    from vqmm.commands.evaluate import eval as judge
    from vqmm.generation.generator import holds_prior
    from vqmm.utils.errors import UserError

    drawing = {"count": count, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    drawing |= {"guidance": guidance, "seed": seed}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if holds_prior(run):
        if whole or labels or realism or show is not None or stages is not None:
            raise UserError(
                f"{run} holds a prior: --whole, --show, --stages, --labels and --realism are for tokenizers"
            )
        judge_prior(run, data, drawing, plugin or (), as_json)
        return
    if drawing:
        raise UserError(f"{run} holds a tokenizer: --{', --'.join(drawing).replace('_', '-')} is for priors")
    if len(data) > 1:
        raise UserError(f"data {' '.join(data)!r}: a tokenizer is judged on one source")
    if inception is not None and not realism:
        raise UserError(f"--inception {inception}: give --realism as well, which is what its weights are for")
    result = judge(
        run,
        data[0],
        whole=whole,
        show=show,
        stages=stages,
        labels=labels,
        realism=realism,
        inception=inception,
        plugins=plugin or (),
    )
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
        return
    print_metrics(result)
    print_stages(result["stages"])
    print(f"\n{result['count']} samples: {result['split']}; {result['view']}")
