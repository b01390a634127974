"""PixelNetwork: a causal network over a grid in two stacks, without a blind spot, that steps column by column.

Gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328, section 2 and figure 2): the vertical stack sees all rows
above, the horizontal one the row so far and what the vertical one says there. With attention between layers it is of
the kind of PixelSNAIL (Chen et al. 2017, arXiv 1712.09763): what lies beyond the reach of the kernels is looked up.

Where it stands while it steps: all that the vertical stack and the condition have to say of a row is known before the
row begins, and is computed for the whole row at once. A position then costs the horizontal stack at one column.

The horizontal stack is given the input right before each position, at the first column the last one of the row above:
so whatever came before is at some position that attention looks at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.causal_attention import Cache, CausalAttention
from vqmm.nn.layers import ChannelNorm
from vqmm.nn.pointwise import Pointwise


@dataclass
class PixelState:
    """Where a run of `PixelNetwork.step` stands.

    Attributes:
        conditioning: (B or 1, width, rows, columns): what the condition and the place say.
        codes: (B, width, columns): the inputs of the row that is under way.
        above: of each layer the vertical stack's inputs of the last rows, padded, (B, width, R + 1, columns + 2 R), R
            the receptive field of a layer; empty for a line.
        lines: of each layer the horizontal stack's inputs in this row, padded, (B, R + columns, width).
        offsets: of each layer what this row's gates get beside those inputs, (columns, B, 2 width).
        weights: of each layer what the horizontal stack multiplies by.
        to_conditioning: (layers * channels, width): the weights that take `conditioning` into all layers.
        caches: of the attention after each layer, None where there is none.
    """

    conditioning: Tensor
    codes: Tensor
    above: list[Tensor]
    lines: list[Tensor]
    offsets: list[Tensor]
    weights: list[tuple[Tensor, Tensor]]
    to_conditioning: Tensor
    caches: list[Cache | None]


class PixelLayer(nn.Module):
    """A gated layer of both stacks; without `rows` the horizontal one alone.

    Args:
        kernel: odd: it reaches kernel // 2 rows up, columns to the left and, in the rows above, columns to the right.
    """

    def __init__(self, width: int, kernel: int, rows: bool, dropout: float):
        super().__init__()
        self.receptive_field = kernel // 2
        self.above = nn.Conv2d(width, 2 * width, (self.receptive_field + 1, kernel)) if rows else None
        self.across = Pointwise(2 * width, 2 * width, bias=False) if rows else None
        self.left = nn.Conv2d(width, 2 * width, (1, self.receptive_field + 1))
        self.conditioning = Pointwise(width, (4 if rows else 2) * width, bias=False)
        self.out = Pointwise(width, width, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, above: Tensor, x: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """above and x, each (B, width, rows, columns), and parts whose sum spreads to that -> above and x of the next
        layer."""
        conditioning, receptive_field = (
            sum(map(self.conditioning, parts[1:]), start=self.conditioning(parts[0])),
            self.receptive_field,
        )
        offset = conditioning[:, -2 * x.shape[1] :]
        mixed = self.left(F.pad(self.drop(x), (receptive_field, 0))) + offset
        if self.above is not None and self.across is not None:
            seen = (
                self.above(F.pad(above, (receptive_field, receptive_field, receptive_field, 0)))
                + conditioning[:, : -offset.shape[1]]
            )
            mixed, above = mixed + self.across(seen), gate(seen, dim=1)
        return above, x + self.out(self.drop(gate(mixed, dim=1)))

    def look_up(self, above: Tensor, rows: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A whole row of the vertical stack.

        Args:
            above: (B, width, columns): this layer's input of the row.
            rows: (B, width, R + 1, columns + 2 R), R the receptive field: its inputs so far, the last row's last.
            conditioning: (columns, B, channels): what `forward` makes of `parts`.

        Returns:
            `above` of the next layer, `rows` with this row, and what the horizontal stack gets in each column,
            (columns, B, 2 width).
        """
        assert self.left.bias is not None
        offset = conditioning[..., -len(self.left.bias) :] + self.left.bias
        if self.above is None or self.across is None:
            return above, rows, offset
        rows = torch.cat(
            [rows[:, :, 1:], F.pad(above, (self.receptive_field, self.receptive_field)).unsqueeze(2)], dim=2
        )
        seen = F.conv2d(rows, self.above.weight, self.above.bias).squeeze(2).permute(2, 0, 1)
        seen = seen + conditioning[..., : -len(self.left.bias)]
        return gate(seen, dim=2).permute(1, 2, 0), rows, offset + F.linear(seen, self.across.weight)

    def weights(self) -> tuple[Tensor, Tensor]:
        """What a step multiplies a window of the row by, oldest first, and what comes out of the gate: transposed, for
        few rows are multiplied faster so."""
        window = self.left.weight.squeeze(2).permute(2, 1, 0).flatten(0, 1)
        return window.contiguous(), self.out.weight.t().contiguous()


class PixelNetwork(nn.Module):
    """What each position of a grid gives is made of the inputs before it in raster order, a condition and its place.

    Args:
        grid: rows and columns, or positions of a line, which is one row. One row has no vertical stack.
        width: channels of inputs, condition and output, and of every layer.
        depth: layers.
        kernel: odd, at least 3. The stacks together reach depth * (kernel // 2) positions, without a blind spot.
        attention: after every so many layers all positions before are looked at; 0: never.
        heads: of attention; width / heads must be even.
        dropout: share of each layer's inputs and outputs that is hidden in training.

    Raises:
        ValueError: a combination that cannot be, with its values.
    """

    def __init__(
        self,
        grid: Sequence[int],
        width: int,
        depth: int,
        kernel: int = 3,
        *,
        attention: int = 0,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if len(grid) not in (1, 2) or min(*grid, width, depth) < 1 or kernel < 3 or kernel % 2 == 0:
            raise ValueError(
                f"PixelNetwork: a grid of {tuple(grid)}, width {width}, depth {depth}, kernel {kernel}: one or two "
                "axes, an odd kernel of at least 3, the others at least 1"
            )
        if attention and (width % heads or width // heads % 2):
            raise ValueError(f"PixelNetwork: width {width} with {heads} heads: width / heads must be even")
        self.rows, self.columns = (1, *grid)[-2:]
        self.width = width
        has_rows = self.rows > 1
        self.at_row = nn.Parameter(torch.randn(self.rows, width) * 0.02)
        self.at_column = nn.Parameter(torch.randn(self.columns, width) * 0.02)
        layers = [PixelLayer(width, kernel, has_rows, dropout) for _ in range(depth)]
        self.layers: Any = nn.ModuleList(layers)
        looks = [bool(attention) and number % attention == 0 for number in range(1, depth + 1)]
        attends: list[Any] = [CausalAttentionBlock(width, heads) if looked else None for looked in looks]
        self.attention: Any = nn.ModuleList(attends)
        self.last = nn.Linear(width, width)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, width, *grid) and a condition that spreads to its shape -> (B, width, *grid), of what comes before each
        position."""
        conditioning = self._conditioning(condition)
        seen = x.reshape(len(x), self.width, self.rows, self.columns)
        above = F.pad(seen, (0, 0, 1, 0))[:, :, :-1]
        horizontal = F.pad(seen.flatten(2), (1, 0))[..., :-1].view(seen.shape)
        for layer, attend in zip(self.layers, self.attention, strict=True):
            above, horizontal = layer(above, horizontal, conditioning)
            horizontal = horizontal if attend is None else attend(horizontal)
        lines = F.silu(self.last(F.silu(horizontal).movedim(1, -1)))
        return lines.movedim(-1, 1).reshape(x.shape)

    def _conditioning(self, condition: Tensor | None) -> list[Tensor]:
        """What conditions each place, (1, width, rows, columns), and what each sample, (B, width, 1 or rows, 1 or
        columns). They are not added: layers take less time for what is the same all over one or the other."""
        place = (self.at_row[:, None] + self.at_column).movedim(-1, 0).unsqueeze(0)
        if condition is None:
            return [place]
        return [place, condition.unsqueeze(2) if condition.ndim == 3 else condition]

    # One position after the other

    def start(self, batch: int, condition: Tensor | None = None) -> PixelState:
        """A state for `batch` grids. It belongs to one run and one set of weights."""
        parts = self._conditioning(condition)
        conditioning = sum(parts[1:], start=parts[0])
        new = conditioning.new_zeros
        receptive_field = self.layers[0].receptive_field
        has_rows = self.layers[0].above is not None
        above = (
            [new(batch, self.width, receptive_field + 1, self.columns + 2 * receptive_field) for _ in self.layers]
            if has_rows
            else []
        )
        return PixelState(
            conditioning,
            new(batch, self.width, self.columns),
            above or [new(0)] * len(self.layers),
            [new(batch, receptive_field + self.columns, self.width) for _ in self.layers],
            [new(0)] * len(self.layers),
            [layer.weights() for layer in self.layers],
            torch.cat([layer.conditioning.weight for layer in self.layers]),
            [each and each.attention.start(batch, (self.rows, self.columns)) for each in self.attention],
        )

    def step(self, x: Tensor, position: int, state: PixelState) -> Tensor:
        """What a position gives, (B, width), from x (B, width), the input right before it (zeros before the first).

        Positions come in raster order, none left out. Without gradients, and without dropout.
        """
        row, column = divmod(position, self.columns)
        if position:
            state.codes[:, :, column - 1] = x  # before the first column: the last of the row above
        if not column:
            self._begin(row, state)
        steps = zip(state.lines, state.offsets, state.weights, self.attention, state.caches, strict=True)
        for line, offsets, (left, out), attend, cache in steps:
            receptive_field = line.shape[1] - self.columns
            line[:, receptive_field + column] = x
            mixed = torch.addmm(offsets[column], line[:, column : column + receptive_field + 1].flatten(1), left)
            x = torch.addmm(x, gate(mixed, dim=1), out)
            if cache is not None:
                x = attend.step(x, position, cache)
        return F.silu(F.linear(F.silu(x), self.last.weight, self.last.bias))

    def _begin(self, row: int, state: PixelState) -> None:
        """All that is known of a row before its first position."""
        conditioning = F.linear(state.conditioning[:, :, row].permute(2, 0, 1), state.to_conditioning).chunk(
            len(state.lines), dim=-1
        )
        above = state.codes if row else torch.zeros_like(state.codes)
        for number, layer in enumerate(self.layers):
            above, state.above[number], state.offsets[number] = layer.look_up(
                above, state.above[number], conditioning[number]
            )


class CausalAttentionBlock(nn.Module):
    """x + attention(norm(x)) over all positions up to the present; x (B, width, rows, columns)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.attention = CausalAttention(2, width, heads, width // heads)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width, rows, columns) -> the same shape; a position does not see those after it in raster order."""
        return x + self.attention(self.norm(x))

    def step(self, x: Tensor, position: int, cache: Cache) -> Tensor:
        """x (B, width) at that position."""
        attended, _ = self.attention.step(self.norm(x).unsqueeze(2), position, cache)
        return x + attended.squeeze(2)


def gate(x: Tensor, dim: int) -> Tensor:
    """tanh of the first half of the channels times the sigmoid of the second (arXiv 1606.05328, equation 2)."""
    signal, opening = x.chunk(2, dim=dim)
    return signal.tanh() * opening.sigmoid()
