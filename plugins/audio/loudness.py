"""How loud a sound is: ITU-R BS.1770-4, over a sound of any length in flat memory."""

import math
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from vqmm.plugins.audio.extra import needed
from vqmm.plugins.audio.resampling import with_context

QUIETEST_LUFS = -70.0  # the absolute gate: blocks below it do not count
HOPS = 4  # a block is 400 ms, and the next starts 100 ms later
WARM = 10  # hops that the filters run before what is measured: a second, in which they forget their start
SCALE = 0.25  # torchaudio's filters clamp at full scale, and these raise treble by 4 dB: there must be room


def loudness_lufs(blocks: Iterator[Tensor], sample_rate_hz: int) -> float:
    """Integrated loudness of floats (C, n), n at least 1, block by block; C is 1 or 2, each of weight 1.

    A sound shorter than 400 ms is repeated until it fills a block. A sound without a block over the absolute gate
    counts as -70.

    Source: ITU-R BS.1770-4, annex 1. Its two filters are torchaudio's, made for the rate at hand.
    """
    hop = round(0.1 * sample_rate_hz)
    filled = _filled(blocks, HOPS * hop)
    energies = torch.cat([_energies(*part, hop, sample_rate_hz) for part in with_context(filled, hop, WARM * hop)])
    energy = energies.double().unfold(0, HOPS, 1).mean(1)
    energy = energy[_lufs(energy) > QUIETEST_LUFS]
    if not len(energy):
        return QUIETEST_LUFS
    return float(_lufs(energy[_lufs(energy) > _lufs(energy.mean()) - 10].mean()))


def _filled(blocks: Iterator[Tensor], length: int) -> Iterator[Tensor]:
    """The blocks; a sound shorter than `length` several times over, to that length."""
    first: list[Tensor] = []
    count = 0
    for block in blocks:
        first.append(block)
        count += block.shape[1]
        if count >= length:
            return chain(first, blocks)
    return iter([torch.cat(first, dim=1).repeat(1, -(-length // count))[:, :length]])


def _energies(held: Tensor, start: int, end: int | None, hop: int, sample_rate_hz: int) -> Tensor:
    """The mean square of every whole hop in `held[:, start:end]`, channels added: (hops,)."""
    functional = needed("torchaudio").functional
    high = functional.treble_biquad(held * SCALE, sample_rate_hz, 4.0, 1500.0, 1 / math.sqrt(2))
    heard = functional.highpass_biquad(high, sample_rate_hz, 38.0, 0.5)[:, start:end] / SCALE
    return heard[:, : heard.shape[1] // hop * hop].square().unflatten(1, (-1, hop)).mean(2).sum(0)


def _lufs(energy: Tensor) -> Tensor:
    return 10 * energy.log10() - 0.691
