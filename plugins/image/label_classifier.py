"""What names pictures: a classifier that a reconstruction or a generated picture has to convince."""

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from vqmm.evaluation.classifier import NOISE, STEPS, PlaneClassifier
from vqmm.utils.errors import UserError

SIDES = 16, 48  # pixels that the classifier sees of a side, at least and at most


class PictureLabelClassifier:
    """Labels pictures (C, H, W), floats in [-1, 1], of any sizes: `LabelClassifier` of the core.

    Each is brought to the median height and width of those it was fitted to, at least 16 and at most 48 pixels.
    """

    def __init__(self, steps: int = STEPS, seed: int = 0, noise: float = NOISE):
        self._classifier = PlaneClassifier(steps, seed, noise)
        self._size = (SIDES[0], SIDES[0])

    @property
    def rule(self) -> str:
        """The network in words, with the height and width that pictures are brought to: known after `fit`."""
        return f"{PlaneClassifier.said}, on pictures brought to {self._size[0]} x {self._size[1]} pixels"

    def fit(self, samples: Sequence[Tensor], labels: Sequence[int]) -> None:
        """Learn from pictures and their labels; the same ones give the same classifier.

        Raises:
            UserError: fewer than two different labels; pictures of different channels.
        """
        if samples:
            sides = zip(*(sample.shape[1:] for sample in samples), strict=True)
            height, width = (min(max(round(median(side)), SIDES[0]), SIDES[1]) for side in sides)
            self._size = (height, width)
        self._classifier.fit(self._planes(samples), labels)

    def predict(self, samples: Sequence[Tensor]) -> list[int]:
        """The likeliest label of each."""
        return self._classifier.predict(self._planes(samples)) if samples else []

    def _planes(self, samples: Sequence[Tensor]) -> Tensor:
        channels = {sample.shape[0] for sample in samples}
        if len(channels) > 1:
            raise UserError(f"pictures of {', '.join(map(str, sorted(channels)))} channels: must all have as many")
        return torch.stack([_resized(sample, self._size) for sample in samples]) if samples else torch.zeros(0, 1, 4, 4)


class PictureFeatures(PictureLabelClassifier):
    """What sets of pictures are compared by: 128 numbers of a classifier of the data at hand.

    It knows classes of this data and nothing else, so its distances compare models of one data set, and are no FID.
    """

    def __init__(self, steps: int = STEPS, seed: int = 0):
        super().__init__(steps, seed, noise=0)  # which would teach it to overlook blur
        self.accuracy: float | None = None

    @property
    def rule(self) -> str:
        """The features in words, with the classifier's accuracy on held-out originals where that is known."""
        known = "" if self.accuracy is None else f", which names {self.accuracy:.1%} of the held-out originals rightly"
        return (
            f"features: the last convolution, averaged over quarters, of a {PlaneClassifier.said} fitted to this "
            f"data's training originals at {self._size[0]} x {self._size[1]} pixels{known}; not Inception's: no FID"
        )

    def features(self, samples: Sequence[Tensor]) -> Tensor:
        """Pictures (C, H, W), of any sizes -> (N, 128)."""
        return self._classifier.features(self._planes(samples))


def _resized(sample: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) -> float32 (C, *size); a picture without pixels is gray."""
    sample = sample.detach().float().cpu()
    if tuple(sample.shape[1:]) == size:
        return sample
    if not sample.numel():
        return torch.zeros(sample.shape[0], *size)
    return F.interpolate(sample[None], size, mode="bilinear", antialias=True)[0]
