"""Do reconstructions, or new samples, look like data? Sets are compared, no sample with a counterpart of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.contracts.features import Features, LearntFeatures
from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.source import Source, label_numbers
from vqmm.evaluation.distances import NEIGHBOURS, frechet_distance, precision_and_recall
from vqmm.evaluation.evaluate import evaluation_views, originals_of
from vqmm.tokenizer.long_signals import evaluation_outputs_long
from vqmm.tokenizer.model import Model
from vqmm.utils.errors import UserError

FEWEST = 10  # samples, of which a distance says anything at all


def realism(
    model: Model,
    source: Source,
    *,
    features: Features | None = None,
    inception: Path | None = None,
    count: int | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Compare held-out originals with their reconstructions, or with as many new samples of a generator, as two sets.

    Args:
        features: what the sets are compared by; by default what the modality offers (`features_of`). Give the same one
            to compare several models.
        inception: weights of the Inception network of torch-fidelity, a file: `fid` and `kid` as well.
        count: the first so many held-out samples, in an even spread; all by default.

    Returns:
        `metrics` and `rules` for `frechet_distance`, `precision`, `recall`, and `fid`, `kid` where asked for.

    Raises:
        UserError: nothing to compare by; too few held-out samples; the weights or the package for them are missing.
    """
    features = features or features_of(model, source, batch_size=batch_size)
    originals, outputs = _both(model, source, count, batch_size)
    original_features, other = features.features(originals), features.features(outputs)
    precision, recall = precision_and_recall(original_features, other)
    what = f"{len(originals):,} held-out originals and {model.produces}"
    rules = {
        "frechet_distance": f"between Gaussians fitted to features of {what}; {features.rule}",
        "precision": f"share of the latter within the {NEIGHBOURS} nearest neighbours of the former; same features",
        "recall": f"share of the former within the {NEIGHBOURS} nearest neighbours of the latter; same features",
    }
    metrics = {"frechet_distance": frechet_distance(original_features, other), "precision": precision, "recall": recall}
    if inception is not None:
        distances = inception_distances(originals, outputs, inception)
        metrics |= distances
        rules |= dict.fromkeys(distances, f"torchmetrics, over Inception features from {inception.name}; {what}")
    return {"metrics": metrics, "rules": rules}


def features_of(model: Model, source: Source, *, batch_size: int = 32) -> Features:
    """What the modality offers, fitted to the source's training part where it learns.

    Raises:
        UserError: it offers nothing; it learns from labels, and the source has fewer than two.
    """
    modality = model.modality
    features = modality.evaluation().features()
    if features is None:
        raise UserError(f"the modality {modality.name!r} offers no features that sets of samples are compared by")
    if not isinstance(features, LearntFeatures):
        return features
    if len(source.labels) < 2:
        raise UserError(
            f"{source.path} has {len(source.labels)} labels: the features that sets of {modality.name!r} are compared "
            "by are those of a classifier, which takes two or more"
        )
    numbers = label_numbers(source.samples, source.labels)
    features.fit(*_labelled(Views(modality, source.training(), numbers), batch_size))
    originals, labels = _labelled(Views(modality, source.held_out(), numbers), batch_size)
    named = features.predict(originals)
    features.accuracy = sum(a == b for a, b in zip(named, labels, strict=True)) / len(labels)
    return features


def _labelled(views: Views, batch_size: int) -> tuple[list[Tensor], list[int]]:
    """Evaluation's views of all samples with a label."""
    views = Views(views.modality, [s for s in views.samples if s.label is not None], views.labels)
    samples, labels = [], []
    for batch, _ in evaluation_batches(views, batch_size):
        if batch is not None and batch.label is not None:
            samples += [each.clone() for each in originals_of(batch)]
            labels += batch.label.tolist()
    if not samples:
        raise UserError("none of the samples with a label can be read")
    return samples, labels


@torch.no_grad()
def _both(model: Model, source: Source, count: int | None, batch_size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Held-out originals, and what the model makes in their place."""
    originals: list[Tensor] = []
    outputs: list[Tensor] = []
    views = evaluation_views(model, source.held_out())
    for batch, _ in evaluation_batches(views, batch_size, count):
        if batch is None:
            continue
        made, _ = evaluation_outputs_long(model, batch.to(model.device))
        originals += [each.clone() for each in originals_of(batch)]
        outputs += [each.cpu() for each in made]
    if len(originals) < FEWEST:
        raise UserError(f"{len(originals)} held-out samples of {source.path}: to compare two sets takes {FEWEST}")
    return originals, outputs


def inception_distances(originals: Sequence[Tensor], outputs: Sequence[Tensor], weights: Path) -> dict[str, float]:
    """`fid` (Heusel et al. 2017) and `kid` (Binkowski et al. 2018) of pictures (C, H, W) in [-1, 1].

    Raises:
        UserError: the file of weights, or the package torch-fidelity that knows the network, is missing.
    """
    if not weights.is_file():
        raise UserError(f"there are no Inception weights at {weights}: give torch-fidelity's file")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        options = {"feature_extractor_weights_path": str(weights), "normalize": True}
        size = min(len(originals), 1000)
        metrics = {
            "fid": FrechetInceptionDistance(**options),
            "kid": KernelInceptionDistance(subset_size=size, **options),
        }
    except ModuleNotFoundError as error:
        raise UserError(f"fid and kid need torch-fidelity ({error}): pip install torch-fidelity") from None
    for real, samples in ((True, originals), (False, outputs)):
        for sample in samples:
            picture = ((sample[:3].float() + 1) / 2).clamp(0, 1).expand(3, -1, -1)[None]  # of RGBA the colours
            for metric in metrics.values():
                metric.update(picture, real=real)
    return {"fid": float(metrics["fid"].compute()), "kid": float(metrics["kid"].compute()[0])}
