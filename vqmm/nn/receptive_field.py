"""How far a network over a grid sees: which inputs an output may depend on, from its kernels, strides and dilations.

Long samples are cut into pieces by it (`vqmm.tokenizer.long_signals`): with so much of its true surroundings on both
sides, a piece gives what the whole gives.
"""

from typing import Any

from torch import nn

from vqmm.nn.causal import CausalAttention, CausalConv, CausalUpsample, GatedBlock
from vqmm.nn.layers import Attention, ChannelNorm, ResidualBlock
from vqmm.nn.pointwise import Pointwise

Span = tuple[int, int]  # the first and the last position

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POINTWISE = (nn.SiLU, nn.ELU, nn.ReLU, nn.GELU, nn.Tanh, nn.Identity, nn.Dropout, ChannelNorm, Pointwise)


def receptive_field(layers: nn.Module, inputs: int, outputs: int, axis: int = 0) -> int | None:
    """How many cells to each side of its own an output may depend on; None: all of them (attention, recurrence).

    A cell is what one code spans along `axis`: `inputs` positions before the layers and `outputs` after them, such as
    320 and 1 for an encoder that divides by 320, 1 and 320 for its decoder.
    """
    span = seen(layers, (0, outputs - 1), axis)
    return None if span is None else max(-(span[0] // inputs), span[1] // inputs)


def seen(layer: Any, outputs: Span, axis: int = 0) -> Span | None:
    """The inputs that these outputs may depend on, padding before 0 included. None: there is no limit.

    A layer that is not of this house says so itself, by a method `seen(outputs)` that gives the same.

    Raises:
        TypeError: a layer of which nothing is known.
    """
    first, last = outputs
    if hasattr(layer, "seen"):
        return layer.seen(outputs)
    if isinstance(layer, nn.ModuleList | nn.Sequential):
        span: Span | None = outputs
        for each in reversed(list(layer)):
            span = None if span is None else seen(each, span, axis)
        return span
    if isinstance(layer, _POINTWISE):
        return outputs
    if isinstance(layer, Attention | CausalAttention):
        return None
    if isinstance(layer, ResidualBlock):
        return seen(layer.spread, outputs, axis)
    if isinstance(layer, GatedBlock | CausalUpsample):
        return _around(layer, outputs, axis)
    if isinstance(layer, CausalConv) and layer.rank == 1:
        if layer.mask == "A":
            return first - layer.span, last - 1
        return first * layer.stride - layer.span + layer.stride, (last + 1) * layer.stride - 1
    if isinstance(layer, _CONV):
        start = first * layer.stride[axis] - int(layer.padding[axis])
        return start, last * layer.stride[axis] - int(layer.padding[axis]) + _length(layer, axis)
    if isinstance(layer, _CONV_TRANSPOSE):
        stride, padding = layer.stride[axis], int(layer.padding[axis])
        return -((_length(layer, axis) - first - padding) // stride), (last + padding) // stride
    raise TypeError(f"seen: nothing is known of {type(layer).__name__}: give it a method seen(outputs)")


def _around(layer: GatedBlock | CausalUpsample, outputs: Span, axis: int) -> Span | None:
    """Of a layer around one convolution; a residual's own position is always among what that sees."""
    stride = layer.stride if isinstance(layer, CausalUpsample) else 1
    return seen(layer.conv, (outputs[0] // stride, outputs[1] // stride), axis)


def _length(layer: Any, axis: int) -> int:
    """From the first to the last tap of a kernel."""
    return layer.dilation[axis] * (layer.kernel_size[axis] - 1)
