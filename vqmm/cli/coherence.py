"""What `vqmm eval` does with a prior's run: the coherence of its modalities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqmm.cli.output import print_json, print_table, print_unreadable
from vqmm.utils.errors import UserError


def judge_prior(
    run: Path, data: Sequence[str], drawing: Mapping[str, Any], plugins: Sequence[str], as_json: bool
) -> None:
    """Measure and print. `data`: NAME=PATH for each modality; `drawing`: what `coherence` draws samples by."""
    from vqmm.evaluation.coherence import coherence

    result = coherence(run, paths_by_name(data), **drawing, plugins=plugins)
    print_unreadable(result["unreadable"])
    if as_json:
        print_json(result)
    else:
        print_coherence(result)


def paths_by_name(data: Sequence[str]) -> dict[str, str]:
    """`["image=digits/", "audio=spoken.zip"]` -> the paths by name; a `UserError` for a path without a name."""
    pairs = [one.partition("=") for one in data]
    wrong = [one for one, (name, equals, path) in zip(data, pairs, strict=True) if not (name and equals and path)]
    names = [name for name, _, _ in pairs]
    if wrong or len(set(names)) < len(names):
        raise UserError(
            f"data {wrong[0] if wrong else ' '.join(data)!r}: of a prior give MODALITY=PATH, once for each, such as "
            "--data image=digits/ --data audio=spoken.zip"
        )
    return {name: path for name, _, path in pairs}


def print_coherence(result: Mapping[str, Any]) -> None:
    """The matrix, each cell with its interval and its control, and what they are."""
    names = [*result["judges"]]
    rows = []
    for one, row in result["coherence"].items():
        cells = []
        for other in names:
            if other not in row:
                cells.append("-")
                continue
            low, high = result["intervals"][one][other]
            control = result["control"].get(one, {}).get(other)
            beside = "real" if control is None else f"control {control:.1%}"
            cells.append(f"{row[other]:.1%} ({low:.1%} to {high:.1%}; {beside})")
        rows.append([one, *cells])
    print_table(["from", *(f"to {name}" for name in names)], rows)
    print(f"\nchance: {result['chance']:.1%}; in brackets the 95% interval, and the share for shuffled conditions")
    for name, rule in result["rules"].items():
        print(f"{name}: {rule}")
    for name, split in result.get("split", {}).items():
        print(f"held-out {name}: {split}")
