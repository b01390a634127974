"""Spectral networks: short-time spectra in, an inverse short-time Fourier transform out, convolutions between.

The transform does for nothing what strided convolutions over a waveform must learn first, and all layers run at the
rate of the codes, so an hour of training goes further. The head is that of Siuzdak 2023 (Vocos, arXiv 2306.00814), but
with real and imaginary parts for magnitude and phase: a waveform loss has a smooth gradient in those.

Speech spans 60 dB within one frame, and a linear layer's error in the loudest band drowns the others. So a decoded
frame is a shape, of equal power in all bands, times a gain for each band (as in CELT: Valin et al. 2013, arXiv
1602.04845, whose bits say gains and shapes apart). Logarithms of power come in as features, and those of gains go out;
both also take a straight way past the blocks, so that codes keep the spectrum's envelope from the first steps on.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.causal import CausalConv, CausalStack, Register
from vqmm.nn.layers import ChannelNorm, Stack, conv
from vqmm.nn.masks import pool_mask
from vqmm.nn.network import Layer, Network, Span
from vqmm.nn.pointwise import Pointwise, blank
from vqmm.nn.receptive_field import receptive_field, seen
from vqmm.plugins.audio.extra import needed

BANDS = 40  # mel bands that the encoder sees beside the spectrum
FLOOR = 1e-7  # of the power of a band, under which everything is silence: that of hiss at -80 dB
KERNEL = 3
GAINS = 40  # bands of a decoded frame, at most
MOST_GAIN = 8.0  # natural log: 70 dB up and down
LEAST_SHAPE = 1e-4  # of a band's power before it is brought to 1


class SpectralBlock(Layer):
    """x + scale * conv1(gelu(conv3(norm(x)))): (B, width, frames) in and out. Starts near the identity."""

    def __init__(self, width: int, causal: bool, scale: float):
        super().__init__()
        self.causal = causal
        self.norm = ChannelNorm(width)
        self.spread: Any = CausalConv(1, width, width, KERNEL) if causal else conv(1, width, width, KERNEL)
        self.join = Pointwise(width, width)
        self.scale = nn.Parameter(torch.full((width, 1), scale))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width, frames) -> the same shape, from three frames: one to each side, or the last three if causal."""
        return self._add(x, self.spread(self.norm(x)))

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        return x + self.scale * self.join(F.gelu(mixed))

    def start(self, batch: int) -> Register:
        """The convolution's state for `batch` streams. Causal blocks only."""
        return self.spread.start(batch)

    def step(self, x: Tensor, position: int | None, state: Register) -> tuple[Tensor, Register]:
        """`forward` for the next x (B, width, n) of each stream, and the state after it. Causal blocks only."""
        mixed, state = self.spread.step(self.norm(x), position, state)
        return self._add(x, mixed), state

    def seen(self, outputs: Span, axis: int = 0) -> Span | None:
        """The frames that these depend on: one more on each side, or two more before them if causal."""
        return seen(self.spread, outputs, axis)


def trunk(inputs: int, width: int, outputs: int, blocks: int, causal: bool) -> Any:
    """(B, inputs, frames) -> (B, outputs, frames): blocks between two layers that look at one frame each."""
    middle = [SpectralBlock(width, causal, 1 / blocks) for _ in range(blocks)]
    layers = [Pointwise(inputs, width), *middle, ChannelNorm(width), Pointwise(width, outputs)]
    return (CausalStack if causal else Stack)(layers)


class SpectralNetwork(Network):
    """What encoder and decoder have in common: where frames lie.

    A frame spans `window` hops under a Hann window. Frame t stands for the hop t, [t, t + 1) * hop, and lies around it;
    a causal encoder's frame ends with its hop, and a causal decoder's begins with it, so that nothing waits.
    """

    takes_mask = True
    hann: Tensor
    trunk: Any  # of a causal network a CausalStack, which steps

    def __init__(self, hop: int, window: int, causal: bool):
        super().__init__()
        self.hop, self.length, self.causal = hop, hop * window, causal
        self.register_buffer("hann", torch.hann_window(self.length), persistent=False)

    @property
    def margin(self) -> int:
        """Samples of a frame that lie before its hop, where it lies around it."""
        return (self.length - self.hop) // 2

    @property
    def bins(self) -> int:
        """Frequencies in the spectrum of a frame: length // 2 + 1."""
        return self.length // 2 + 1

    def hops_seen(self) -> float:
        """How many hops to each side an output depends on: frames overlap, and blocks look at their neighbours."""
        before = self.length - self.hop
        overlap = before if self.causal else before - self.margin
        return receptive_field(self.trunk, 1, 1) + -(-overlap // self.hop)


class SpectralEncoder(SpectralNetwork):
    """x (B, channels, T) -> z (B, dim, T / hop); `hop` divides T.

    It sees each frame's spectrum with its magnitude to the power of 0.3, and the logarithm of its power in mel bands,
    of which z is a linear map plus what the blocks say.

    Args:
        hop: samples between frames: one code each.
        window: hops that a frame spans, at least 2.
        width: channels between.
        blocks: of three frames each.
    """

    mel: Tensor

    def __init__(
        self,
        channels: int,
        dim: int,
        hop: int,
        sample_rate_hz: int,
        *,
        window: int,
        width: int,
        blocks: int,
        causal: bool,
    ):
        super().__init__(hop, window, causal)
        bands = min(BANDS, self.bins // 2)
        self.register_buffer("mel", mel_bank(self.length, bands, sample_rate_hz), persistent=False)
        self.channels, self.dim, self.features = channels, dim, channels * (2 * self.bins + bands)
        self.trunk = trunk(self.features, width, dim, blocks, causal)
        self.bypass = Pointwise(channels * bands, dim)
        self.receptive_field = self.hops_seen()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, channels, T), mask bool (B, T) -> z (B, dim, T / hop); where the mask is False, x counts as 0."""
        before = self.length - self.hop if self.causal else self.margin
        x = F.pad(blank(x, mask), (before, self.length - self.hop - before))
        features = self._features(x)
        z = self.trunk(features, None if mask is None else pool_mask(mask, features.shape[2:]))
        return z + self._bypassed(features)

    def _features(self, x: Tensor) -> Tensor:
        """(B, channels, samples) -> (B, features, frames), in float32."""
        with torch.autocast(x.device.type, enabled=False):
            count = (x.shape[2] - self.length) // self.hop + 1
            if not len(x) or count < 1:  # which the Fourier transform refuses
                return self.hann.new_zeros(len(x), self.features, max(count, 0))
            frames = x.float().unfold(-1, self.length, self.hop) * self.hann
            spectrum = torch.fft.rfft(frames)  # (B, channels, frames, bins)
            power = spectrum.real.square() + spectrum.imag.square()
            smaller = (power + 1e-8).pow(-0.35)
            bands = torch.log(power @ self.mel + FLOOR)
            parts = [spectrum.real * smaller, spectrum.imag * smaller, (bands + 6) / 4]
            return torch.cat(parts, dim=-1).transpose(2, 3).flatten(1, 2)

    def _bypassed(self, features: Tensor) -> Tensor:
        """(B, features, frames) -> (B, dim, frames): from the bands alone, past the blocks."""
        return self.bypass(features.unflatten(1, (self.channels, -1))[:, :, 2 * self.bins :].flatten(1, 2))

    def start(self, batch: int) -> dict[str, Any]:
        """A state for a stream of `batch` sounds. Causal networks only."""
        past = self.hann.new_zeros(batch, self.channels, self.length - self.hop)
        return {"past": past, "trunk": self.trunk.start(batch)}

    def step(
        self, x: Tensor, position: int | None, state: dict[str, Any], mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """x (B, channels, n * hop), the next samples -> z (B, dim, n). `position` is that of the stream: None."""
        line = torch.cat([state["past"], blank(x, mask)], dim=2)
        state["past"] = line[:, :, line.shape[2] - (self.length - self.hop) :]
        if not x.shape[2]:
            return x.new_zeros(len(x), self.dim, 0), state
        features = self._features(line)
        z, state["trunk"] = self.trunk.step(features, None, state["trunk"])
        return z + self._bypassed(features), state


class SpectralDecoder(SpectralNetwork):
    """vectors (B, dim, frames) -> (B, channels, frames * hop): the mirror of `SpectralEncoder`.

    A frame's spectrum is real and imaginary parts of every bin, brought to a mean power of 1 in each of at most 40
    overlapping bands, times exp(gain); the gains are a linear map of the vectors plus what the blocks say.
    """

    least: Tensor
    bands: Tensor  # (gains, bins)

    def __init__(self, channels: int, dim: int, hop: int, *, window: int, width: int, blocks: int, causal: bool):
        super().__init__(hop, window, causal)
        self.channels = channels
        self.register_buffer("bands", overlapping_bands(self.bins, GAINS), persistent=False)
        self.bypass = Pointwise(dim, channels * len(self.bands))
        self.trunk = trunk(dim, width, channels * (2 * self.bins + len(self.bands)), blocks, causal)
        self.receptive_field = self.hops_seen()
        # frames overlap: so much of a sample's energy is in all of them, where none is missing
        full = self._overlap(self.hann.square().expand(1, 2 * window, -1))[0, self.length]
        self.register_buffer("least", 0.1 * full, persistent=False)

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """vectors (B, dim, frames), mask bool (B, frames) -> (B, channels, frames * hop), not clamped.

        The windowed frames are added up and divided by the sum of their squared windows, or by a tenth of what that sum
        is where no frame is missing, if that is more. Frames where the mask is False are left out of both.
        """
        frames, weights = self._frames(self.trunk(vectors, mask), self.bypass(vectors), mask)
        first = 0 if self.causal else self.margin
        span = slice(first, first + vectors.shape[2] * self.hop)
        return self._overlap(frames)[..., span] / self._overlap(weights)[..., span].clamp(min=self.least)

    def _frames(self, h: Tensor, bypass: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Windowed frames (B, channels, frames, length), and the weights of their samples (B, 1, frames, length).

        Args:
            h: (B, channels * (2 * bins + gains), frames), of the blocks.
            bypass: (B, channels * gains, frames), which went past them.
        """
        with torch.autocast(h.device.type, enabled=False):
            h, bypass = (each.float().unflatten(1, (self.channels, -1)).transpose(2, 3) for each in (h, bypass))
            weights = self.hann.square().expand(len(h), 1, h.shape[2], -1)
            if not h.numel():  # which the Fourier transform refuses
                return h.new_zeros(len(h), self.channels, h.shape[2], self.length) + h.sum() + bypass.sum(), weights
            real, imaginary, gains = h.split([self.bins, self.bins, len(self.bands)], dim=3)
            power = (real.square() + imaginary.square()) @ self.bands.T / self.bands.sum(1)
            gain = ((bounded(gains + bypass) - torch.log(power + LEAST_SHAPE) / 2) @ self.bands).exp()
            frames = torch.fft.irfft(torch.complex(real * gain, imaginary * gain), n=self.length) * self.hann
            if mask is not None:  # what stands for padding adds nothing, and is not counted
                there = mask[:, None, :, None]
                frames, weights = torch.where(there, frames, 0), torch.where(there, weights, 0)
            return frames, weights

    def _overlap(self, frames: Tensor) -> Tensor:
        """(..., frames, length) -> (..., samples): each frame one hop after the one before it, added up."""
        count = frames.shape[-2]
        if not count:
            return frames.new_zeros(*frames.shape[:-2], self.length - self.hop)
        line = frames.reshape(-1, count, self.length).transpose(1, 2)
        total = (count - 1) * self.hop + self.length
        added = F.fold(line, (1, total), (1, self.length), stride=(1, self.hop))
        return added.reshape(*frames.shape[:-2], total)

    def start(self, batch: int) -> dict[str, Any]:
        """A state for a stream of `batch` sounds. Causal networks only."""
        tail = self.length - self.hop
        sound, weight = (self.hann.new_zeros(batch, n, tail) for n in (self.channels, 1))
        return {"sound": sound, "weight": weight, "trunk": self.trunk.start(batch)}

    def step(
        self, vectors: Tensor, position: int | None, state: dict[str, Any], mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """vectors (B, dim, n), the next ones -> (B, channels, n * hop). `position` is that of the stream: None."""
        span = vectors.shape[2] * self.hop
        if not span:
            return vectors.new_zeros(len(vectors), self.channels, 0), state
        h, state["trunk"] = self.trunk.step(vectors, None, state["trunk"], mask)
        frames, weights = self._frames(h, self.bypass(vectors), mask)
        sound, weight = self._overlap(frames), self._overlap(weights)
        tail = self.length - self.hop
        sound[..., :tail] += state["sound"]
        weight[..., :tail] += state["weight"]
        state["sound"], state["weight"] = sound[..., span:], weight[..., span:]
        return sound[..., :span] / weight[..., :span].clamp(min=self.least), state


def bounded(gains: Tensor) -> Tensor:
    """Natural logs of gains, with a slope of 2 around 0, so that they learn fast, and never beyond `MOST_GAIN`."""
    return MOST_GAIN * torch.tanh(gains * (2 / MOST_GAIN))


def overlapping_bands(bins: int, most: int) -> Tensor:
    """(bands, bins): triangles that add up to 1 in every bin, the first on the lowest bin and the last on the highest.

    They widen with frequency as log(1 + 10 f) does, f from 0 to 1: the mel scale at 14 kHz, and near it at other rates.
    Their number is at most `most`, and such that none falls between two bins.
    """
    place = torch.log1p(torch.linspace(0, 10, bins, dtype=torch.float64))
    widest = float(place[1]) if bins > 1 else math.inf  # between the lowest two
    bands = min(most, 1 + int(math.log(11) / widest + 1e-9))
    place = place * ((bands - 1) / math.log(11))
    return (1 - (place - torch.arange(bands).unsqueeze(1)).abs()).clamp(min=0).float()


def mel_bank(length: int, bands: int, sample_rate_hz: int, norm: Literal["slaney"] | None = "slaney") -> Tensor:
    """(length // 2 + 1, bands): triangles, evenly spaced on Slaney's mel scale, of equal area; None: of height 1."""
    return needed("torchaudio").functional.melscale_fbanks(
        length // 2 + 1, 0.0, sample_rate_hz / 2, bands, sample_rate_hz, norm=norm, mel_scale="slaney"
    )
