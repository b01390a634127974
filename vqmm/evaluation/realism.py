"""Do reconstructions, or new samples, look like data? Sets are compared, no sample with a counterpart of its own."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vqmm.chunks import reconstruct_long
from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.source import Source, label_numbers
from vqmm.errors import UserError
from vqmm.evaluation.classifier import AT_ONCE, PlaneClassifier
from vqmm.evaluation.distances import NEIGHBOURS, frechet_distance, precision_and_recall
from vqmm.evaluation.evaluate import originals_of
from vqmm.tokenizer import Tokenizer

SIDES = 16, 48  # pixels that a picture is brought to, at least and at most
FEWEST = 10  # samples, of which a distance says anything at all


class Features(Protocol):
    """What turns samples into vectors. A modality may offer one, as a method `features()`; pictures have one here."""

    @property
    def rule(self) -> str:
        """What it is, in words."""
        ...

    def features(self, samples: Sequence[Tensor]) -> Tensor:
        """Finished samples (C, *extent), of any extents -> (N, D)."""
        ...


class PictureFeatures(PlaneClassifier):
    """The last convolution of a small classifier of the data set at hand, averaged over each quarter: 128 numbers.

    It knows classes of this data and nothing else, so its distances compare models of one data set, and are no FID.
    """

    def __init__(self, steps: int = 1500, seed: int = 0):
        super().__init__(steps, seed, noise=0)  # which would teach it to overlook blur
        self.size = (SIDES[0], SIDES[0])
        self.accuracy: float | None = None

    @property
    def rule(self) -> str:
        known = "" if self.accuracy is None else f", which names {self.accuracy:.1%} of the held-out originals rightly"
        return (
            f"features: the last convolution, averaged over quarters, of a {self.said} fitted to this data's training "
            f"originals at {self.size[0]} x {self.size[1]} pixels{known}; not Inception's: no FID"
        )

    def learn(self, samples: Sequence[Tensor], labels: Sequence[int]) -> None:
        """From pictures (C, H, W) in [-1, 1] and their labels. A `UserError` for one label."""
        sides = zip(*(sample.shape[1:] for sample in samples), strict=True)
        height, width = (min(max(round(median(side)), SIDES[0]), SIDES[1]) for side in sides)
        self.size = (height, width)
        self.fit(self.planes(samples), labels)

    def planes(self, samples: Sequence[Tensor]) -> Tensor:
        """float32 (N, C, *size)."""
        return torch.cat(
            [F.interpolate(s[None].float().cpu(), self.size, mode="bilinear", antialias=True) for s in samples]
        )

    @torch.no_grad()
    def features(self, samples: Sequence[Tensor]) -> Tensor:
        network = self._network[:-3]  # without what flattens, drops and names
        found = [network(self._scaled(some)) for some in self.planes(samples).split(AT_ONCE)]
        return torch.cat([F.adaptive_avg_pool2d(each, 2).flatten(1) for each in found])


def realism(
    tokenizer: Tokenizer,
    source: Source,
    *,
    features: Features | None = None,
    inception: Path | None = None,
    count: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare held-out originals with their reconstructions, or of a GAN with as many new samples, as two sets.

    Args:
        features: what the sets are compared by; by default what the modality offers (`Features`), of labelled pictures
            a classifier fitted to the source's training part. Give the same one to compare several tokenizers.
        inception: weights of the Inception network of torch-fidelity, a file: `fid` and `kid` as well.
        count: the first so many held-out samples, in an even spread; all by default.

    Returns:
        `metrics` and `rules` for `frechet_distance`, `precision`, `recall`, and `fid`, `kid` where asked for.

    Raises:
        UserError: nothing to compare by; too few held-out samples; the weights or the package for them are missing.
    """
    features = features or features_of(tokenizer, source, seed=seed, batch_size=batch_size)
    originals, outputs = _both(tokenizer, source, count, batch_size)
    one, other = features.features(originals), features.features(outputs)
    precision, recall = precision_and_recall(one, other)
    what = f"{len(originals):,} held-out originals and {'new samples' if tokenizer.draws else 'reconstructions'}"
    rules = {
        "frechet_distance": f"between Gaussians fitted to features of {what}; {features.rule}",
        "precision": f"share of the latter within the {NEIGHBOURS} nearest neighbours of the former; same features",
        "recall": f"share of the former within the {NEIGHBOURS} nearest neighbours of the latter; same features",
    }
    metrics = {"frechet_distance": frechet_distance(one, other), "precision": precision, "recall": recall}
    if inception is not None:
        found = inception_distances(originals, outputs, inception)
        metrics |= found
        rules |= dict.fromkeys(found, f"torchmetrics, over Inception features from {inception.name}; {what}")
    return {"metrics": metrics, "rules": rules}


def features_of(
    tokenizer: Tokenizer, source: Source, *, seed: int = 0, steps: int = 1500, batch_size: int = 32
) -> Features:
    """What the modality offers, or a classifier of the source's labelled pictures. A `UserError` for others."""
    modality = tokenizer.modality
    offer = getattr(modality, "features", None)
    offered: Features | None = None if offer is None else offer()
    if offered is not None:
        return offered
    if modality.rank != 2 or modality.ids is not None:
        raise UserError(f"the modality {modality.name!r} offers no features that sets of samples are compared by")
    if len(source.labels) < 2:
        raise UserError(
            f"{source.path} has {len(source.labels)} labels: the features that sets of pictures are compared by are "
            "those of a classifier, which takes two or more; or give Inception weights"
        )
    numbers = label_numbers(source.samples, source.labels)
    learnt = PictureFeatures(steps, seed)
    learnt.learn(*_labelled(Views(modality, source.training(), numbers), batch_size))
    originals, labels = _labelled(Views(modality, source.held_out(), numbers), batch_size)
    named = learnt.predict(learnt.planes(originals))
    learnt.accuracy = sum(a == b for a, b in zip(named, labels, strict=True)) / len(labels)
    return learnt


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
def _both(
    tokenizer: Tokenizer, source: Source, count: int | None, batch_size: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Held-out originals, and what the tokenizer makes in their place."""
    conditions = label_numbers(source.samples, tokenizer.labels) if tokenizer.label_embedding is not None else {}
    originals: list[Tensor] = []
    outputs: list[Tensor] = []
    views = Views(tokenizer.modality, source.held_out(), conditions)
    for batch, _ in evaluation_batches(views, batch_size, count):
        if batch is None:
            continue
        batch = batch.to(tokenizer.device)
        if tokenizer.draws:
            made, _ = tokenizer.reconstruct(batch, seed=len(outputs))
        else:
            made, _ = reconstruct_long(tokenizer, batch)
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

        told = {"feature_extractor_weights_path": str(weights), "normalize": True}
        size = min(len(originals), 1000)
        metrics = {"fid": FrechetInceptionDistance(**told), "kid": KernelInceptionDistance(subset_size=size, **told)}
    except ModuleNotFoundError as error:
        raise UserError(f"fid and kid need torch-fidelity ({error}): pip install torch-fidelity") from None
    for real, samples in ((True, originals), (False, outputs)):
        for sample in samples:
            picture = ((sample[:3].float() + 1) / 2).clamp(0, 1).expand(3, -1, -1)[None]  # of RGBA the colours
            for metric in metrics.values():
                metric.update(picture, real=real)
    return {"fid": float(metrics["fid"].compute()), "kid": float(metrics["kid"].compute()[0])}
