"""vqmm demo"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, print_json, print_table


def demo(
    out: Annotated[Path, typer.Option(help="The folder for all that is made; must not hold anything yet.")] = Path(
        "vqmm-demo"
    ),
    as_json: Json = False,
) -> None:
    """Train small tokenizers and a joint prior on built-in data, judge and use them: no files, no network."""
    from vqmm.cli.coherence import print_coherence
    from vqmm.demo import demo as run_demo

    result = run_demo(out)
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
    print("\nTry next:")
    for command in result["next"]:
        print(f"  {command}")
