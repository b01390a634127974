"""What the core asks of layers, encoders and decoders beyond `forward`, with a default for everything.

They are classes to derive from, and no `typing.Protocol`: a plain `nn.Module` (an `nn.Sequential`, a network of another
library) has none of these attributes, and still counts as a network with every default (`as_network`).
"""

from typing import Any

from torch import Tensor, nn

Span = tuple[int, int]  # the first and the last position


class Layer(nn.Module):
    """A layer that says more of itself than `forward`.

    Attributes:
        takes_mask: it is called with (x, mask), mask bool (B, *extent), and what the mask hides changes nothing else.
        causal: no output depends on a later input, so the layer steps: it has `start` and `step`.
    """

    takes_mask: bool = False
    causal: bool = False

    def start(self, batch: int) -> Any:
        """A state for `batch` streams, for a causal layer."""
        raise NotImplementedError(f"{type(self).__name__} needs a method start(batch): it is causal")

    def step(self, x: Tensor, position: int | None, state: Any) -> tuple[Any, Any]:
        """What `forward` gives for the next x (B, C, T) of each stream, and the state after it, for a causal layer.

        `position` counts in raster order (`vqmm.nn.causal`); None: where the stream is.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method step(x, position, state): it is causal")

    def seen(self, outputs: Span, axis: int = 0) -> Span | None:
        """The inputs along an axis that these outputs may depend on, padding before 0 included. None: no limit."""
        raise TypeError(f"{type(self).__name__} needs a method seen(outputs, axis): nothing is known of what it sees")


class Network(Layer):
    """An encoder or decoder that says more of itself than `forward`. Derive from it, and set what differs.

    A network that `takes_mask` lets lines of several lengths go through it together. One that is `causal` streams: the
    next x (B, C, T) of an encoder has T a multiple of the samples of a code, and gives T / that many latents; T vectors
    of a decoder give that many samples each; `step` gets a mask (B, T) too, if the network `takes_mask`.

    Attributes:
        receptive_field: how many codes to each side of its own an output may depend on, the most of any axis: long
            samples go through in pieces with so much of their surroundings. `math.inf`: all of them, so pieces only
            come near the whole. None: it is not known, and samples go through whole.
        lookahead: samples of the future that a causal network waits for, a multiple of those of a code. The outputs of
            its steps come late by so many: the first ones of a stream stand for nothing, and the last ones come when as
            much has been fed of zeros, whose mask is False.
    """

    receptive_field: float | None = None
    lookahead: int = 0

    def step(self, x: Tensor, position: int | None, state: Any, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """What `forward` gives for the next x (B, C, T), mask bool (B, T), and the state after it. `position` is None:
        a network goes on where its streams are."""
        raise NotImplementedError(f"{type(self).__name__} needs a method step(x, position, state, mask)")


class _Plain(Network):
    """Every default, for a module that says nothing of itself. It holds the module's call and not the module, whose
    weights stay under the names that they have."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self._call = module.__call__

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)  # type: ignore[no-any-return]


def as_network(module: nn.Module) -> Network:
    """The module itself if it is a `Network`, else a view of it that has every default."""
    return module if isinstance(module, Network) else _Plain(module)


def call_masked(module: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Call a layer or network with the mask if it says that it takes one."""
    return module(x, mask) if isinstance(module, Layer) and module.takes_mask else module(x)  # type: ignore[no-any-return]
