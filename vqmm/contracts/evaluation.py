"""Evaluation: what a modality says about evaluating, comparing and showing its samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from vqmm.contracts.baseline import Baseline
    from vqmm.contracts.features import Features
    from vqmm.contracts.labels import LabelClassifier
    from vqmm.contracts.metric import Metric


class Evaluation:
    """How samples of one kind are evaluated and shown; `Modality.evaluation` makes one.

    Everything has a default that suits any signal. A subclass replaces what it knows better, and takes in its
    constructor what it needs of the modality: its sample rate, say. Ready metrics: `vqmm.contracts.metric` has
    `basic_metrics`, `vqmm.plugins.image.metrics` has `picture_metrics` (PSNR and SSIM).

    Attributes:
        main_metric: the metric that a progress line shows and that picks the best checkpoint.
        rate_unit: rates are reported in bits per this.
    """

    main_metric: ClassVar[str] = "nmse"
    rate_unit: ClassVar[str] = "sample"

    @property
    def view(self) -> str:
        """What `Modality.crop` shows in evaluation, in words."""
        return "whole samples"

    def metrics(self) -> "dict[str, Metric]":
        """Fresh metrics by metric name; each compares finished samples with originals and states its rule."""
        from vqmm.contracts.metric import basic_metrics

        return basic_metrics()

    def size_in_units(self, sample: Tensor) -> float:
        """How much of `rate_unit` a sample (C, *extent) of a batch is: pixels, seconds, characters. 1 for "sample"."""
        return 1.0

    def show(self, *rows: Sequence[Tensor], names: Sequence[str] | None = None) -> "Image | str":
        """A picture or HTML fragment of rows of samples: originals over reconstructions, say.

        `names`: of the rows, for what names them; a picture does not.
        """
        from vqmm.contracts.show import heatmaps

        return heatmaps(rows)

    def label_classifier(self) -> "LabelClassifier | None":
        """A fresh classifier of samples, to see whether labels survive a reconstruction; None: there is none."""
        return None

    def features(self) -> "Features | None":
        """What sets of samples are compared by, fresh (`vqmm.evaluation.realism`); None: there is nothing."""
        return None

    def baselines(self) -> "Sequence[Baseline]":
        """What people would use without a network, fresh: `vqmm compare` puts it beside the recipes."""
        return ()
