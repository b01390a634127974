"""Quantizers without a learnt codebook: every dimension is rounded by itself, and the code is all of them together.

`fsq`: Mentzer et al. 2023 (arXiv 2309.15505). `lfq` and `bsq`, whose dimensions have two values: `signs.py`.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, Quantizer, from_rows, grid_size, to_rows
from vqmm.kernels.finite import finite_rows
from vqmm.utils.errors import UserError


class ScalarQuantizer(Quantizer):
    """z (B, dim, *grid) -> a few dimensions, each rounded to one of its levels -> one code (B, 1, *grid)."""

    def __init__(self, options: Quantizer.Options, rank: int, levels: Sequence[int]):
        """`levels`: how many values each dimension takes; their product is the number of codes."""
        super().__init__(options, rank)
        self.levels = tuple(levels)
        self.project_in: nn.Module = nn.Linear(self.options.dim, len(levels))
        self.project_out: nn.Module = nn.Linear(len(levels), self.options.dim)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One map of one stage: the product of the levels."""
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
        """z (B, dim, *grid) -> int64 codes (B, 1, *grid) and vectors like z; `stages` changes nothing.

        The gradient passes the rounding straight through. Positions outside the mask, and latents that are not finite
        once projected, have code 0 and take no part in losses.
        """
        with torch.autocast(z.device.type, enabled=False):
            rows = self.project_in(to_rows(z))
            keep = finite_rows(rows.detach())
            if mask is not None:
                keep = keep & mask.reshape(-1)
            bounded, digits = self._round(torch.where(keep[:, None], rows, 0.0))
            digits = torch.where(keep[:, None], digits, 0)  # code 0, as everywhere, for what does not count
            values = self._values(digits)
            losses = self._losses(bounded, values, keep)
            through = values + torch.where(keep[:, None], bounded - bounded.detach(), 0.0)  # adds 0: values to the bit
            vectors = from_rows(self.project_out(through), len(z), z.shape[2:])
        index = self._join(digits).reshape(len(z), 1, *z.shape[2:])
        return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        """codes (B, 1, *grid) -> the values of their levels, projected to (B, dim, *grid)."""
        index = codes.maps[0][:, 0]
        rows = self.project_out(self._values(self._split(index.reshape(-1))))
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
        """How many dimensions are rounded, and to how many values each."""

        levels: tuple[int, ...] = Field(
            (8, 8, 8), min_length=1, description="values of each dimension; their product is the number of codes"
        )

    options: Options

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
