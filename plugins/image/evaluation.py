"""How pictures are evaluated, compared and shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

import vqmm
from vqmm.plugins.image import files

if TYPE_CHECKING:
    from PIL import Image as Pillow

    from vqmm.contracts.features import Features
    from vqmm.contracts.labels import LabelClassifier
    from vqmm.contracts.metric import Metric


class ImageEvaluation(vqmm.Evaluation):
    """Of pictures (C, H, W) in [-1, 1].

    Args:
        size: height and width of a view, in pixels.
    """

    main_metric: ClassVar[str] = "psnr_db"
    rate_unit: ClassVar[str] = "pixel"

    def __init__(self, size: tuple[int, int]):
        self.size = size

    @property
    def view(self) -> str:
        """What an evaluation uses, in words: a centre crop of at most `size` pixels."""
        return f"centre crop of at most {self.size[0]} x {self.size[1]} pixels"

    def metrics(self) -> "dict[str, Metric]":
        """MSE and NMSE over all values, brought to [0, 1]; PSNR (dB) and SSIM of each picture, then the mean."""
        from vqmm.contracts.metric import basic_metrics
        from vqmm.plugins.image.metrics import picture_metrics

        return {**basic_metrics(to_unit, "[0, 1]"), **picture_metrics(to_unit)}

    def size_in_units(self, sample: Tensor) -> float:
        """Pixels of a sample (C, H, W): H * W."""
        return float(sample[0].numel())

    def show(self, *rows: Sequence[Tensor], names: Sequence[str] | None = None) -> "Pillow.Image":
        """Small pictures are enlarged, without smoothing; very large ones are shrunk."""
        smallest = min((min(s.shape[1:]) for row in rows for s in row), default=96)
        pictures = [[files.to_bytes(s) for s in row] for row in rows]
        return files.grid_picture(pictures, zoom=max(1, 96 // max(smallest, 1)))

    def label_classifier(self) -> "LabelClassifier":
        """A `PictureLabelClassifier`, a small convolutional network."""
        from vqmm.plugins.image.label_classifier import PictureLabelClassifier

        return PictureLabelClassifier()

    def features(self) -> "Features":
        """`PictureFeatures`: 128 numbers per picture, from a classifier that is fitted to the data at hand first."""
        from vqmm.plugins.image.label_classifier import PictureFeatures

        return PictureFeatures()


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (x + 1) / 2
