"""Layers of autoregressive models over a grid of 1, 2 or 3 axes in raster order (the last axis runs fastest).

Each runs in two ways that agree to float32 rounding: over a whole grid at once (`forward`), or one position after the
other with a state (`step`), so that sampling costs no more than one pass. A position's output never depends on a later
position. The protocol of a layer with inputs (B, C, *extent):

    state = layer.start(batch, extent)           # zeros, on the device and in the dtype of the weights
    y, state = layer.step(x, position, state)    # x (B, C, T): what stands at `position` and the T - 1 after it

`position` counts from 0 in raster order. Positions may be left out on the way forward: they count as zeros, as padding
does in `forward`. A step changes the state that it is given; a state belongs to one run and one set of weights.

A layer that does not see the present position (mask "A", strict attention) can be asked before that position is known:
`step` is `look(position, state)` and then `remember(x, position, state)`. For the others it is the other way round.
`CausalAttention` is in a file of its own, and is imported from here. `CausalUpsample` and `CausalStack` are for lines
alone (rank 1): layers that change the rate, and a whole network of layers that steps as one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.causal_attention import Cache, CausalAttention
from vqmm.nn.layers import Stack, resample_mask
from vqmm.nn.network import Layer, Span
from vqmm.nn.pointwise import Pointwise, blank

__all__ = [
    "Cache",
    "CausalAttention",
    "CausalConv",
    "CausalStack",
    "CausalUpsample",
    "GatedBlock",
    "Register",
    "spread",
]

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass
class Register:
    """The last inputs of a convolution in raster order, rows padded: a ring, so that a stream may be endless."""

    values: Tensor  # (B, length, C)
    back: Tensor  # (taps,): how far back each tap looks
    weight: Tensor  # (outputs, taps * C)
    extent: tuple[int, ...]
    strides: tuple[int, ...]  # of each axis in padded raster order
    end: int = 0  # one after the last place written, or known to be zero

    def place(self, position: int | None) -> int:
        """Where a position lies when rows (and frames) have padding after them; None: where the stream is."""
        if len(self.strides) == 1:
            return self.end if position is None else position
        if position is None:
            raise ValueError("CausalConv: a layer of rank 2 or 3 needs a position: only streams of rank 1 just go on")
        place = 0
        for size, stride in zip(self.extent[:0:-1], self.strides[:0:-1], strict=True):
            position, within = divmod(position, size)
            place += within * stride
        return place + position * self.strides[0]

    def advance(self, place: int) -> None:
        """Zeros for all that was left out before `place`."""
        if place > self.end:
            length = self.values.shape[1]
            first = max(self.end, place - length) % length
            count = min(place - self.end, length)
            self.values[:, first : first + count] = 0
            self.values[:, : max(first + count - length, 0)] = 0
            self.end = place

    def slots(self, first: int, count: int) -> Tensor:
        """Where the ring keeps the `count` places from `first` on: int64 (count,)."""
        return torch.arange(first, first + count, device=self.back.device) % self.values.shape[1]


class CausalConv(Layer):
    """A convolution that sees the positions before (mask "A") or up to (mask "B") the present in raster order.

    Rank 1: the last `kernel` positions, `dilation` apart (van den Oord et al. 2016, arXiv 1609.03499); mask "A" starts
    one position earlier. Rank 2 and 3: the part of a box of `kernel` positions a side around the present that comes
    before it (van den Oord et al. 2016, arXiv 1601.06759, section 3.4); `kernel` is odd. Stacked, those do not see a
    wedge up and to the right of the present; attention or a condition can tell of it.

    With `stride` (rank 1, mask "B") there is one output for each `stride` inputs, made when the last of them is known.

    Its state holds the span of the kernel: for rank 1 (kernel - 1) * dilation + 1 positions however long the stream,
    for rank 2 and 3 `kernel // 2` rows or frames. For rank 1 a step takes chunks of any length that the stride
    divides, and a position of None goes on where the stream is.

    Raises:
        ValueError: a combination that cannot be, with its values.
    """

    causal = True

    def __init__(
        self,
        rank: int,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        dilation: int = 1,
        stride: int = 1,
        mask: Literal["A", "B"] = "B",
    ):
        super().__init__()
        if rank not in _CONV or mask not in ("A", "B") or min(kernel, dilation, stride) < 1:
            raise ValueError(
                f"CausalConv: rank {rank}, mask {mask!r}, kernel {kernel}, dilation {dilation}, stride {stride}: rank "
                "is 1, 2 or 3, mask 'A' or 'B', the others at least 1"
            )
        if rank > 1 and (kernel % 2 == 0 or (mask == "A" and kernel == 1)):
            raise ValueError(f"CausalConv: a kernel of {kernel} at rank {rank}: must be odd, with mask 'A' at least 3")
        self.span = (kernel - 1) * dilation + 1
        if stride > 1 and (rank > 1 or mask == "A" or stride > self.span):
            raise ValueError(
                f"CausalConv: stride {stride} with rank {rank}, mask {mask!r} and a kernel that spans {self.span}: a "
                "stride needs rank 1, mask 'B' and a span at least as long"
            )
        self.rank, self.kernel, self.dilation, self.stride, self.mask = rank, kernel, dilation, stride, mask
        self.shape = (kernel,) if rank == 1 else (kernel // 2 + 1, *(kernel,) * (rank - 1))
        taps = kernel
        if rank > 1:  # of the box, those before the present position come first
            taps = (kernel**rank) // 2 + (mask == "B")
        bound = 1 / math.sqrt(inputs * taps)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, taps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, *extent) -> (B, outputs, *extent); with a stride the extent is divided by it, rounded down."""
        if self.rank == 1:
            return self._over(F.pad(x, (self.span, -1) if self.mask == "A" else (self.span - self.stride, 0)))
        receptive_field = self.dilation * (self.kernel // 2)
        padded = F.pad(x, (*(receptive_field, receptive_field) * (self.rank - 1), receptive_field, 0))
        missing = math.prod(self.shape) - self.weight.shape[2]
        weight = F.pad(self.weight, (0, missing)).unflatten(2, self.shape)
        return _CONV[self.rank](padded, weight, self.bias, dilation=self.dilation)

    def _over(self, line: Tensor) -> Tensor:
        if line.shape[2] < self.span:
            return line.new_zeros(len(line), len(self.bias), 0)
        return F.conv1d(line, self.weight, self.bias, self.stride, dilation=self.dilation)

    def start(self, batch: int, extent: Sequence[int] = ()) -> Register:
        """A state for `batch` samples. `extent` may be left out for rank 1, whose streams have no end."""
        if self.rank > 1 and len(extent) != self.rank:
            raise ValueError(f"CausalConv.start: an extent of {tuple(extent)} for a layer of rank {self.rank}")
        receptive_field = self.dilation * (self.kernel // 2)
        strides = [1]
        for size in [*extent][:0:-1]:
            strides.insert(0, strides[0] * (size + receptive_field))  # one margin serves as right and as left padding
        if self.rank == 1:
            back = self.span - 1 - self.dilation * torch.arange(self.kernel) + (self.mask == "A")
        else:
            boxes = torch.cartesian_prod(*(torch.arange(n) for n in self.shape))[: self.weight.shape[2]]
            back = self.dilation * (self.kernel // 2 - boxes) @ torch.tensor(strides)
        weight = self.weight.detach()
        values = weight.new_zeros(batch, int(back.max()) + 1, weight.shape[1])
        flat = weight.transpose(1, 2).flatten(1)
        return Register(values, back.to(weight.device), flat, tuple(extent), tuple(strides))

    def step(self, x: Tensor, position: int | None, state: Register) -> tuple[Tensor, Register]:
        """x (B, inputs, T) at `position` and after -> (B, outputs, T / stride), and the state after that."""
        if self.rank == 1 and (self.stride > 1 or x.shape[2] != 1):
            return self._chunk(x, position, state), state
        outputs = []
        for t in range(x.shape[2]):
            at = state.place(None if position is None else position + t)
            if self.mask == "A":
                outputs.append(self._look(at, state))
            self._remember(x[:, :, t : t + 1], at, state)
            if self.mask == "B":
                outputs.append(self._look(at, state))
        return torch.stack(outputs, dim=2), state

    def look(self, position: int | None, state: Register) -> Tensor:
        """The output (B, outputs, 1) at a position, from what is remembered."""
        return self._look(state.place(position), state).unsqueeze(2)

    def remember(self, x: Tensor, position: int | None, state: Register) -> None:
        """Keep x (B, inputs, 1), which stands at that position."""
        self._remember(x, state.place(position), state)

    def _look(self, place: int, state: Register) -> Tensor:
        state.advance(place)
        seen = state.values.index_select(1, (place - state.back) % state.values.shape[1])
        return F.linear(seen.flatten(1), state.weight, self.bias)

    def _remember(self, x: Tensor, place: int, state: Register) -> None:
        self._forward_only(place, state)
        state.advance(place)
        state.values[:, place % state.values.shape[1]] = x.squeeze(2)
        state.end = place + 1

    @staticmethod
    def _forward_only(place: int, state: Register) -> None:
        if place < state.end:
            raise ValueError(
                f"CausalConv: place {place} after {state.end - 1} (rows padded): a state only goes forward"
            )

    def _chunk(self, x: Tensor, position: int | None, state: Register) -> Tensor:
        time = x.shape[2]
        if time % self.stride:
            raise ValueError(
                f"CausalConv.step: a chunk of {time} positions does not divide by the stride {self.stride}"
            )
        first = state.place(position)
        self._forward_only(first, state)
        state.advance(first)
        before = self.span if self.mask == "A" else self.span - self.stride
        past = state.values.index_select(1, state.slots(first - before, before)).transpose(1, 2)
        line = torch.cat([past, x], dim=2)
        kept = min(time, state.values.shape[1])
        if kept:
            state.values[:, state.slots(first + time - kept, kept)] = x[:, :, time - kept :].transpose(1, 2).to(past)
        state.end = first + time
        return self._over(line[:, :, :-1] if self.mask == "A" else line)

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The inputs under the kernels of these outputs, of rank 1 alone: a position of a grid sees whole rows."""
        if self.rank > 1:
            raise TypeError(f"CausalConv.seen: rank {self.rank}: only a line has a span along an axis")
        first, last = outputs
        if self.mask == "A":
            return first - self.span, last - 1
        return first * self.stride - self.span + self.stride, (last + 1) * self.stride - 1


class GatedBlock(Layer):
    """x + out(tanh(a) * sigmoid(b)) with a, b from a causal convolution of x and from a condition on the same grid.

    van den Oord et al. 2016 (arXiv 1606.05328, equations 2 and 4; arXiv 1609.03499, section 2.4). Inside, positions
    outside the mask count as zeros, so padding never leaks.

    Args:
        condition: channels of the condition, 0 for none. It does not mix positions, so it may come from all of a code.
        skip: channels of the second output, for a sum over all blocks.
        hidden: channels of the gate, `width` by default.
    """

    causal = True

    def __init__(
        self,
        rank: int,
        width: int,
        kernel: int = 3,
        *,
        dilation: int = 1,
        condition: int = 0,
        skip: int = 0,
        hidden: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        hidden = width if hidden is None else hidden
        self.conv = CausalConv(rank, width, 2 * hidden, kernel, dilation=dilation)
        self.condition = Pointwise(condition, 2 * hidden, bias=False) if condition else None
        self.out = Pointwise(hidden, width + skip)
        self.dropout = nn.Dropout(dropout)
        self.split = [width, skip]

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, width, *extent), condition (B, channels, *extent) -> (x for the next block, skip), both on the grid."""
        return self._gate(x, self.conv(self.dropout(blank(x, mask))), condition)

    def start(self, batch: int, extent: Sequence[int] = ()) -> Register:
        """A state for `batch` samples, that of the causal convolution; for rank 1 `extent` may be left out."""
        return self.conv.start(batch, extent)

    def step(
        self,
        x: Tensor,
        position: int | None,
        state: Register,
        condition: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[tuple[Tensor, Tensor], Register]:
        """As `forward`, for x (B, width, T), condition (B, channels, T) and mask (B, T) at `position` and after."""
        mixed, state = self.conv.step(self.dropout(blank(x, mask)), position, state)
        return self._gate(x, mixed, condition), state

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The positions that the convolution sees; a position's own is among them."""
        return self.conv.seen(outputs, axis)

    def _gate(self, x: Tensor, mixed: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.condition is not None:
            mixed = mixed + self.condition(condition)
        a, b = mixed.chunk(2, dim=1)
        onward, skip = self.out(a.tanh() * b.sigmoid()).split(self.split, dim=1)
        return x + onward, skip


class CausalUpsample(Layer):
    """(B, inputs, T) -> (B, outputs, T * stride): a transposed convolution that uses nothing of the future.

    Its kernel is 2 * stride long and what it gives after the last input is cut off, so the `stride` outputs of an input
    depend on that input and the one before. The same sums as a `CausalConv` over two inputs that gives all outputs of
    an input at once, which is how they are computed: on a CPU that takes a quarter to the whole of a transposed
    convolution's time (measured for strides of 2 to 8).
    """

    causal = True

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        if stride < 1:
            raise ValueError(f"CausalUpsample: stride {stride}: must be at least 1")
        self.stride = stride
        self.conv = CausalConv(1, inputs, outputs * stride, 2)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, T) -> (B, outputs, T * stride)."""
        return spread(self.conv(x), self.stride)

    def start(self, batch: int, extent: Sequence[int] = ()) -> Register:
        """A state for `batch` streams; `extent` may be left out."""
        return self.conv.start(batch, extent)

    def step(self, x: Tensor, position: int | None, state: Register) -> tuple[Tensor, Register]:
        """x (B, inputs, T) at `position` and after -> (B, outputs, T * stride), and the state after that."""
        y, state = self.conv.step(x, position, state)
        return spread(y, self.stride), state

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The inputs of these outputs: that of each, and the one before."""
        first, last = outputs
        return self.conv.seen((first // self.stride, last // self.stride), axis)


def spread(y: Tensor, stride: int) -> Tensor:
    """(B, C * stride, T) -> (B, C, T * stride): each position's `stride` values of a channel, one after the other."""
    return y.unflatten(1, (y.shape[1] // stride, stride)).transpose(2, 3).flatten(2)


class CausalStack(Stack):
    """A `Stack` over a line whose layers never look ahead, stepping as one. A layer that does not step is pointwise.

    A step takes as many positions as the product of the strides divides. The mask of a step is that of its positions:
    False for what follows the end of a sample.
    """

    def start(self, batch: int) -> list[Any]:
        """A state for `batch` streams."""
        return [layer.start(batch) if isinstance(layer, Layer) and layer.causal else None for layer in self]

    def step(
        self, x: Tensor, position: int | None, state: list[Any], mask: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        """x (B, C, T), mask bool (B, T) -> what `forward` gives for these positions of the stream, and the state."""
        if position is not None:
            raise ValueError(f"CausalStack.step: position {position}: a stack just goes on, its position is None")
        for number, layer in enumerate(self):
            if mask is not None:
                mask = resample_mask(mask, x.shape[2:])
                x = blank(x, mask)
            if isinstance(layer, Layer) and layer.causal:
                x, state[number] = layer.step(x, None, state[number])
            else:
                x = layer(x)
        return x, state
