"""How far a network over a grid sees: which inputs an output may depend on, from its kernels, strides and dilations.

Long samples are cut into pieces by it (`vqmm.tokenizer.long_signals`): with so much of its true surroundings on both
sides, a piece gives what the whole gives.
"""

import math
from typing import Any

from torch import nn

from vqmm.nn.network import Layer, Span

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POINTWISE = (nn.SiLU, nn.ELU, nn.ReLU, nn.GELU, nn.Tanh, nn.Identity, nn.Dropout)


def receptive_field(layers: nn.Module, inputs: int, outputs: int, axis: int = 0) -> float:
    """How many cells to each side of its own an output may depend on; `math.inf`: all of them (attention, recurrence).

    A cell is what one code spans along `axis`: `inputs` positions before the layers and `outputs` after them, such as
    320 and 1 for an encoder that divides by 320, 1 and 320 for its decoder.
    """
    span = seen(layers, (0, outputs - 1), axis)
    return math.inf if span is None else max(-(span[0] // inputs), span[1] // inputs)


def seen(layer: nn.Module, outputs: Span, axis: int = 0) -> Span | None:
    """The inputs that these outputs may depend on, padding before 0 included. None: there is no limit.

    A `Layer` says so itself; of torch's own the common ones are known.

    Raises:
        TypeError: a layer of which nothing is known.
    """
    first, last = outputs
    if isinstance(layer, Layer):
        return layer.seen(outputs, axis)
    if isinstance(layer, nn.ModuleList | nn.Sequential):
        span: Span | None = outputs
        for each in reversed(list(layer)):
            span = None if span is None else seen(each, span, axis)
        return span
    if isinstance(layer, _POINTWISE):
        return outputs
    if isinstance(layer, _CONV):
        start = first * layer.stride[axis] - int(layer.padding[axis])
        return start, last * layer.stride[axis] - int(layer.padding[axis]) + _length(layer, axis)
    if isinstance(layer, _CONV_TRANSPOSE):
        stride, padding = layer.stride[axis], int(layer.padding[axis])
        return -((_length(layer, axis) - first - padding) // stride), (last + padding) // stride
    raise TypeError(
        f"seen: nothing is known of {type(layer).__name__}: derive it from vqmm.nn.Layer, with a method seen(outputs)"
    )


def _length(layer: Any, axis: int) -> int:
    """From the first to the last tap of a kernel."""
    return layer.dilation[axis] * (layer.kernel_size[axis] - 1)  # type: ignore[no-any-return]
