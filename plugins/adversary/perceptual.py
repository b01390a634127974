"""How alike two pictures look, with a gradient and without a download; or LPIPS where its weights are on disk."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.utils.errors import UserError

WINDOW = 7  # pixels of a box window: what scikit-image takes, and cheaper than a Gaussian
SCALES = 4  # each half as fine as the one before
SMALL = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # Wang et al. 2004's constants for a range of 2: [-1, 1]
_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def multi_scale_ssim_loss(output: Tensor, target: Tensor) -> Tensor:
    """1 minus structural similarity, the mean over scales: (B, C, *extent) in [-1, 1], any rank.

    Structural similarity: Wang et al. 2004 (doi 10.1109/TIP.2003.819861), equation 13, over boxes of WINDOW samples (or
    the whole axis where that is shorter). Scales: the signal itself, then halved while its shortest axis still holds a
    window, SCALES at most. The mean, not the product of Wang et al. 2003: a product's gradient vanishes where one
    scale is near zero, and is undefined below.
    """
    terms = []
    output, target = output.float(), target.float()
    for scale in range(SCALES):
        if scale:
            output, target = (_POOL[x.ndim - 2](x, 2) for x in (output, target))
        terms.append(1 - _similarity(output, target))
        if min(output.shape[2:]) < 2 * WINDOW:
            break
    return torch.stack(terms).mean()


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    pool, window = _POOL[x.ndim - 2], [min(WINDOW, size) for size in x.shape[2:]]
    mean_x, mean_y, square_x, square_y, product = (pool(v, window, 1) for v in (x, y, x * x, y * y, x * y))
    luminance = (2 * mean_x * mean_y + SMALL[0]) / (mean_x.square() + mean_y.square() + SMALL[0])
    spread = (square_x - mean_x.square()).clamp(min=0) + (square_y - mean_y.square()).clamp(min=0)
    structure = (2 * (product - mean_x * mean_y) + SMALL[1]) / (spread + SMALL[1])
    return (luminance * structure).mean()


def lpips_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924) over AlexNet, from weights on disk: pictures (B, 3, H, W) in [-1, 1].

    Raises:
        UserError: the package `lpips` is not installed; AlexNet's weights are not where torchvision keeps them.
    """
    try:
        lpips: Any = import_module("lpips")
        weights: Any = import_module("torchvision.models").AlexNet_Weights.IMAGENET1K_V1
    except ImportError as error:
        raise UserError(
            f"adversary.perceptual: lpips needs the packages lpips and torchvision ({error}): pip install lpips, or "
            "take ssim, which needs nothing"
        ) from None
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        raise UserError(
            f"adversary.perceptual: lpips needs AlexNet's weights, and {file} is not there: put them there "
            f"({weights.url}), or take ssim, which needs nothing"
        )
    network: Any = lpips.LPIPS(net="alex", verbose=False)
    network.eval().requires_grad_(False)
    held: list[nn.Module] = [network]  # in a list it is no part of whoever calls it: no weight of a run

    def distance(output: Tensor, target: Tensor) -> Tensor:
        held[0] = held[0].to(output.device)
        generated, other = (x.float().expand(-1, 3, -1, -1) for x in (output, target))
        return held[0](generated, other).mean()

    return distance
