"""A bit rate as a number of stages: what `vqmm encode --bitrate-kbps` asks a quantizer with several for.

Nominal: log2 of the codebook size for every code, as `bits_per_second` in an evaluation. For modalities whose rates are
counted in seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vqmm.tokenizer.model import evaluating
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError

GRID = 48  # codes along each axis that are counted: every usual ratio of coarse to fine maps divides it
ROUNDING = 1e-9  # relative: 6.4 kbit/s fits into 6.4, however its bits were added up


@dataclass(frozen=True)
class Rate:
    """What an encoding uses: `stages` of each position, and their nominal kilobits per second (None: no seconds)."""

    stages: int
    bitrate_kbps: float | None


def choose_rate(tokenizer: Tokenizer, stages: int | None = None, bitrate_kbps: float | None = None) -> Rate:
    """So many stages; or the most that a bit rate pays for; or all.

    Args:
        stages: the first so many codes of each position.
        bitrate_kbps: kilobits (1000 bits) per second of signal.

    Raises:
        UserError: both are given; the tokenizer has no codes, or not so many stages; it has no stage that is within the
            bit rate, or none left to spend it on; its signal is not measured in seconds.
    """
    tokenizer.require_codes()
    if bitrate_kbps is None:
        tokenizer.require_stages(stages)
        offered = offered_kbps(tokenizer) if _has_seconds(tokenizer) else None
        used = stages or most_stages(tokenizer)
        return Rate(used, None if offered is None else offered[used - 1])
    if stages is not None:
        raise UserError(f"stages {stages} and {bitrate_kbps:g} kbit/s are both given: choose the rate by one of them")
    if not _has_seconds(tokenizer):
        name, unit = tokenizer.modality.name, tokenizer.modality.evaluation().rate_unit
        raise UserError(
            f"{bitrate_kbps:g} kbit/s: rates of the modality {name!r} are in bits per {unit}, not per second: choose "
            f"with --stages, of which this run has {most_stages(tokenizer)}"
        )
    offered = offered_kbps(tokenizer)
    # written so that NaN is refused too
    if not offered[0] * (1 - ROUNDING) <= bitrate_kbps <= offered[-1] * (1 + ROUNDING):
        raise UserError(f"{bitrate_kbps:g} kbit/s: {_said(offered)}")
    used = sum(kbps <= bitrate_kbps * (1 + ROUNDING) for kbps in offered)
    return Rate(used, offered[used - 1])


def most_stages(tokenizer: Tokenizer) -> int:
    """Codes a position takes at the most, in whichever map has most."""
    return max((len(sizes) for sizes in tokenizer.quantizer.sizes), default=0)


@torch.no_grad()
def offered_kbps(tokenizer: Tokenizer) -> list[float]:
    """The nominal kilobits per second of the first stage, of the first two, and so on to all of them.

    Counted on a grid of zeros, because a quantizer may have coarser maps than the grid that it is given.
    """
    modality, quantizer = tokenizer.modality, tokenizer.quantizer
    with evaluating(tokenizer):
        z = torch.zeros(1, quantizer.options.dim, *[GRID] * modality.rank, device=tokenizer.device)
        codes = quantizer(z).codes
    assert codes is not None  # require_codes
    extent = [GRID * stride for stride in modality.strides]
    seconds = modality.evaluation().size_in_units(torch.zeros(modality.channels, *extent))
    maps = [(code_map[0, 0].numel(), sizes) for code_map, sizes in zip(codes.maps, quantizer.sizes, strict=True)]
    bits = [
        math.fsum(positions * _bits(sizes[:stages]) for positions, sizes in maps)
        for stages in range(1, most_stages(tokenizer) + 1)
    ]
    return [each / seconds / 1000 for each in bits]


def _bits(sizes: Sequence[int]) -> float:
    """Of one code of each size."""
    return math.fsum(math.log2(size) for size in sizes)


def _has_seconds(tokenizer: Tokenizer) -> bool:
    return tokenizer.modality.evaluation().rate_unit == "second"


def _said(offered: Sequence[float]) -> str:
    rates = [f"{kbps:.4g}" for kbps in offered]
    if len(rates) == 1:
        return f"this run has one rate, {rates[0]} kbit/s"
    shown = rates if len(rates) <= 12 else [*rates[:3], "...", *rates[-2:]]
    return f"this run offers {', '.join(shown)} kbit/s: give a rate from {rates[0]} to {rates[-1]}"
