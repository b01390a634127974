"""How far one sound is from another, with a gradient: the waveform, mel bands at several resolutions, envelopes.

The waveform alone makes a tokenizer that spends its codes where the energy is, and is dull; mel bands alone make one
that sounds right and matches nothing sample by sample. Which weights trained a model belongs beside its figures.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vqmm.nn.masks import masked_mean
from vqmm.nn.pointwise import blank
from vqmm.plugins.audio.spectral import mel_bank

WINDOWS_S = (0.008, 0.016, 0.032, 0.064, 0.128)  # of the mel spectra; brought to powers of two, hops of a quarter
SAMPLES_PER_BAND = 8  # bands grow with the window: one for so many samples, at most MOST_BANDS
MOST_BANDS = 80
FLOOR = 1e-9  # of a band's power, of which a full-scale sine has 1: -90 dB, a little below what is evaluated
QUIET = 1e-4  # of a batch's mean power, under which an error is not divided by it

# Taal et al. 2011 (doi 10.1109/TASL.2011.2114881): third-octave bands from 150 Hz on, stretches of 384 ms
ENVELOPE_WINDOW_S, ENVELOPE_HOP_S, STRETCH = 0.0256, 0.0128, 30
LOWEST_HZ, THIRDS = 150.0, 15


def sound_loss(
    output: Tensor,
    target: Tensor,
    mask: Tensor | None,
    sample_rate_hz: int,
    *,
    waveform: float,
    mel: float,
    envelope: float,
) -> Tensor:
    """A scalar: the weighted sum of the terms whose weight is above 0.

    Args:
        output, target: (B, C, T) in [-1, 1].
        mask: bool (B, T), True where there is sound; what stands elsewhere makes no difference.
    """
    output, target = blank(output.float(), mask), blank(target.float(), mask)
    terms: tuple[tuple[float, Callable[[], Tensor]], ...] = (
        (waveform, lambda: waveform_loss(output, target, mask)),
        (mel, lambda: mel_loss(output, target, mask, sample_rate_hz)),
        (envelope, lambda: envelope_loss(output, target, mask, sample_rate_hz)),
    )
    if not output.numel():
        return output.sum()
    with torch.autocast(output.device.type, enabled=False):  # bands of power span more than bfloat16 tells apart
        return torch.stack([weight * term() for weight, term in terms if weight > 0]).sum()


def waveform_loss(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """The squared error over the mean power of the batch: 1 for silence."""
    power = masked_mean(target.square(), mask)
    return masked_mean((output - target).square(), mask) / (power + QUIET)


def mel_loss(output: Tensor, target: Tensor, mask: Tensor | None, sample_rate_hz: int) -> Tensor:
    """The mean absolute difference of the natural logs of magnitudes in mel bands, over bands, frames and windows."""
    total = output.new_zeros(())
    for length in mel_windows(sample_rate_hz):
        bank = _bank(length, min(max(length // SAMPLES_PER_BAND, 4), MOST_BANDS), sample_rate_hz, output.device)
        bands = (_power(x, length, length // 4) @ bank for x in (output, target))
        predicted, other = (torch.log(power / (length / 4) ** 2 + FLOOR) / 2 for power in bands)
        total = total + _over_frames((predicted - other).abs().mean(dim=-1), mask, length // 4)
    return total / len(WINDOWS_S)


def envelope_loss(output: Tensor, target: Tensor, mask: Tensor | None, sample_rate_hz: int) -> Tensor:
    """1 minus the correlation of third-octave envelopes over stretches of 384 ms: what intelligibility follows.

    That is STOI (Taal et al. 2011, equations 1 and 5) without its clipping, and without leaving out silent frames: a
    stretch that is silent in the target counts nothing. Sounds shorter than a stretch count as followed by silence.
    """
    length, hop = round(ENVELOPE_WINDOW_S * sample_rate_hz), max(round(ENVELOPE_HOP_S * sample_rate_hz), 1)
    bands = _thirds(length, sample_rate_hz, output.device)
    missing = max(STRETCH * hop - output.shape[-1], 0)
    envelopes = [(_power(F.pad(x, (0, missing)), length, hop) @ bands + 1e-6).sqrt() for x in (output, target)]
    predicted, other = (each.unfold(2, STRETCH, 1) for each in envelopes)  # (B, C, stretches, bands, STRETCH)
    predicted, other = (each - each.mean(dim=-1, keepdim=True) for each in (predicted, other))
    energy = other.square().sum(dim=-1)
    alike = (predicted * other).sum(dim=-1) / (predicted.square().sum(dim=-1) * energy + 1e-12).sqrt()
    heard = (energy > 1e-4).float()
    return ((1 - alike) * heard).sum() / heard.sum().clamp(min=1)


def mel_windows(sample_rate_hz: int) -> tuple[int, ...]:
    """In samples, each a power of two: 64 to 1,024 at 8 kHz.

    >>> mel_windows(8000)
    (64, 128, 256, 512, 1024)
    """
    return tuple(max(1 << (round(s * sample_rate_hz) - 1).bit_length(), 32) for s in WINDOWS_S)


def _power(x: Tensor, length: int, hop: int) -> Tensor:
    """(B, C, T) -> (B, C, frames, length // 2 + 1), frame i around sample i * hop, zeros beyond the ends."""
    power: Tensor = _Power.apply(x, length, hop)
    return power


class _Power(torch.autograd.Function):
    """The squared magnitudes of the short-time Fourier transform under a Hann window.

    Backward is one inverse real transform. Autograd's own is a complex one of the whole spectrum and a scatter of every
    frame, with which the mel loss takes twice as long, and longer than the networks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: int, hop: int) -> Tensor:
        count, blocks = (x.shape[-1] - length % 2) // hop + 1, -(-length // hop)
        before = length // 2
        line = F.pad(x, (before, (count - 1 + blocks) * hop - before - x.shape[-1])).unflatten(-1, (-1, hop))
        frames = torch.cat([line[..., i : i + count, :] for i in range(blocks)], dim=-1)[..., :length]
        spectrum = torch.fft.rfft(frames * _hann(length, x.device))
        ctx.save_for_backward(spectrum)
        ctx.length, ctx.hop, ctx.samples = length, hop, x.shape[-1]
        return spectrum.real.square() + spectrum.imag.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # of |S_k|^2 in sample n: 2 Re(S_k exp(2 pi i k n / length)); an inverse transform counts the inner bins twice
        (spectrum,) = ctx.saved_tensors
        length, hop = ctx.length, ctx.hop
        pull = spectrum * gradient
        pull[..., 0] *= 2
        if length % 2 == 0:
            pull[..., -1] *= 2
        frames = torch.fft.irfft(pull, n=length, norm="forward") * _hann(length, pull.device)
        count, blocks = frames.shape[-2], -(-length // hop)
        frames = F.pad(frames, (0, blocks * hop - length))
        line = frames.new_zeros(*frames.shape[:-2], count - 1 + blocks, hop)
        for i, block in enumerate(frames.split(hop, dim=-1)):
            line[..., i : i + count, :] += block
        line, before = line.flatten(-2), length // 2
        return F.pad(line, (-before, ctx.samples + before - line.shape[-1])), None, None


def _over_frames(values: Tensor, mask: Tensor | None, hop: int) -> Tensor:
    """The mean of (B, C, frames) over the frames whose middle is inside the mask (B, T)."""
    if mask is None:
        return values.mean()
    inside = F.pad(mask[:, ::hop], (0, 1))[:, : values.shape[-1]]
    inside = F.pad(inside, (0, values.shape[-1] - inside.shape[-1]))
    return masked_mean(values, inside)


@lru_cache(maxsize=32)
def _hann(length: int, device: torch.device) -> Tensor:
    return torch.hann_window(length, device=device)


@lru_cache(maxsize=32)
def _bank(length: int, bands: int, sample_rate_hz: int, device: torch.device) -> Tensor:
    """(length // 2 + 1, bands): triangles of height 1, under which a tone has its whole power."""
    return mel_bank(length, bands, sample_rate_hz, norm=None).to(device)


@lru_cache(maxsize=8)
def _thirds(length: int, sample_rate_hz: int, device: torch.device) -> Tensor:
    """(length // 2 + 1, bands): 1 where a frequency lies in a third-octave band; bands that hold none are left out."""
    middle = LOWEST_HZ * 2 ** (torch.arange(THIRDS) / 3)
    frequency = torch.arange(length // 2 + 1).unsqueeze(1) * (sample_rate_hz / length)
    inside = (frequency >= middle * 2 ** (-1 / 6)) & (frequency < middle * 2 ** (1 / 6))
    return inside[:, inside.any(dim=0)].float().to(device)
