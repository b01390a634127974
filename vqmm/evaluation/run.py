"""`vqmm eval`: the metrics of a run on held-out data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.source import Source, judged, label_numbers
from vqmm.errors import UserError
from vqmm.evaluation.evaluate import evaluate, write_shown
from vqmm.registry import Registry
from vqmm.tokenizer import Tokenizer


def eval(
    run: str | Path,
    data: str | Path,
    *,
    whole: bool = False,
    show: str | Path | None = None,
    batch_size: int = 32,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Judge a run's reconstructions.

    Looks at the source's own test split; at all of a source that was not trained on; else at its held-out tenth.

    Args:
        whole: samples uncropped, and judged as a decoded file would hold them (8-bit rounding of pictures).
        show: write originals over reconstructions there (a name without suffix).

    Returns:
        `metrics`, with a `rules` entry for each, and `split`, `view`, `count`: what was looked at.
    """
    tokenizer = Tokenizer.load(Path(run), Registry.discover(plugins))
    source = Source(tokenizer.modality, data)
    samples, split = judged(source, trained_on(Path(run)))
    labels = label_numbers(samples, tokenizer.labels) if tokenizer.label_embedding is not None else {}
    views = Views(tokenizer.modality, samples, labels, whole=whole)
    found = evaluate(tokenizer, evaluation_batches(views, 1 if whole else batch_size), as_written=whole)
    if not found.count:
        raise UserError(f"none of the {len(samples)} samples of {data} can be read; the first: {found.unreadable[0]}")
    view = "whole samples, as written to a file" if whole else tokenizer.modality.view
    told = {"run": str(run), "data": source.path, "split": split, "view": view, **found.as_dict()}
    if show is not None:
        told["shown"] = str(write_shown(tokenizer.modality, found.shown, Path(show)))
    return told


def trained_on(run: Path) -> str | None:
    """The data that a run's recipe names; None for a tokenizer's folder on its own."""
    recipe = run / "recipe.yaml"
    return yaml.safe_load(recipe.read_text(encoding="utf-8")).get("data") if recipe.is_file() else None
