"""Which id may follow which, by *places*: the states of a small automaton.

A place is the begin of a range, one of the places for codes in it, its end, PAD or NULL; ids and places stand for one
another along a sequence. After each place inside a block the legal ids are one interval [low, high), because the id of
`end` stands right before those of the codes that begin a frame: that interval is all that a loss or a draw needs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.vocabulary import NULL, PAD, Range, Vocabulary
from vqmm.utils.errors import UserError


@dataclass(frozen=True)
class Cursor:
    """Where each of B sequences stands: `place` int64 (B,), and `present` bool (B, ranges): the modalities so far."""

    place: Tensor
    present: Tensor


class Place(NamedTuple):
    """See `Grammar`, which holds a tensor of each."""

    kind: int
    range: int = -1
    map: int = -1
    stage: int = -1
    coordinates: tuple[int, ...] = (0, 0, 0)
    low: int = 0
    high: int = 0


class Grammar(nn.Module):
    """The places of a vocabulary. Its tensors (int64 where not said otherwise) move with the module it is part of.

    Indexed by place:
        kind: one number for PAD, one for NULL, then for each range one for begin, each stage of each map, and end.
        range: the number of the range; -1 for PAD and NULL.
        map, stage: of a code; -1 elsewhere.
        coordinates: (places, 3), on the map's grid; 0 for axes that are not there.
        low, high: what may follow inside a block; low == high where the place is outside of blocks.
        span: the number of (low, high) in the list `spans`; -1 outside of blocks.
        counted: bool: what follows is part of a loss. Not outside of blocks, where the order is free; nor the end of
            a fixed grid, which is certain.
        outside: bool: an end, or NULL: a block may begin here.

    Indexed by id:
        anchor: the place of a begin, end, PAD or NULL; -1 for a code, which stands one place after the id before it.
        owner: the number of the range; -1 for PAD and NULL.
    """

    kind: Tensor
    range: Tensor
    map: Tensor
    stage: Tensor
    coordinates: Tensor
    low: Tensor
    high: Tensor
    span: Tensor
    counted: Tensor
    outside: Tensor
    anchor: Tensor
    owner: Tensor
    begins: Tensor

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self.vocabulary = vocabulary
        rows = [Place(PAD), Place(NULL)]
        anchor, owner = torch.full((len(vocabulary),), -1), torch.full((len(vocabulary),), -1)
        anchor[PAD], anchor[NULL] = PAD, NULL
        kinds = 2
        for number, id_range in enumerate(vocabulary.ranges):
            anchor[id_range.begin] = len(rows)
            rows += _rows_of(id_range, number, kinds)
            anchor[id_range.end] = len(rows) - 1
            owner[id_range.begin : id_range.stop] = number
            kinds = rows[-1].kind + 1
        for name, column in zip(Place._fields, zip(*rows, strict=True), strict=True):
            self._keep(name, torch.tensor(column))
        self.kinds = kinds
        pairs = [*zip(self.low.tolist(), self.high.tolist(), strict=True)]
        numbers = {pair: -1 for pair in pairs if pair[0] == pair[1]}
        self.spans = [*dict.fromkeys(pair for pair in pairs if pair not in numbers)]
        numbers |= {pair: number for number, pair in enumerate(self.spans)}
        self._keep("span", torch.tensor([numbers[pair] for pair in pairs]))
        inside = self.span >= 0
        # -1 is the last: False
        free = torch.tensor([id_range.free for id_range in vocabulary.ranges] + [False])[self.range]
        only_end = (self.high - self.low == 1) & (anchor[self.low] >= 0)
        self._keep("counted", inside & (free | ~only_end))
        outside = ~inside
        outside[PAD] = False
        self._keep("outside", outside)
        self._keep("anchor", anchor)
        self._keep("owner", owner)
        self._keep("begins", torch.tensor([id_range.begin for id_range in vocabulary.ranges], dtype=torch.int64))

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)  # the vocabulary says it all

    def __len__(self) -> int:
        """How many places there are."""
        return len(self.kind)

    # Whole sequences

    def places(self, ids: Tensor) -> Tensor:
        """The place of each id: int64 (B, L) -> (B, L). Of what comes after an illegal id it says nothing sensible."""
        anchor = self.anchor[ids]
        index = torch.arange(ids.shape[1], device=ids.device)
        last = torch.where(anchor >= 0, index, 0).cummax(dim=1).values  # the last begin, end, PAD or NULL
        place = self.anchor[ids.gather(1, last)] + index - last
        return place.clamp(0, len(self) - 1)

    def follows(self, ids: Tensor) -> Tensor:
        """bool (B, L): whether each id is legal after those before it, if those are."""
        before = F.pad(self.places(ids)[:, :-1], (1, 0), value=NULL)  # where nothing came yet is as after NULL
        inside = (self.low[before] <= ids) & (ids < self.high[before])
        is_begin = ids.unsqueeze(2) == self.begins  # (B, L, ranges)
        fresh = (is_begin & (is_begin.cumsum(dim=1) == 1)).any(dim=2)
        begins = self.outside[before] & fresh
        void = (ids == NULL) & (before == NULL)
        nothing = (ids == PAD) & (before != NULL) & (self.outside[before] | (before == PAD))
        return inside | begins | void | nothing

    def split(self, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """The maps of every block of one sequence (L,), each (stages, *grid), by modality in the order they came.

        Raises:
            UserError: an id that may not stand where it does, and what may; a block that does not end.
        """
        ids = ids.to(self.kind)
        if ids.ndim != 1 or ((ids < 0) | (ids >= len(self.vocabulary))).any():
            raise UserError(
                f"a sequence of shape {tuple(ids.shape)} with ids {_extent(ids)}: must be one line of ids from 0 to "
                f"{len(self.vocabulary) - 1}"
            )
        wrong = (~self.follows(ids[None])[0]).nonzero().flatten().tolist()
        if wrong:
            place, present = self._after(ids[: wrong[0]])
            raise UserError(
                f"id {int(ids[wrong[0]])} ({self.describe(int(ids[wrong[0]]))}) cannot stand at position {wrong[0]} of "
                f"a sequence: there may be {self._choices(place, present)}"
            )
        place, present = self._after(ids)
        if self.low[place] < self.high[place]:
            raise UserError(
                f"a sequence of {len(ids)} ids stops inside a block: {self._choices(place, present)} is due"
            )
        blocks = {}
        starts = (ids[:, None] == self.begins).any(dim=1).nonzero().flatten().tolist()
        for start in starts:
            id_range = self.vocabulary.ranges[int(self.owner[ids[start]])]
            length = (ids[start:] == id_range.end).nonzero()[0]
            blocks[id_range.name] = id_range.split(ids[start + 1 : start + int(length)])
        return blocks

    # One id after the other

    def start(self, batch: int) -> Cursor:
        """Before the first id."""
        place = torch.full((batch,), NULL, device=self.kind.device)
        return Cursor(place, torch.zeros(batch, len(self.begins), dtype=torch.bool, device=place.device))

    def advance(self, cursor: Cursor, ids: Tensor) -> Cursor:
        """After one more id for each sequence, int64 (B,), which must be legal."""
        anchor = self.anchor[ids]
        place = torch.where(anchor >= 0, anchor, cursor.place + 1).clamp(max=len(self) - 1)
        return Cursor(place, cursor.present | (ids[:, None] == self.begins))

    def legal(self, cursor: Cursor) -> Tensor:
        """bool (B, ids): what may come next."""
        ids = torch.arange(len(self.vocabulary), device=self.kind.device)
        place = cursor.place[:, None]
        mask = (self.low[place] <= ids) & (ids < self.high[place])
        outside, void = self.outside[place], place == NULL
        mask[:, self.begins] |= outside & ~cursor.present
        mask[:, [PAD]] = (outside & ~void) | (place == PAD)
        mask[:, [NULL]] = void
        return mask

    # In words

    def describe(self, id_: int) -> str:
        """What an id stands for: `describe(0) == "padding"`."""
        for id_range in self.vocabulary.ranges:
            if id_range.begin <= id_ < id_range.stop:
                if id_ <= id_range.end:
                    return f"{'begin' if id_ == id_range.begin else 'end'} of {id_range.name}"
                firsts = [(first, m, s) for m, stages in enumerate(id_range.firsts) for s, first in enumerate(stages)]
                first, m, s = max(each for each in firsts if each[0] <= id_)
                return f"code {id_ - first} of {id_range.name}, map {m}, stage {s}"
        return {PAD: "padding", NULL: "null"}[id_]

    def _after(self, ids: Tensor) -> tuple[int, list[bool]]:
        place = int(self.places(ids[None])[0, -1]) if len(ids) else NULL
        return place, (ids[:, None] == self.begins).any(dim=0).tolist()

    def _choices(self, place: int, present: Iterable[bool]) -> str:
        low, high = int(self.low[place]), int(self.high[place])
        if low < high:
            return self.describe(low) if high - low == 1 else f"{self.describe(low)} to {self.describe(high - 1)}"
        absent = [id_range.name for id_range, there in zip(self.vocabulary.ranges, present, strict=True) if not there]
        begins = [f"begin of {name}" for name in absent] if place != PAD else []
        return " or ".join([*begins, "null" if place == NULL else "padding"])


def _rows_of(id_range: Range, number: int, kind: int) -> list[Place]:
    """The places of a range: begin, each code, and end; their kinds count from `kind`."""
    spans = [(int(low), int(high)) for low, high in id_range.columns.tolist()]
    if id_range.free:
        # before a frame but the first, `end` is legal too, and its id stands right before the frame's codes
        step = len(id_range.sizes[0])
        spans = [(id_range.end, high) if i and i % step == 0 else (low, high) for i, (low, high) in enumerate(spans)]
    spans.append((id_range.end, id_range.end + 1))
    pairs = [(m, s) for m, stages in enumerate(id_range.sizes) for s in range(len(stages))]
    kinds = {pair: kind + 1 + i for i, pair in enumerate(pairs)}
    rows = [Place(kind, number, low=spans[0][0], high=spans[0][1])]
    for (m, s, at), span in zip(id_range.layout.positions, spans[1:], strict=True):
        rows.append(Place(kinds[m, s], number, m, s, (*at, 0, 0)[:3], *span))
    return [*rows, Place(kind + 1 + len(pairs), number)]


def _extent(ids: Tensor) -> str:
    return f"from {int(ids.min())} to {int(ids.max())}" if ids.numel() else "(none)"
