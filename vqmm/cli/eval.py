"""vqmm eval"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_metrics, print_stages, print_unreadable


def eval(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    data: Annotated[str, typer.Option(help="A file, folder or archive of samples, or builtin:digits.")],
    whole: Annotated[
        bool, typer.Option("--whole", help="Uncropped, and evaluated as a decoded file would be.")
    ] = False,
    show: Annotated[Path | None, typer.Option(help="Write originals over reconstructions here (no suffix).")] = None,
    stages: Annotated[int | None, typer.Option(help="Use only the first so many codes of each position.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Say whether labels survive, by a classifier.")] = False,
    realism: Annotated[
        bool, typer.Option("--realism", help="Compare originals and reconstructions as sets: Frechet distance, recall.")
    ] = False,
    inception: Annotated[
        Path | None, typer.Option(help="With --realism: torch-fidelity's Inception weights, for FID and KID.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Evaluate a tokenizer on held-out data: its metrics, each with its rule."""
    from vqmm.commands.evaluate import eval as evaluate
    from vqmm.generation.generator import holds_prior
    from vqmm.utils.errors import UserError

    if holds_prior(run):
        raise UserError(f"{run} holds a prior, and eval is for tokenizers: vqmm coherence {run} --data MODALITY=PATH")
    if inception is not None and not realism:
        raise UserError(f"--inception {inception}: give --realism as well, which is what its weights are for")
    result = evaluate(
        run,
        data,
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
