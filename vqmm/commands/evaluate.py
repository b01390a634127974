"""`vqmm eval`: the metrics of a run on held-out data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vqmm.data.degrade import Degradation, read_degradation
from vqmm.data.loader import evaluation_batches
from vqmm.data.source import Source, evaluation_samples
from vqmm.evaluation.evaluate import evaluate, evaluation_views, write_shown
from vqmm.evaluation.labels import label_survival
from vqmm.evaluation.realism import realism as compare_sets
from vqmm.registry import Registry
from vqmm.tokenizer.loading import load_model
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_writable


def eval(
    run: str | Path,
    data: str | Path,
    *,
    whole: bool = False,
    show: str | Path | None = None,
    stages: int | None = None,
    labels: bool = False,
    realism: bool = False,
    inception: str | Path | None = None,
    batch_size: int = 32,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate a run's reconstructions; of a run from noise its new samples, by what `labels` and `realism` ask for.

    Looks at the source's own test split; at all of a source that was not trained on; else at its held-out tenth. A run
    that learnt to undo a degradation (`train.degrade`) is given samples degraded in that way, a function of their keys
    alone, and evaluated against the clean ones.

    Args:
        whole: samples uncropped, and evaluated as a decoded file would hold them (8-bit rounding of pictures).
        show: write originals over reconstructions there (a name without suffix); of a run with a degradation, what it
            was given, its reconstructions and the originals.
        stages: use only the first so many codes of each position: a residual quantizer's lower rates.
        labels: say whether labels survive as well (`label_survival`): a classifier is fitted to the source's training
            part first.
        realism: compare originals and reconstructions as two sets as well (`vqmm.evaluation.realism`); on training
            views, `whole` or not.
        inception: weights of torch-fidelity's Inception network: `fid` and `kid` with `realism`.

    Returns:
        `metrics`, with a `rules` entry for each, and `split`, `view`, `count`: what was looked at; `degrade`: the
        degradation with its options, or None.
    """
    if show is not None:
        must_be_writable(Path(show), "the picture")
    model = load_model(Path(run), Registry.discover(plugins))
    model.require_stages(stages)
    source = Source(model.modality, data)
    samples, split = evaluation_samples(source, trained_on(Path(run)))
    degrade = degradation_of(Path(run))
    views = evaluation_views(model, samples, whole=whole, degrade=degrade)
    batch_size = 1 if whole else batch_size
    survival: dict[str, Any] = {}
    if labels:  # first: what is wrong with them is known at once
        survival = label_survival(model, source, whole=whole, stages=stages, degrade=degrade, batch_size=batch_size)
    sets: dict[str, Any] = {}
    if realism:
        sets = compare_sets(model, source, inception=None if inception is None else Path(inception))
    evaluation = evaluate(model, evaluation_batches(views, batch_size), as_written=whole, stages=stages)
    if not evaluation.count:
        raise UserError(
            f"none of the {len(samples)} samples of {data} can be read; the first: {evaluation.unreadable[0]}"
        )
    if labels:
        evaluation.metrics |= survival["metrics"]
        evaluation.rules |= survival["rules"]
        evaluation.unreadable = [*dict.fromkeys(evaluation.unreadable + survival["unreadable"])]
    if realism:
        evaluation.metrics |= sets["metrics"]
        evaluation.rules |= sets["rules"]
    view = "whole samples, as written to a file" if whole else model.modality.evaluation().view
    if degrade is not None:
        view = f"{view}, {degrade.said}"
    options = None if degrade is None else degrade.model_dump(mode="json")
    result = {
        "run": str(run),
        "data": source.path,
        "split": split,
        "view": view,
        "degrade": options,
        **evaluation.as_dict(),
    }
    if show is not None:
        result["shown"] = str(write_shown(model.modality, evaluation, Path(show)))
    return result


def trained_on(run: Path) -> str | None:
    """The data that a run's recipe names; None for a tokenizer's folder on its own."""
    return _recipe_of(run).get("data")


def degradation_of(run: Path) -> Degradation | None:
    """What a run's recipe says its inputs went through; None for a tokenizer's folder on its own."""
    return read_degradation((_recipe_of(run).get("train") or {}).get("degrade"))


def _recipe_of(run: Path) -> dict[str, Any]:
    recipe = run / "recipe.yaml"
    return yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
