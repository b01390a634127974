"""Networks on the waveform itself: strided convolutions with residual units between them, causal or not.

The layout is that of SEANet (Tagliasacchi et al. 2020, arXiv 2009.02095) as EnCodec has it (Défossez et al. 2022, arXiv
2210.13438, section 3.1): a wide first kernel, residual units with dilations 1, 3 and 9 at each level, a kernel of twice
the stride between levels, perhaps an LSTM where the line is shortest. Snake as activation is of Kumar et al. 2023 (DAC,
arXiv 2306.06546, section 3.1, after Ziyin et al. 2020, arXiv 2006.08195).

A causal network steps: `start(batch)`, then `step(x, None, state)` with chunks that the strides divide gives what
`forward` gives for the whole (`vqmm.tokenizer.streaming`). Causal or not is a matter of padding alone; the weights are
the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from vqmm.nn.causal import CausalConv, CausalStack, CausalUpsample, Register, spread
from vqmm.nn.layers import Attention, Stack
from vqmm.nn.network import Layer, Network, Span
from vqmm.nn.receptive_field import receptive_field, seen
from vqmm.nn.recurrent import recurrent
from vqmm.utils.errors import UserError

Activation = Literal["elu", "snake"]
Bottleneck = Literal["none", "lstm", "attention"]

LstmState = tuple[Tensor, Tensor] | None  # hidden values and cells of every layer, (layers, B, width)

NARROWEST = 8  # channels of a level, at the least
FIRST, LAST = 7, 3  # kernels at the waveform and at the codes
LSTM_LAYERS = 2


class Snake(Layer):
    """x + sin^2(a x) / a, with a frequency a > 0 learnt for each channel: zero stays zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.log_frequency = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, T) -> the same shape."""
        frequency = self.log_frequency.exp()
        return x + (frequency * x).sin().square() / frequency

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The same positions: each depends on itself alone."""
        return outputs


class CenteredConv(nn.Conv1d, Layer):
    """The non-causal twin of a strided `CausalConv`: as much padding in all, half of it on each side."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride=stride, dilation=dilation)
        padding = (kernel - 1) * dilation + 1 - stride
        self.sides = (padding - padding // 2, padding // 2)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, T) -> (B, outputs, T / stride), rounded down."""
        return super().forward(F.pad(x, self.sides))

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The inputs under the kernels of these outputs, padding included."""
        stride = self.stride[0]
        return outputs[0] * stride - self.sides[0], (outputs[1] + 1) * stride - 1 + self.sides[1]


class CenteredUpsample(Layer):
    """The non-causal twin of `CausalUpsample`: the outputs of an input depend on the nearer half of both neighbours."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(inputs, outputs * stride, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, T) -> (B, outputs, T * stride)."""
        shift = self.stride // 2
        return spread(self.conv(x), self.stride)[:, :, shift : shift + x.shape[2] * self.stride]

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The inputs that these outputs depend on, padding included: two for each output."""
        first, last = ((each + self.stride // 2) // self.stride for each in outputs)
        return first - 1, last


class ResidualUnit(Layer):
    """x + join(act(conv(act(x)))), half as wide in the middle: (B, width, T) in and out."""

    def __init__(self, width: int, dilation: int, style: "Style"):
        super().__init__()
        self.before, self.middle = style.activate(width), style.activate(width // 2)
        self.conv: Any = style.conv(width, width // 2, 3, dilation=dilation)
        self.causal = style.causal
        self.join = style.normed(nn.Conv1d(width // 2, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width, T) -> the same shape."""
        return x + self.join(self.middle(self.conv(self.before(x))))

    def start(self, batch: int) -> Register:
        """The convolution's state for `batch` streams. Causal units only."""
        return self.conv.start(batch)

    def step(self, x: Tensor, position: int | None, state: Register) -> tuple[Tensor, Register]:
        """`forward` for the next x (B, width, n) of each stream, and the state after it. Causal units only."""
        y, state = self.conv.step(self.before(x), position, state)
        return x + self.join(self.middle(y)), state

    def seen(self, outputs: Span, axis: int = 0) -> Span | None:
        """The positions that these depend on: `dilation` more on each side, or twice that before them if causal."""
        return seen(self.conv, outputs, axis)  # its own position is among them


class Recurrent(Layer):
    """x + an LSTM of x: (B, width, T) in and out. What follows a sample's end changes nothing before it."""

    causal = True

    def __init__(self, width: int, layers: int = LSTM_LAYERS):
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width, T) -> the same shape, from a state of zeros on."""
        return self.step(x, None, None)[0]

    def start(self, batch: int) -> LstmState:
        """Zeros, as torch makes them when there is no state: the number of streams is then that of the first chunk."""
        return None

    def step(self, x: Tensor, position: int | None, state: LstmState) -> tuple[Tensor, LstmState]:
        """`forward` for the next x (B, width, n) of each stream, and the state after it; a state of None is zeros."""
        if not x.numel():  # torch refuses sequences of nothing
            return x, state
        y, state = recurrent(self.lstm, x.transpose(1, 2), state)
        return x + y.transpose(1, 2), state

    def seen(self, outputs: Span, axis: int = 0) -> None:
        """None, for no limit: an output depends on all that came before it."""
        return None  # noqa: RET501 (a span: no limit)


@dataclass(frozen=True)
class Style:
    """What the layers of both networks have in common.

    Attributes:
        causal: nothing depends on what comes later.
        bottleneck: what stands where the line is shortest: an LSTM of two layers, attention, or nothing.

    Raises:
        UserError: attention in a causal network.
        ValueError: an activation or bottleneck that cannot be.
    """

    causal: bool = False
    activation: Activation = "elu"
    weight_norm: bool = True
    bottleneck: Bottleneck = "none"

    def __post_init__(self) -> None:
        if self.activation not in ("elu", "snake") or self.bottleneck not in ("none", "lstm", "attention"):
            raise ValueError(
                f"waveform networks: activation {self.activation!r}, bottleneck {self.bottleneck!r}: the activation is "
                "'elu' or 'snake', the bottleneck 'none', 'lstm' or 'attention'"
            )
        if self.causal and self.bottleneck == "attention":
            raise UserError(
                "bottleneck: attention looks at all of a sample, its future too, and causal networks must not: take "
                "lstm or none, or causal=false"
            )

    def conv(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, stride: int = 1) -> Any:
        """(B, inputs, T) -> (B, outputs, T / stride): `CausalConv` or `CenteredConv`, passed through `normed`."""
        if self.causal:
            return self.normed(CausalConv(1, inputs, outputs, kernel, dilation=dilation, stride=stride))
        return self.normed(CenteredConv(inputs, outputs, kernel, dilation=dilation, stride=stride))

    def upsample(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        """(B, inputs, T) -> (B, outputs, T * stride): `CausalUpsample` or `CenteredUpsample`, its weight `normed`."""
        layer = (CausalUpsample if self.causal else CenteredUpsample)(inputs, outputs, stride)
        self.normed(layer.conv)
        return layer

    def normed(self, layer: Any) -> Any:
        """With its weight as a length and a direction for each output (Salimans and Kingma 2016, arXiv 1602.07868)."""
        return parametrizations.weight_norm(layer) if self.weight_norm else layer

    def activate(self, channels: int) -> nn.Module:
        """A `Snake`, with a frequency for each of the channels, or an ELU."""
        return Snake(channels) if self.activation == "snake" else nn.ELU()

    def units(self, width: int, blocks: int) -> list[nn.Module]:
        """`blocks` residual units of `width` channels, with dilations 1, 3, 9, 1, ..."""
        return [ResidualUnit(width, 3 ** (block % 3), self) for block in range(blocks)]

    def between(self, width: int) -> list[nn.Module]:
        """What stands where the line is shortest."""
        if self.bottleneck == "none":
            return []
        return [Recurrent(width) if self.bottleneck == "lstm" else Attention(width)]

    def stack(self, layers: Sequence[nn.Module]) -> Stack:
        """The layers in a row: a `CausalStack`, which has `start` and `step`, or a `Stack`."""
        return (CausalStack if self.causal else Stack)(layers)


class _Waveform(Network):
    """What encoder and decoder share: their layers, with a mask or step by step."""

    takes_mask = True
    layers: Any  # Stack or CausalStack

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, T), mask bool (B, T), True where there is signal."""
        return self.layers(x, mask)

    def start(self, batch: int) -> list[Any]:
        """A state for `batch` streams. A `ValueError` for a network that is not causal."""
        if not self.causal:
            raise ValueError(
                f"{type(self).__name__}: causal is false: only a causal network goes on from chunk to chunk"
            )
        return self.layers.start(batch)

    def step(
        self, x: Tensor, position: int | None, state: list[Any], mask: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        """What `forward` gives for the next chunk of the streams, and the state after it.

        x (B, C, T) and mask (B, T) as in `forward`. Of an encoder T is a multiple of the strides' product; of a decoder
        any number of codes.
        """
        return self.layers.step(x, position, state, mask)


class WaveformEncoder(_Waveform):
    """(B, channels, T) -> (B, dim, T / the product of the strides); T is a multiple of that.

    Args:
        strides: of each level, first level first; each at least 1.
        width: channels at the coarsest level; the levels above have half as many each, 8 at the least. At least 8, and
            for attention a multiple of 4.
        blocks: residual units at each level, with dilations 1, 3, 9, 1, ...

    Raises:
        ValueError: a stride or width that cannot be.
    """

    def __init__(self, channels: int, dim: int, strides: Sequence[int], width: int, blocks: int, style: Style):
        super().__init__()
        widths = level_widths(width, strides)
        layers: list[nn.Module] = [style.conv(channels, widths[0], FIRST)]
        for stride, here, after in zip(strides, widths, widths[1:], strict=False):
            layers += [*style.units(here, blocks), style.activate(here)]
            layers += [style.conv(here, after, 2 * stride, stride=stride)]
        layers += [*style.between(width), style.activate(width), style.conv(width, dim, LAST)]
        self.layers = style.stack(layers)
        self.causal = style.causal
        self.receptive_field = receptive_field(self.layers, prod(strides), 1)


class WaveformDecoder(_Waveform):
    """The mirror of `WaveformEncoder`: (B, dim, T) -> (B, channels, T times the product of the strides).

    The arguments are those of the encoder, `strides` in the encoder's order.
    """

    def __init__(self, channels: int, dim: int, strides: Sequence[int], width: int, blocks: int, style: Style):
        super().__init__()
        widths = level_widths(width, strides)[::-1]
        layers: list[nn.Module] = [style.conv(dim, width, LAST), *style.between(width)]
        for stride, here, after in zip(reversed(strides), widths, widths[1:], strict=False):
            layers += [style.activate(here), style.upsample(here, after, stride), *style.units(after, blocks)]
        layers += [style.activate(widths[-1]), style.conv(widths[-1], channels, FIRST)]
        self.layers = style.stack(layers)
        self.causal = style.causal
        self.receptive_field = receptive_field(self.layers, 1, prod(strides))


def level_widths(width: int, strides: Sequence[int]) -> list[int]:
    """The channels at the waveform's rate, and after each stride.

    >>> level_widths(64, (2, 4, 5, 8))
    [8, 8, 16, 32, 64]
    """
    if min(strides, default=1) < 1 or width < NARROWEST:
        raise ValueError(
            f"waveform networks: strides {tuple(strides)}, width {width}: a stride is at least 1, the width at least "
            f"{NARROWEST}"
        )
    return [max(width >> (len(strides) - level), NARROWEST) for level in range(len(strides) + 1)]
