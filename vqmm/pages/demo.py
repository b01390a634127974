"""The page of `vqmm demo`: its tokenizers, how coherent its prior is, and what that makes of one modality in the
others. One HTML file that opens offline."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqmm import __version__
from vqmm.pages.generated import STYLE, section
from vqmm.pages.templates import template

if TYPE_CHECKING:
    from torch import Tensor

    from vqmm.contracts.modality import Modality

    Example = tuple[str, Sequence[Tensor], Mapping[str, Sequence[Tensor]]]

OWN_STYLE = f"""{STYLE}
.soft {{ color: var(--soft); font-size: 0.84rem; }}
section h3 {{ margin-top: 22px; }}
.metrics td:last-child a {{ white-space: nowrap; }}
/* ten sounds or words side by side, whatever their modality puts into its fragment */
.fragment > div {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 6px 20px; }}
.fragment > div > p {{ grid-column: 1 / -1; }}
.fragment > div > * {{ min-width: 0; }}
"""
FIGURES = 3  # metrics of a tokenizer that the table names


def render(
    out: Path,
    parts: Mapping[str, Mapping[str, Any]],
    joint: Mapping[str, Any],
    modalities: "Mapping[str, Modality]",
    examples: "Sequence[Example]",
) -> str:
    """The page as text, for the folder `out`.

    Args:
        parts: what each tokenizer's part has told, by name.
        joint: what the joint part has told.
        examples: a modality, its samples, and what came of each of them in the others.
    """
    page = template("demo.html", OWN_STYLE).render(
        title="A picture, a sound and a word",
        subtitle=joint["about"],
        tokenizers=[_row(name, result, out) for name, result in parts.items()],
        rule=f"{joint['rules']['coherence']}. In brackets the 95% interval, then the share for shuffled conditions.",
        columns=[*joint["classifiers"]],
        rows=[_cells(name, joint) for name in joint["coherence"]],
        named=[(name, joint["rules"][f"classifier of {name}"]) for name in joint["classifiers"]],
        groups=[_group(modalities, example) for example in examples],
        version=__version__,
    )
    return page.encode("ascii", "xmlcharrefreplace").decode()  # a folder's name need not be UTF-8


def _row(name: str, result: Mapping[str, Any], out: Path) -> dict[str, str]:
    figures = [f"{metric} {value:.4g}" for metric, value in result["metrics"].items() if isinstance(value, float)]
    page = Path(os.path.relpath(result["report"], out)).as_posix()
    return {"name": name, "about": result["about"], "figures": ", ".join(figures[:FIGURES]), "page": page}


def _cells(source: str, joint: Mapping[str, Any]) -> dict[str, Any]:
    cells = []
    for other, share in joint["coherence"][source].items():
        low, high = joint["intervals"][source][other]
        control = joint["control"].get(source, {}).get(other)
        beside = "real ones" if control is None else f"shuffled {control:.0%}"
        cells.append({"share": f"{share:.1%}", "said": f"({low:.0%} to {high:.0%}), {beside}"})
    return {"name": source, "cells": cells}


def _group(modalities: "Mapping[str, Modality]", example: "Example") -> dict[str, Any]:
    source, given, generated = example
    parts = [section(f"Given: {source}", "", (modalities[source], given))]
    parts += [section(f"Generated: {other}", "", (modalities[other], samples)) for other, samples in generated.items()]
    return {"title": f"From {source}", "parts": parts}
