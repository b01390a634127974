"""Critics: stacks of strided convolutions over a signal, over its spectra, over its folds, over its tokens.

None mixes samples of a batch, so a sample's score does not depend on its company.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from vqmm.contracts.adversary import CriticOutput
from vqmm.nn import ChannelNorm

SLOPE = 0.2  # of the leaky rectifier for negative values
MOST = 8  # times the first width: the widest layer (Isola et al. 2017, arXiv 1611.07004)
_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class SpectralNormalized(nn.Module):
    """A weight divided by its largest singular value (Miyato et al. 2018, arXiv 1802.05957).

    The singular vectors move in `turn` alone, one step of power iteration, and never in a forward: how many forwards a
    process had makes no difference to what it holds.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, turns: int = 10):
        super().__init__()
        rows = weight.detach().flatten(1)
        self.register_buffer("left", F.normalize(torch.randn(len(rows)), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(rows.shape[1]), dim=0))
        for _ in range(turns):
            self.turn(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """weight (outputs, ...) over its largest singular value, as the two vectors estimate it; without autocast."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight / (self.left @ weight.flatten(1) @ self.right).clamp(min=1e-12)

    @torch.no_grad()
    def turn(self, weight: Tensor) -> None:
        """Bring the vectors closer to those of the largest singular value."""
        rows = weight.detach().flatten(1)
        self.right.copy_(F.normalize(self.left @ rows, dim=0))
        self.left.copy_(F.normalize(rows @ self.right, dim=0))


def spectral(module: nn.Module) -> nn.Module:
    """With every convolution's weight divided by its largest singular value."""
    for each in [each for each in module.modules() if isinstance(each, nn.Conv1d | nn.Conv2d | nn.Conv3d)]:
        parametrize.register_parametrization(each, "weight", SpectralNormalized(each.weight))
    return module


def turn(module: nn.Module) -> None:
    """One step of power iteration in all that `spectral` has changed."""
    for each in module.modules():
        if isinstance(each, parametrize.ParametrizationList) and isinstance(each[0], SpectralNormalized):
            each[0].turn(each.original)


class Trunk(nn.Module):
    """Strided convolutions that end in a map of scores: a PatchGAN critic (Isola et al. 2017) of any rank.

    x (B, inputs, *extent) -> scores (B, 1, *grid), each of a patch, and the features of every layer. An axis of extent
    n has ceil(n / stride^layers) scores; any extent from 1 on will do.

    With labels a patch's score has the inner product of its last features with the label's embedding added: projection
    (Miyato and Koyama 2018, arXiv 1802.05637).

    Args:
        kernel, stride: of the layers that divide, for each axis; kernel - stride is even.
        layers: how many divide.
    """

    def __init__(
        self, inputs: int, width: int, layers: int, kernel: Sequence[int], stride: Sequence[int], labels: int = 0
    ):
        super().__init__()
        rank = len(kernel)
        self.stride = tuple(stride)
        widths = [inputs, *(min(width << level, width * MOST) for level in range(layers))]
        pad = tuple((k - s) // 2 for k, s in zip(kernel, stride, strict=True))
        self.layers = nn.ModuleList()
        for level in range(layers):
            norm = [ChannelNorm(widths[level + 1])] if level else []  # the first sees the data as they are
            step = _CONV[rank](widths[level], widths[level + 1], tuple(kernel), self.stride, padding=pad)
            self.layers.append(nn.Sequential(step, *norm, nn.LeakyReLU(SLOPE)))
        flat = tuple(3 if s > 1 else 1 for s in stride)
        last = _CONV[rank](widths[-1], widths[-1], flat, padding=tuple(k // 2 for k in flat))
        self.last = nn.Sequential(last, ChannelNorm(widths[-1]), nn.LeakyReLU(SLOPE))
        self.head = _CONV[rank](widths[-1], 1, 1)
        self.embedding = nn.Embedding(labels, widths[-1]) if labels else None
        if self.embedding is not None:
            nn.init.zeros_(self.embedding.weight)  # labels tell nothing at first; rows of length 1 would drown the head

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """x (B, inputs, *extent) -> scores (B, 1, *grid), and the features of every layer, each (B, channels, *grid).

        label int64 (B,): required if the trunk was made with labels, else ignored.
        """
        features = []
        for layer in self.layers:
            x = layer(_filled(x, self.stride))
            features.append(x)
        x = self.last(x)
        score = self.head(x)
        if self.embedding is not None:
            embedded = self.embedding(label)
            score = score + (x * embedded.reshape(*embedded.shape, *[1] * (x.ndim - 2))).sum(dim=1, keepdim=True)
        return score, [*features, x]


class Spectra(nn.Module):
    """A `Trunk` over the complex short-time spectrum of one window: EnCodec's critic (Defossez et al. 2022, arXiv
    2210.13438, section 3.4). x (B, C, T); shorter signals are followed by zeros."""

    hann: Tensor

    def __init__(self, channels: int, window: int, width: int, layers: int, labels: int = 0):
        super().__init__()
        self.window = window
        self.trunk = Trunk(2 * channels, width, layers, (4, 4), (2, 2), labels)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """x (B, C, T) -> scores (B, 1, *grid) over frequency and time, and the features of every layer.

        The transform runs in float32 with a hop of window / 4; samples after the last whole window are not seen.
        """
        with torch.autocast(x.device.type, enabled=False):
            line = F.pad(x.float(), (0, max(self.window - x.shape[-1], 0))).flatten(0, 1)
            spectrum = torch.stft(
                line,
                self.window,
                self.window // 4,
                window=self.hann,
                center=False,
                normalized=True,
                return_complex=True,
            )
        parts = torch.view_as_real(spectrum).movedim(-1, 1)  # (B C, 2, bins, frames)
        return self.trunk(parts.reshape(len(x), -1, *parts.shape[2:]), label)


class Period(nn.Module):
    """A `Trunk` over a signal folded into rows of `period` samples: HiFi-GAN's critic (Kong et al. 2020, arXiv
    2010.05646, section 2.3), which looks down the columns alone. x (B, C, T)."""

    def __init__(self, channels: int, period: int, width: int, layers: int, labels: int = 0):
        super().__init__()
        self.period = period
        self.trunk = Trunk(channels, width, layers, (5, 1), (3, 1), labels)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """x (B, C, T), zero-padded to a multiple of the period -> scores (B, 1, rows, period), and the features."""
        return self.trunk(_filled(x, (self.period,)).unflatten(-1, (-1, self.period)), label)


class Tokens(nn.Module):
    """A `Trunk` over soft embeddings: probabilities of ids (B, ids, T), each position the mean of the ids' vectors."""

    def __init__(self, ids: int, width: int, layers: int, labels: int = 0):
        super().__init__()
        self.embedding = nn.Conv1d(ids, width, 1, bias=False)
        nn.init.normal_(self.embedding.weight)  # as an embedding of single ids would be: rows of length sqrt(width)
        self.trunk = Trunk(width, width, layers, (4,), (2,), labels)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """x (B, ids, T), probabilities or one-hot vectors -> scores (B, 1, grid), and the features of every layer."""
        return self.trunk(self.embedding(x), label)


class Panel(nn.ModuleList):
    """Several critics of one signal."""

    def forward(self, x: Tensor, label: Tensor | None = None) -> CriticOutput:
        """x (B, C, *extent), label int64 (B,) or None -> the scores of each critic, and the features of all."""
        outputs = [critic(x, label) for critic in self]
        return CriticOutput(tuple(score for score, _ in outputs), tuple(each for _, inner in outputs for each in inner))


def _filled(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Zeros after each axis, up to a multiple of its stride."""
    missing = [n for size, s in zip(reversed(x.shape[2:]), reversed(stride), strict=True) for n in (0, -size % s)]
    return F.pad(x, missing) if any(missing) else x
