"""Scores of single pictures, and their mean over many."""

from collections.abc import Callable

import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from vqmm.contracts.metric import Metric

PSNR_LIMIT_DB = 100.0  # of a perfect picture, whose true score, infinity, would drown all others
SIGMA = 1.5  # pixels, of SSIM's Gaussian window (Wang et al. 2004),
WINDOW = 11  # and what torchmetrics cuts it to
MIRRORED = WINDOW // 2 + 1


def picture_metrics(prepare: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, Metric]:
    """Fresh `psnr_db` and `ssim`, each the mean over pictures.

    Args:
        prepare: brings a stack of samples to pictures (n, C, H, W) in [0, 1]; those of a film may be its frames.
    """
    return {
        "psnr_db": Metric(
            PictureMean(psnr_db),
            f"of each picture, then the mean over pictures; range [0, 1], a perfect one counts {PSNR_LIMIT_DB:g}",
            True,
            prepare,
        ),
        "ssim": Metric(
            PictureMean(ssim),
            f"of each picture, then the mean over pictures; range [0, 1], Gaussian window of {WINDOW} pixels, "
            f"sigma {SIGMA}, borders mirrored (sides under {MIRRORED} pixels: last one repeated)",
            True,
            prepare,
        ),
    }


class PictureMean(torchmetrics.Metric):
    """The mean over pictures of a score: a function of two stacks (n, C, H, W) that gives (n,)."""

    full_state_update = False
    higher_is_better = True

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score
        for name in ("total", "count"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Add the scores of the pictures: outputs and originals (n, C, H, W)."""
        self.total += self.score(outputs, originals).double().sum()
        self.count += len(outputs)

    def compute(self) -> Tensor:
        """float64 scalar in the unit of the score, the mean over all pictures; NaN if there were none."""
        return self.total / self.count


def psnr_db(outputs: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of pictures in [0, 1]."""
    error = (outputs - originals).square().flatten(1).mean(dim=1)
    return -10 * error.clamp(min=10 ** (-PSNR_LIMIT_DB / 10)).log10()


def ssim(outputs: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity of pictures in [0, 1], their borders mirrored.

    Mirroring fills the window from MIRRORED pixels on: shorter sides are brought there by repeating their last pixel.
    """
    below, right = (max(MIRRORED - side, 0) for side in outputs.shape[2:])
    x, y = (F.pad(pictures, (0, right, 0, below), mode="replicate") for pictures in (outputs, originals))
    return structural_similarity_index_measure(x, y, data_range=1.0, sigma=SIGMA, reduction="none")
