"""WaveNet over lines of codes: dilated causal convolutions with gates (van den Oord et al. 2016, arXiv 1609.03499)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.causal import GatedBlock, Register
from vqmm.plugins.priors.grid import GridPrior


class WaveNet(GridPrior):
    """For codes of sound: over frames, however many there are; the stages of a frame come one after the other."""

    name: ClassVar[str] = "wavenet"
    ranks: ClassVar[Sequence[int]] = (1,)
    free: ClassVar[bool] = True

    class Options(GridPrior.Options):
        """Number, kernel and dilations of the gated blocks, which decide how many frames back the prior sees."""

        blocks: int = Field(12, ge=1, description="gated blocks")
        kernel: int = Field(2, ge=2, description="frames that a convolution spans, `dilation` apart")
        doublings: int = Field(6, ge=1, description="dilations 1, 2, 4, ...: so many, and then again from 1")

    options: Options

    def network(self, grid: Sequence[int], conditioned: bool) -> nn.Module:
        """A `Dilated` network with dilations 1, 2, 4, ..., 2^(doublings - 1), and again from 1; `grid` is not used."""
        o = self.options
        dilations = [2 ** (number % o.doublings) for number in range(o.blocks)]
        return Dilated(o.width, dilations, o.kernel, conditioned, o.dropout)


@dataclass
class DilatedState:
    """Where a run of `Dilated.step` stands: the condition, and what each block keeps of the past."""

    condition: Tensor | None
    blocks: list[Register]


class Dilated(nn.Module):
    """What each frame gives is made of the frames before it and a condition: the sum of what all blocks say of it."""

    def __init__(self, width: int, dilations: Sequence[int], kernel: int, conditioned: bool, dropout: float):
        super().__init__()
        condition_width = width if conditioned else 0
        self.blocks: Any = nn.ModuleList(
            GatedBlock(1, width, kernel, dilation=dilation, condition=condition_width, skip=width, dropout=dropout)
            for dilation in dilations
        )
        self.last = nn.Linear(width, width)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, width, frames) and a condition that spreads to its shape -> (B, width, frames)."""
        x = F.pad(x, (1, 0))[..., :-1]
        total = torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x, condition)
            total = total + skip
        return self._features(total.transpose(1, 2)).transpose(1, 2)

    def start(self, batch: int, condition: Tensor | None = None) -> DilatedState:
        """A state for `batch` lines; condition (B, width, frames), or (B, width, 1) if all frames share it."""
        return DilatedState(condition, [block.start(batch) for block in self.blocks])

    def step(self, x: Tensor, position: int, state: DilatedState) -> Tensor:
        """What a frame gives, (B, width), from x (B, width), the frame right before it (zeros before the first)."""
        frame_condition = state.condition
        if frame_condition is not None and frame_condition.shape[2] > 1:
            frame_condition = frame_condition[..., position : position + 1]
        x = x.unsqueeze(2)
        total = torch.zeros_like(x)
        for block, register in zip(self.blocks, state.blocks, strict=True):
            (x, skip), _ = block.step(x, position, register, frame_condition)
            total += skip
        return self._features(total.squeeze(2))

    def _features(self, total: Tensor) -> Tensor:
        return F.silu(self.last(F.silu(total)))
