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
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Judge a run on held-out data: its metrics, each with its rule; of a joint prior its coherence."""
    from vqmm.cli.coherence import judge_prior
    from vqmm.errors import UserError
    from vqmm.evaluation.run import eval as judge
    from vqmm.generator import holds_prior

    if holds_prior(run):
        if whole or labels or show is not None or stages is not None:
            raise UserError(f"{run} holds a prior: --whole, --show, --stages and --labels are for tokenizers")
        judge_prior(run, data, plugin or (), as_json)
        return
    if len(data) > 1:
        raise UserError(f"data {' '.join(data)!r}: a tokenizer is judged on one source")
    result = judge(run, data[0], whole=whole, show=show, stages=stages, labels=labels, plugins=plugin or ())
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
        return
    print_metrics(result)
    print_stages(result["stages"])
    print(f"\n{result['count']} samples: {result['split']}; {result['view']}")
