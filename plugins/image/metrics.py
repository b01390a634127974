"""Scores of single pictures, and their mean over many."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

PSNR_LIMIT_DB = 100.0  # of a perfect picture, whose true score, infinity, would drown all others
WINDOW, SIGMA = 11, 1.5  # pixels; of SSIM as Wang et al. (2004) define it


class PictureMean(Metric):
    """The mean over pictures of a score: a function of two stacks (n, C, H, W) that gives (n,)."""

    full_state_update = False
    higher_is_better = True

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score
        for name in ("total", "count"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        self.total += self.score(outputs, originals).double().sum()
        self.count += len(outputs)

    def compute(self) -> Tensor:
        return self.total / self.count


def psnr_db(outputs: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of pictures in [0, 1]."""
    error = (outputs - originals).square().flatten(1).mean(dim=1)
    return -10 * error.clamp(min=10 ** (-PSNR_LIMIT_DB / 10)).log10()


def ssim(outputs: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity of pictures in [0, 1], averaged over channels and over every place where the window fits.

    Along a side shorter than the window, the window has the largest odd number of pixels that fits.
    """
    down, across = (_window(side).to(outputs) for side in outputs.shape[2:])

    def blur(planes: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(planes, down.reshape(1, 1, -1, 1)), across.reshape(1, 1, 1, -1))

    x, y = (pictures.flatten(0, 1).unsqueeze(1) for pictures in (outputs, originals))
    mean_x, mean_y = blur(x), blur(y)
    variance_x = (blur(x * x) - mean_x.square()).clamp(min=0)
    variance_y = (blur(y * y) - mean_y.square()).clamp(min=0)
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    largest = (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return (likeness / largest).reshape(len(outputs), -1).mean(dim=1)


def _window(side: int) -> Tensor:
    size = min(WINDOW, side - 1 + side % 2)
    weights = torch.exp(-0.5 * ((torch.arange(size) - size // 2) / SIGMA).square())
    return weights / weights.sum()
