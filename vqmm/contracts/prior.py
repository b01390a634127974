"""Prior: a distribution over sequences of ids."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.grammar import Grammar
from vqmm.contracts.options import PartOptions
from vqmm.contracts.vocabulary import NULL, PAD, Vocabulary
from vqmm.utils.errors import UserError


@dataclass(frozen=True)
class Scored:
    """What a prior thinks of a batch.

    Attributes:
        loss: a scalar with a gradient, in nats: the mean over each block's codes, then over the blocks of a sample,
            then over samples. So the 64 ids of a picture do not drown the two of a word.
        nats: float64 (ranges,): the sum over all that was counted, by range.
        counts: int64 (ranges,): how many ids that were.
    """

    loss: Tensor
    nats: Tensor
    counts: Tensor


class Prior(nn.Module):
    """A causal model of sequences of ids (`vqmm.contracts.vocabulary`). A plugin registers the class.

    It makes *features* of each position, from that position and those before; the scores of the id that comes next are
    the features times rows of `head.weight`, of which only the legal ones are computed. An id that is not legal so has
    probability exactly 0, in `loss` and in `vqmm.generation.sampling`.

    Promises (`vqmm.testing.check_prior` checks them):
    - The features of a position depend on no later one.
    - `step` one id after the other, or several at a time, gives what `features` gives of the whole (to 1e-4).
    - In evaluation nothing is random.

    Args:
        context: how many ids a sequence has at most.
    """

    name: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}  # libraries: what is imported, and what pip installs for it
    head: nn.Linear | nn.Embedding  # its weight: (len(vocabulary), width)

    class Options(PartOptions):
        """What a recipe can set under `prior` besides the name: nothing here; a subclass adds its own."""

    options: Options

    def __init__(self, vocabulary: Vocabulary, context: int, options: Options | None = None):
        super().__init__()
        if context < 2 or not vocabulary.ranges:
            raise UserError(
                f"a prior with a context of {context} ids over {len(vocabulary.ranges)} modalities: must be at least "
                "2 and 1"
            )
        self.vocabulary, self.context = vocabulary, context
        self.grammar = Grammar(vocabulary)
        self.options = self.Options() if options is None else options

    # What a plugin brings

    def features(self, ids: Tensor, places: Tensor) -> Tensor:
        """ids and their places, int64 (B, L) with L at most `context` -> (B, L, width). `grammar` tells of places."""
        raise NotImplementedError(f"{type(self).__name__} needs a method features(ids, places)")

    def start(self, batch: int, length: int) -> Any:
        """A state for `batch` sequences of at most `length` ids."""
        raise NotImplementedError(f"{type(self).__name__} needs a method start(batch, length)")

    def step(self, ids: Tensor, places: Tensor, state: Any) -> Tensor:
        """The features (B, T, width) of the next T ids and their places, (B, T). It changes the state."""
        raise NotImplementedError(f"{type(self).__name__} needs a method step(ids, places, state)")

    def init_embeddings(self, vectors: Mapping[str, Sequence[Tensor]]) -> None:
        """Before training: by range the vectors (K, D) of the codes of each stage, where they are known."""

    # What the core makes of it

    def require_room(self, length: int, what: str = "a sequence") -> None:
        """A `UserError` for a sequence of more ids than the context has; `what` it is, to begin the message with."""
        if length > self.context:
            raise UserError(
                f"{what} of {length} ids: this prior's context is {self.context}: give fewer, or train a prior with a "
                "longer context"
            )

    def score(self, features: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """float32 (..., high - low): the logits of the ids [low, high) after features (..., width)."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.head.weight[low:high].float())

    def logits(self, ids: Tensor) -> Tensor:
        """(B, L) -> float32 (B, L, ids): of the id after each position; -inf for what is not legal inside a block.

        Large: `loss` and sampling compute only what is legal.
        """
        places = self.grammar.places(ids)
        every = torch.arange(len(self.vocabulary), device=ids.device)
        low, high = self.grammar.low[places][..., None], self.grammar.high[places][..., None]
        free = low == high  # outside of blocks the order is free
        legal = free | ((low <= every) & (every < high))
        return self.score(self.features(ids, places)).masked_fill(~legal, -math.inf)

    def forward(self, ids: Tensor, given: Tensor | None = None, hidden: Tensor | None = None) -> Scored:
        """`loss`, for those who wrap modules."""
        return self.loss(ids, given, hidden)

    def loss(self, ids: Tensor, given: Tensor | None = None, hidden: Tensor | None = None) -> Scored:
        """How likely the codes of these sequences are.

        Counted are the codes of a block and, where its length is free, its end; not what begins a block, for the order
        of modalities is free.

        Args:
            ids: int64 (B, L), whole blocks with PAD after them.
            given: int64 (B,): the first so many ids of each sequence are a condition, and not counted.
            hidden: bool (B, L): NULL is shown in the place of these; they count all the same.

        Raises:
            UserError: sequences longer than the context, or nothing to count in them.
            ValueError: an id that is not legal where it stands, among those that count.
        """
        if ids.ndim != 2:
            raise UserError(f"sequences of shape {tuple(ids.shape)}: must be (B, L)")
        self.require_room(ids.shape[1])
        grammar = self.grammar
        before, goals = grammar.places(ids)[:, :-1], ids[:, 1:]
        counted = grammar.counted[before]
        if given is not None:
            counted = counted & (torch.arange(1, ids.shape[1], device=ids.device) >= given[:, None])
        wrong = counted & ((goals < grammar.low[before]) | (goals >= grammar.high[before]))
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(f"Prior.loss: id {int(goals[row, column])} is not legal at ({row}, {column + 1})")
        if not counted.any():
            raise UserError(f"nothing to learn in {len(ids)} sequences of {ids.shape[1]} ids: all of them are given")
        shown = ids if hidden is None else ids.masked_fill(hidden, NULL)
        nats = self._nats(shown[:, :-1], before, goals, counted)
        owner = grammar.range[before]
        sums = nats.new_zeros(len(self.vocabulary.ranges), dtype=torch.float64)
        return Scored(
            self._normalised(nats, ids, counted),
            sums.index_add(0, owner[counted], nats.detach()[counted].double()),
            torch.bincount(owner[counted], minlength=len(sums)),
        )

    def _nats(self, ids: Tensor, before: Tensor, goals: Tensor, counted: Tensor) -> Tensor:
        """(B, L) float32: minus the log-probability of each goal that is counted, among the legal ids; 0 elsewhere."""
        features = self.features(ids, before).flatten(0, 1)
        spans = torch.where(counted, self.grammar.span[before], -1).flatten()
        goals, where, losses = goals.flatten(), [], []
        for number in spans.unique().tolist():
            if number >= 0:
                low, high = self.grammar.spans[number]
                rows = (spans == number).nonzero()[:, 0]
                where.append(rows)
                losses.append(
                    F.cross_entropy(self.score(features[rows], low, high), goals[rows] - low, reduction="none")
                )
        zeros = torch.zeros(len(goals), device=ids.device)
        return zeros.index_copy(0, torch.cat(where), torch.cat(losses)).view(ids.shape)

    def _normalised(self, nats: Tensor, ids: Tensor, counted: Tensor) -> Tensor:
        block = (ids[..., None] == self.grammar.begins).any(dim=2).cumsum(dim=1)[:, 1:]  # from 1 on
        zeros = nats.new_zeros(len(ids), len(self.vocabulary.ranges) + 1)
        sums, counts = (zeros.scatter_add(1, block, each) for each in (nats, counted.to(nats)))
        means = sums / counts.clamp(min=1)
        blocks = (counts > 0).sum(dim=1)
        return (means.sum(dim=1) / blocks.clamp(min=1)).sum() / (blocks > 0).sum()


def without_condition(ids: Tensor, given: Tensor, dropped: Tensor) -> Tensor:
    """Sequences (B, L) with the first `given` (B,) ids NULL where `dropped`, bool (B,), and the rest as it was."""
    condition = torch.arange(ids.shape[1], device=ids.device) < given[:, None]
    return torch.where(condition & dropped[:, None] & (ids != PAD), NULL, ids)
