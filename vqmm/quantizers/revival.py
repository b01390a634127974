"""Codes that fell out of use take over a part of a busy code's cell.

Linde, Buzo and Gray 1980 split a cell by moving two copies of its code slightly apart; here a dead code becomes such a
copy of a living one, chosen in proportion to use. Everything follows from statistics that were summed over processes
and from a random function of (step, code), so all processes make the same choice with no message between them.
"""

import torch
from torch import Tensor


def revive_(code_KD: Tensor, count_K: Tensor, sum_KD: Tensor, dead_K: Tensor, spread: Tensor, step: Tensor) -> None:
    """Give every dead code a new place, in place; vector, sum and count change together.

    Args:
        code_KD, count_K, sum_KD: the codebook and its moving averages, float32.
        dead_K: bool. Where nothing is dead, or everything is, nothing changes.
        spread: scalar, how far a copy is moved along each coordinate at the most.
        step: int64 scalar, the counter of the random function.
    """
    alive = torch.where(dead_K, 0, count_K).double()
    share = alive.cumsum(0)
    total = share[-1]
    dead_K = dead_K & (total > 0)
    donor = torch.searchsorted(share, counter_uniform(step, (len(count_K),)) * total, right=True)
    donor = torch.where(dead_K, donor.clamp(max=len(count_K) - 1), torch.arange(len(count_K), device=count_K.device))
    heirs = torch.zeros_like(count_K).scatter_add_(0, donor, torch.ones_like(count_K))  # integers: any order, same bits
    part = count_K / heirs.clamp(min=1)  # a donor shares its count with its copies
    move = (counter_uniform(step, tuple(code_KD.shape), stream=1) * 2 - 1).to(code_KD.dtype) * spread
    moved = code_KD[donor] + torch.where(dead_K[:, None], move, 0)
    changed = heirs[donor] > 1
    code_KD.copy_(moved)
    count_K.copy_(torch.where(changed, part[donor], count_K))
    sum_KD.copy_(torch.where(changed[:, None], code_KD * count_K[:, None], sum_KD))


def counter_uniform(step: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """float64 in [0, 1): a function of (step, stream, position) alone, the same on every device and in every process.

    The mixing function is that of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators"), on 64-bit integers that wrap around.
    """
    count = 1
    for n in shape:
        count *= n
    x = (
        torch.arange(count, device=step.device, dtype=torch.int64)
        + step * 0x2545F4914F6CDD1D
        + stream * 0x369DEA0F31A53F85
    )
    x = x * -0x61C8864680B583EB  # the golden ratio of 64 bits
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    x = x ^ _shift(x, 31)
    return (_shift(x, 11).double() * 2.0**-53).reshape(shape)


def _shift(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: the sign bit does not spread."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
