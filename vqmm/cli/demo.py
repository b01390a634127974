"""vqmm demo"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, print_json, print_table


def demo(
    out: Annotated[Path, typer.Option(help="The folder for all that is made; must not hold anything yet.")] = Path(
        "vqmm-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of all that is random in training and drawing.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps of everything: whether it runs here, not what it can do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train small tokenizers and a joint prior on built-in data, evaluate and use them: no files, no network."""
    from vqmm.cli.coherence import print_coherence
    from vqmm.commands.demo import demo as run_demo

    result = run_demo(out, seed=seed, quick=quick)
    if as_json:
        print_json(result)
        return
    for part in result["parts"].values():
        print(f"\n{part['about']}: {part['seconds']:.0f} s\n")
        print_table(("metric", "value"), part["metrics"].items())
        if "coherence" in part:
            print()
            print_coherence(part)
            print(f"\nOne page for all of it: {part['report']}")
            continue
        print(f"\nThe page of this run:    {part['report']}")
        print(f"Samples not trained on:  {part['originals']} -> {part['tokens']} -> {part['decoded']}")
    for name, why in result["left_out"].items():
        print(f"\nLeft out: {name}. {why[0].upper()}{why[1:]}")
    print("\nTry next:")
    for command in result["next"]:
        print(f"  {command}")
