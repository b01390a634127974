"""Distributions of a sample's channels given features of its position, each channel given those before it.

Both kinds work on *levels*, integers that stand for what a sample can be, and have the same face:

    levels = likelihood.levels(x)               # int64 (B, C, *extent)
    likelihood.embed(levels)                    # (B, inputs, *extent): how a network sees them
    likelihood.bits(features, levels)           # (B, *extent), -log2 p of all channels of a position together
    likelihood.draw(features, noise, 1.0)       # (B, C) levels for features (B, width), from uniform noise (B, draws)
    likelihood.values(levels)                   # the samples again
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.pointwise import Pointwise

WIDEST = 7.0  # log of the largest scale: a logistic that wide is flat on [-1, 1]


class Logistics(nn.Module):
    """A mixture of logistics cut into `count` bins, evenly spaced on [-1, 1]; the outermost take the tails.

    Salimans et al. 2017 (PixelCNN++, arXiv 1701.05517, sections 2.1 and 2.2), for any number of channels: all choose
    one component, and the mean of channel c is shifted by a linear function of the channels before it.

    Args:
        channels: C, at least 1.
        width: channels of the features that the parameters are made from.
        count: bins, at least 2: 256 for bytes, 65,536 for 16-bit audio.
        mixtures: components, at least 1.
    """

    def __init__(self, channels: int, width: int, count: int, mixtures: int):
        super().__init__()
        if min(channels, mixtures) < 1 or count < 2:
            raise ValueError(f"Logistics: {channels} channels, {count} bins, {mixtures} components: at least 1, 2, 1")
        self.channels, self.count, self.mixtures = channels, count, mixtures
        self.inputs, self.draws = channels, 1 + channels
        self.half_bin = 1 / (count - 1)  # from the middle of a bin to its ends
        # much narrower than a bin makes no difference to what is likely, only to the gradient's size
        self.narrowest = math.log(self.half_bin) - 1
        self.pairs = [*itertools.combinations(range(channels), 2)]
        self.head = Pointwise(width, mixtures * (1 + 2 * channels + len(self.pairs)))
        with torch.no_grad():  # components start side by side, each as wide as its share
            bias = self.head.bias.zero_().view(mixtures, -1)
            bias[:, 1 : 1 + channels] = ((torch.arange(mixtures) + 0.5) / mixtures * 2 - 1).unsqueeze(1)
            bias[:, 1 + channels : 1 + 2 * channels] = math.log(1 / mixtures) - self.narrowest

    def levels(self, x: Tensor) -> Tensor:
        """Floats near [-1, 1] -> the nearest level of each."""
        return ((x.float().clamp(-1, 1) + 1) / (2 * self.half_bin)).round().long()

    def values(self, levels: Tensor) -> Tensor:
        """levels (B, C, *extent) -> the middle of each bin in [-1, 1], float32; level 0 is -1, the last one 1."""
        return levels * (2 * self.half_bin) - 1

    def embed(self, levels: Tensor) -> Tensor:
        """levels (B, C, *extent) -> (B, C, *extent): a network sees the values."""
        return self.values(levels)

    def _mixture(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """features (B, width, *extent) -> logits (B, M, N), mean and log scale (B, M, C, N), slope (B, M, pairs, N)."""
        with torch.autocast(features.device.type, enabled=False):
            made = self.head(features.float().flatten(2)).unflatten(1, (self.mixtures, -1))
        c = self.channels
        logits, mean, scale, slope = made.split([1, c, c, len(self.pairs)], dim=2)
        scale = (self.narrowest + F.softplus(scale)).clamp(max=WIDEST)
        return logits.squeeze(2), mean, scale, slope.tanh()

    def bits(self, features: Tensor, levels: Tensor) -> Tensor:
        """features (B, width, *extent), levels (B, C, *extent) -> (B, *extent): -log2 p, channels together."""
        logits, mean, scale, slope = self._mixture(features)
        levels = levels.flatten(2).unsqueeze(1)  # (B, 1, C, N)
        x = self.values(levels)
        if self.pairs:
            means = [*mean.unbind(dim=2)]
            for pair, (before, c) in enumerate(self.pairs):
                means[c] = means[c] + slope[:, :, pair] * x[:, :, before]
            mean = torch.stack(means, dim=2)
        # with a > b the ends of a bin in units of the scale, sigmoid(a) - sigmoid(b) is the product of sigmoid(a),
        # sigmoid(-b) and 1 - exp(b - a): no difference of nearly equal numbers, so no tail is too far out
        sharp = (-scale).exp()
        distance, half = (x - mean) * sharp, self.half_bin * sharp
        below, above = F.logsigmoid(distance + half), F.logsigmoid(half - distance)
        inside = below + above + (-torch.expm1(-2 * half)).log()
        log_p = torch.where(levels == 0, below, torch.where(levels == self.count - 1, above, inside))
        joint = torch.logsumexp(logits.log_softmax(dim=1) + log_p.sum(dim=2), dim=1)
        return -joint.unflatten(1, features.shape[2:]) / math.log(2)

    def draw(self, features: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """features (B, width), noise (B, draws) uniform in [0, 1) -> levels (B, C).

        The temperature scales the logits of the components and the width of the chosen one; at 0 it is the likeliest
        component's mean.
        """
        parts = self._mixture(features.unsqueeze(2))
        chosen = pick(parts[0].squeeze(2), noise[:, 0], temperature)
        row = torch.arange(len(chosen), device=chosen.device)
        mean, scale, slope = (part[row, chosen] for part in parts[1:])
        u = noise[:, 1:].clamp(1e-6, 1 - 1e-6)
        spread = temperature * scale.squeeze(2).exp() * (u.log() - (-u).log1p())
        means, levels = [*mean.squeeze(2).unbind(dim=1)], []
        for c in range(self.channels):
            levels.append(self.levels(means[c] + spread[:, c]))
            for pair, (before, then) in enumerate(self.pairs):
                if before == c:
                    means[then] = means[then] + slope[:, pair, 0] * self.values(levels[c])
        return torch.stack(levels, dim=1)


class Categorical(nn.Module):
    """A probability for each of `count` ids; the logits of channel c see the ids of the channels before it.

    Args:
        channels: C, at least 1.
        width: channels of the features that the logits are made from.
        count: how many ids there are, each in [0, count).
    """

    def __init__(self, channels: int, width: int, count: int, inputs: int = 32):
        super().__init__()
        if min(channels, count) < 1:
            raise ValueError(f"Categorical: {channels} channels of {count} ids: at least 1 of each")
        self.channels, self.count, self.inputs, self.draws = channels, count, inputs, channels
        self.embeddings = nn.ModuleList(nn.Embedding(count, inputs) for _ in range(channels))
        self.channel_embeddings = nn.ModuleList(nn.Embedding(count, width) for _ in range(channels - 1))
        self.heads = nn.ModuleList(Pointwise(width, count) for _ in range(channels))

    def levels(self, x: Tensor) -> Tensor:
        """x (B, C, *extent), ids in [0, count) -> the same as int64."""
        return x.long()

    def values(self, levels: Tensor) -> Tensor:
        """The ids, which are the levels themselves."""
        return levels

    def embed(self, levels: Tensor) -> Tensor:
        """levels (B, C, *extent) -> (B, inputs, *extent): a learnt vector for each id, added up over the channels."""
        seen = [table(levels[:, c]) for c, table in enumerate(self.embeddings)]
        return torch.stack(seen).sum(dim=0).movedim(-1, 1)

    def _logits(self, channel: int, features: Tensor, levels: Tensor) -> Tensor:
        """(B, count, *extent) for one channel; of levels (B, C, *extent) those of the channels before it are seen."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            for before in range(channel):
                features = features + self.channel_embeddings[before](levels[:, before]).movedim(-1, 1)
            return self.heads[channel](F.silu(features))

    def bits(self, features: Tensor, levels: Tensor) -> Tensor:
        """features (B, width, *extent), levels (B, C, *extent) -> (B, *extent): -log2 p, channels together."""
        each = [
            F.cross_entropy(self._logits(c, features, levels), levels[:, c], reduction="none")
            for c in range(self.channels)
        ]
        return torch.stack(each).sum(dim=0) / math.log(2)

    def draw(self, features: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """features (B, width), noise (B, draws) uniform in [0, 1) -> levels (B, C); at temperature 0 the likeliest."""
        levels = torch.zeros(len(features), self.channels, 1, dtype=torch.long, device=features.device)
        for c in range(self.channels):
            logits = self._logits(c, features.unsqueeze(2), levels)
            levels[:, c, 0] = pick(logits.squeeze(2), noise[:, c], temperature)
        return levels.squeeze(2)


class MuLaw(Categorical):
    """256 levels of a waveform in [-1, 1], finer near zero (ITU-T G.711, as in WaveNet, arXiv 1609.03499)."""

    def __init__(self, channels: int, width: int):
        super().__init__(channels, width, 256)

    def levels(self, x: Tensor) -> Tensor:
        """Floats, clamped to [-1, 1] -> the nearest of 256 levels, int64, evenly spaced in the bent value.

        An amplitude x is bent to sign(x) ln(1 + 255 |x|) / ln 256.
        """
        x = x.float().clamp(-1, 1)
        bent = x.sign() * (x.abs() * 255).log1p() / math.log(256)
        return ((bent + 1) * 127.5).round().long()

    def values(self, levels: Tensor) -> Tensor:
        """levels 0 to 255 -> float32 amplitudes in [-1, 1]: sign(b) (256^|b| - 1) / 255, b = level / 127.5 - 1."""
        bent = levels / 127.5 - 1
        return bent.sign() * torch.expm1(bent.abs() * math.log(256)) / 255


def pick(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """One index for each row of logits (B, K), from one uniform number in [0, 1) each; at temperature 0 the first of
    the likeliest."""
    if temperature == 0:
        return logits.argmax(dim=1)
    shares = (logits / temperature).softmax(dim=1).cumsum(dim=1)
    return (shares <= uniform.unsqueeze(1) * shares[:, -1:]).sum(dim=1).clamp(max=logits.shape[1] - 1)
