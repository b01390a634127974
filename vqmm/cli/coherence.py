"""vqmm coherence"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_table, print_unreadable
from vqmm.utils.errors import UserError


def coherence(
    run: Annotated[Path, typer.Argument(help="The folder of a joint prior.")],
    data: Annotated[
        list[str], typer.Option(metavar="MODALITY=PATH", help="Labelled samples of each modality. Repeatable.")
    ],
    count: Annotated[int, typer.Option(help="Samples of each cell.")] = 200,
    temperature: Annotated[float, typer.Option(help="As of vqmm generate.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="The same.")] = None,
    top_p: Annotated[float | None, typer.Option(help="The same.")] = None,
    guidance: Annotated[float, typer.Option(help="The same.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same.")] = 0,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Measure a joint prior: does what it makes of a sample have the sample's label?"""
    from vqmm.evaluation.coherence import coherence as measure
    from vqmm.generation.generator import holds_prior
    from vqmm.generation.sampling import Draw

    if not holds_prior(run):
        raise UserError(
            f"{run} holds no prior: give the folder that vqmm prior has made; vqmm eval evaluates tokenizers"
        )
    result = measure(
        run,
        paths_by_name(data),
        count=count,
        draw=Draw(temperature, top_k, top_p, guidance),
        seed=seed,
        plugins=plugin or (),
    )
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
    else:
        print_coherence(result)


def paths_by_name(data: Sequence[str]) -> dict[str, str]:
    """`["image=digits/", "audio=spoken.zip"]` -> the paths by name; a `UserError` for a path without a name."""
    pairs = [entry.partition("=") for entry in data]
    wrong = [entry for entry, (name, equals, path) in zip(data, pairs, strict=True) if not (name and equals and path)]
    names = [name for name, _, _ in pairs]
    if wrong or len(set(names)) < len(names):
        raise UserError(
            f"data {wrong[0] if wrong else ' '.join(data)!r}: give MODALITY=PATH, once for each, such as "
            "--data image=digits/ --data audio=spoken.zip"
        )
    return {name: path for name, _, path in pairs}


def print_coherence(result: Mapping[str, Any]) -> None:
    """The matrix, each cell with its interval and its control, and what they are."""
    names = [*result["classifiers"]]
    rows = []
    for source, row in result["coherence"].items():
        cells = []
        for other in names:
            if other not in row:
                cells.append("-")
                continue
            low, high = result["intervals"][source][other]
            control = result["control"].get(source, {}).get(other)
            beside = "real" if control is None else f"control {control:.1%}"
            cells.append(f"{row[other]:.1%} ({low:.1%} to {high:.1%}; {beside})")
        rows.append([source, *cells])
    print_table(["from", *(f"to {name}" for name in names)], rows)
    print(f"\nchance: {result['chance']:.1%}; in brackets the 95% interval, and the share for shuffled conditions")
    for name, rule in result["rules"].items():
        print(f"{name}: {rule}")
    for name, split in result.get("split", {}).items():
        print(f"held-out {name}: {split}")
