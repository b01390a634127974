"""An LSTM over ids (Hochreiter and Schmidhuber 1997): what other priors are compared with."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.prior import Prior
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.nn.recurrent import recurrent


@dataclass
class LSTMState:
    """Sequences that are under way.

    Attributes:
        out, kept: what each layer's cells put out and keep, (B, width).
        weights: of each layer what a step multiplies by, (2 width, 4 width), and its bias.
        placed: (places, width), what is added to an id for its place.
        filled: how many ids there were.
    """

    out: list[Tensor]
    kept: list[Tensor]
    weights: list[tuple[Tensor, Tensor]]
    placed: Tensor
    filled: int = 0


class LSTM(Prior):
    """Ids, what they stand for and where on their grid, through layers of LSTM cells; any vocabulary.

    It reads a sequence from the first id to the last: a picture line by line, so that the code above is as far away as
    a line is long. One step is a product a layer: torch's own LSTM lays its weights out anew at every call.
    """

    name: ClassVar[str] = "lstm"

    class Options(Prior.Options):
        """Channels, layers and dropout of the LSTM."""

        width: int = Field(256, ge=1, description="channels of every position, and of the cells")
        depth: int = Field(2, ge=1, description="layers")
        dropout: float = Field(0.1, ge=0, lt=1, description="small corpora are memorised")

    options: Options

    def __init__(self, vocabulary: Vocabulary, context: int, options: Options | None = None):
        super().__init__(vocabulary, context, options)
        o = self.options
        self.ids = nn.Embedding(len(vocabulary), o.width)
        self.kinds = nn.Embedding(self.grammar.kinds, o.width)
        fixed = [grid for id_range in vocabulary.ranges for grid in id_range.grids or ()]
        extents = [max(axis) for axis in zip(*((*grid, 1, 1)[:3] for grid in fixed), strict=True)]
        self.axes = [axis for axis, extent in enumerate(extents) if extent > 1]
        self.coordinates: Any = nn.ModuleList(nn.Embedding(extents[axis], o.width) for axis in self.axes)
        self.lstm = nn.LSTM(o.width, o.width, o.depth, batch_first=True, dropout=o.dropout if o.depth > 1 else 0.0)
        self.drop = nn.Dropout(o.dropout)
        self.head = nn.Linear(o.width, len(vocabulary), bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def features(self, ids: Tensor, places: Tensor) -> Tensor:
        """Raises UserError where there are more ids than the context has."""
        self.require_room(ids.shape[1])
        return self.drop(norm(recurrent(self.lstm, self.drop(self.ids(ids) + self._placed(places)))[0]))

    def start(self, batch: int, length: int) -> LSTMState:
        """Zeros for `batch` sequences, and copies of the weights laid out for steps of one id. `length` is not used."""
        blank = self.head.weight.new_zeros(batch, self.options.width)
        layers = range(self.options.depth)
        with torch.no_grad():
            placed = self._placed(torch.arange(len(self.grammar), device=blank.device))
            return LSTMState(
                [blank for _ in layers],
                [blank for _ in layers],
                [self._weights(layer) for layer in layers],
                placed,
            )

    def step(self, ids: Tensor, places: Tensor, state: LSTMState) -> Tensor:
        """In evaluation, and without gradients."""
        state.filled += ids.shape[1]
        self.require_room(state.filled)
        with torch.no_grad():
            x = self.ids(ids) + F.embedding(places, state.placed)
            if ids.shape[1] != 1:
                output, (out, kept) = recurrent(self.lstm, x, (torch.stack(state.out), torch.stack(state.kept)))
                state.out, state.kept = [*out], [*kept]
                return norm(output)
            x = x[:, 0]
            for layer, (weight, bias) in enumerate(state.weights):
                mixed = torch.addmm(bias, torch.cat([x, state.out[layer]], dim=1), weight)
                signal = mixed.chunk(4, dim=1)[2].tanh()
                enter, keep, _, leave = mixed.sigmoid_().chunk(4, dim=1)
                state.kept[layer] = torch.addcmul(keep * state.kept[layer], enter, signal)
                x = state.out[layer] = leave * state.kept[layer].tanh()
            return norm(x).unsqueeze(1)

    def _weights(self, layer: int) -> tuple[Tensor, Tensor]:
        """Of what comes in beside what was put out."""
        parameters = [
            getattr(self.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        return torch.cat(parameters[:2], dim=1).t().contiguous(), parameters[2] + parameters[3]

    def _placed(self, places: Tensor) -> Tensor:
        """int64 (...) -> (..., width): what an id at such a place stands for, and where on its grid."""
        x = self.kinds(self.grammar.kind[places])
        for axis, embedding in zip(self.axes, self.coordinates, strict=True):
            # a line of free length may be longer than any grid: its last frames are told no place of their own
            at = self.grammar.coordinates[places, axis]
            x = x + embedding(at.clamp(max=embedding.num_embeddings - 1))
        return x


def norm(x: Tensor) -> Tensor:
    """x over the root of its mean square: what cells put out is small at first, and would be learnt from slowly."""
    return F.rms_norm(x, x.shape[-1:])
