"""Quantizers without a learnt codebook: every dimension is rounded by itself, and the code is all of them together.

`fsq`: Mentzer et al. 2023 (arXiv 2309.15505). `lfq`: Yu et al. 2023 (arXiv 2310.05737, section 3.1). `bsq`: Zhao et al.
2024 (arXiv 2406.07548, section 4).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.batch import Codes
from vqmm.errors import UserError
from vqmm.kernels.codebook_softmax import codebook_softmax
from vqmm.kernels.finite import finite_rows
from vqmm.quantizers.base import Quantized, Quantizer, from_rows, grid_size, to_rows


class ScalarQuantizer(Quantizer):
    """z (B, dim, *grid) -> a few dimensions, each rounded to one of its levels -> one code (B, 1, *grid)."""

    def __init__(self, options: Quantizer.Options, rank: int, levels: Sequence[int]):
        """`levels`: how many values each dimension takes; their product is the number of codes."""
        super().__init__(options, rank)
        self.levels = tuple(levels)
        self.inward = nn.Linear(self.options.dim, len(levels))
        self.outward = nn.Linear(len(levels), self.options.dim)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((math.prod(self.levels),),)

    def _round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) -> what is rounded (N, d), with a gradient, and the number of its level (N, d), int64."""
        raise NotImplementedError(f"{type(self).__name__} needs a method _round(rows)")

    def _values(self, digits: Tensor) -> Tensor:
        """The value of every level, from its number: (N, d) int64 -> (N, d) float32."""
        raise NotImplementedError(f"{type(self).__name__} needs a method _values(digits)")

    def _losses(self, bounded: Tensor, values: Tensor, keep: Tensor) -> dict[str, Tensor]:
        """Named scalars; `keep` bool (N,)."""
        return {}

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            rows = self.inward(to_rows(z))
            keep = finite_rows(rows.detach())
            if mask is not None:
                keep = keep & mask.reshape(-1)
            bounded, digits = self._round(torch.where(keep[:, None], rows, 0.0))
            digits = torch.where(keep[:, None], digits, 0)  # code 0, as everywhere, for what does not count
            values = self._values(digits)
            losses = self._losses(bounded, values, keep)
            through = values + torch.where(keep[:, None], bounded - bounded.detach(), 0.0)  # adds 0: values to the bit
            vectors = from_rows(self.outward(through), len(z), z.shape[2:])
        index = self._join(digits).reshape(len(z), 1, *z.shape[2:])
        return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        index = codes.maps[0][:, 0]
        rows = self.outward(self._values(self._split(index.reshape(-1))))
        return from_rows(rows, len(index), index.shape[1:])

    def _join(self, digits: Tensor) -> Tensor:
        """(N, d) -> int64 (N,): a number in a mixed base, first dimension lowest."""
        return (digits * self._places(digits.device)).sum(-1)

    def _split(self, index: Tensor) -> Tensor:
        """The inverse of `_join`."""
        levels = torch.tensor(self.levels, device=index.device)
        return index.long()[:, None] // self._places(index.device) % levels

    def _places(self, device: torch.device) -> Tensor:
        return torch.tensor([math.prod(self.levels[:d]) for d in range(len(self.levels))], device=device)


class FiniteScalarQuantizer(ScalarQuantizer):
    """Each dimension is bounded by tanh and rounded to one of L values. No codebook, no losses, nothing to collapse."""

    name = "fsq"

    class Options(Quantizer.Options):
        levels: tuple[int, ...] = Field(
            (8, 8, 8), min_length=1, description="values of each dimension; their product is the number of codes"
        )

    def __init__(self, options: Options | None = None, rank: int = 2):
        o = options or self.Options()
        if min(o.levels) < 2:
            raise UserError(
                f"quantizer.levels: {list(o.levels)} has {min(o.levels)}; every dimension needs 2 levels or more"
            )
        super().__init__(o, rank, o.levels)
        half = [(level - 1) / 2 * (1 + 1e-3) for level in o.levels]  # a little over, to reach the ends
        middle = [0.5 if level % 2 == 0 else 0.0 for level in o.levels]  # an even number has no level at 0
        shift = [math.atanh(m / h) for m, h in zip(middle, half, strict=True)]
        for name, value in (("bounds", half), ("middles", middle), ("shifts", shift)):
            self.register_buffer(name, torch.tensor(value), persistent=False)

    bounds: Tensor
    middles: Tensor
    shifts: Tensor

    def _round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        bounded = torch.tanh(rows + self.shifts) * self.bounds - self.middles
        digits = bounded.detach().round().long() + torch.tensor(self.levels, device=rows.device) // 2
        return bounded / self._reach(rows.device), digits

    def _values(self, digits: Tensor) -> Tensor:
        reach = self._reach(digits.device)
        return (digits - reach).float() / reach

    def _reach(self, device: torch.device) -> Tensor:
        """The largest distance of a level from 0, before it is brought to [-1, 1]."""
        return torch.tensor(self.levels, device=device) // 2


class LookupFreeQuantizer(ScalarQuantizer):
    """The signs of log2 K numbers. An entropy term wants each code to be certain and all codes to be used."""

    name = "lfq"

    class Options(Quantizer.Options):
        codebook_size: int = Field(4096, description="K, a power of two: log2 K signs")
        commitment: float = Field(0.02, ge=0, description="weight of the term that draws latents to their signs")
        entropy: float = Field(0.0075, ge=0, description="weight of the entropy term")
        diversity: float = Field(1.0, ge=0, description="weight, inside that term, of the use of all codes")
        temperature: float = Field(1.0, gt=0, description="softness of the assignment whose entropies are taken")
        count: Literal["codes", "bits"] = Field(
            "codes",
            description="use is of all K codes, exactly, or of each sign by itself: an upper bound, for large K",
        )

    def __init__(self, options: Options | None = None, rank: int = 2):
        o = options or self.Options()
        bits = (o.codebook_size - 1).bit_length()
        if o.codebook_size < 2 or 2**bits != o.codebook_size:
            near = f"{2 ** (bits - 1)} or {2**bits}" if bits > 1 else "2"
            raise UserError(f"quantizer.codebook_size: {o.codebook_size} is no power of two; signs make {near} codes")
        super().__init__(o, rank, (2,) * bits)

    @property
    def side(self) -> float:
        """The absolute value of every dimension of a code."""
        return 1.0

    def _round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows, (rows.detach() > 0).long()

    def _values(self, digits: Tensor) -> Tensor:
        return (2 * digits - 1).float() * self.side

    def _losses(self, bounded: Tensor, values: Tensor, keep: Tensor) -> dict[str, Tensor]:
        o = self.options
        count = keep.sum().clamp(min=1)
        error = torch.where(keep[:, None], bounded - values, 0.0).square().sum() / (count * len(self.levels))
        losses = {"commitment": o.commitment * error}
        if o.entropy > 0:
            # softmax over codes c of -|z - c|^2 / temperature: the dimensions are independent, each a sigmoid
            odds = bounded * (4 * self.side / o.temperature)
            certainty = torch.where(keep[:, None], binary_entropy(odds), 0.0).sum() / count
            use = self._use(bounded, odds, keep, count)
            losses["entropy"] = o.entropy * (certainty - o.diversity * use)
        return losses

    def _use(self, bounded: Tensor, odds: Tensor, keep: Tensor, count: Tensor) -> Tensor:
        """The entropy, in nats, of the codes on average over the batch."""
        o = self.options
        if o.count == "bits":
            share = torch.where(keep[:, None], torch.sigmoid(odds), 0.0).sum(0) / count
            return torch.special.entr(share).sum() + torch.special.entr(1 - share).sum()
        codes = self._values(self._split(torch.arange(o.codebook_size, device=bounded.device)))
        soft = codebook_softmax(bounded, codes, metric="dot", temperature=o.temperature / 2, mask_N=keep)
        return torch.special.entr(soft.usage_K).sum()


class SphericalQuantizer(LookupFreeQuantizer):
    """`lfq` on the unit sphere: latents are normalised, codes are the corners of the cube inside it."""

    name = "bsq"

    class Options(LookupFreeQuantizer.Options):
        entropy: float = Field(0.005, ge=0, description="weight of the entropy term")
        # codes are close together on the sphere: at 1 every assignment would be nearly even, and the term say nothing
        temperature: float = Field(0.05, gt=0, description="softness of the assignment whose entropies are taken")

    @property
    def side(self) -> float:
        return 1 / math.sqrt(len(self.levels))

    def _round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        bounded = F.normalize(rows, dim=-1)
        return bounded, (bounded.detach() > 0).long()


def binary_entropy(odds: Tensor) -> Tensor:
    """The entropy, in nats, of a coin whose log-odds are given."""
    return F.softplus(odds) - odds * torch.sigmoid(odds)
