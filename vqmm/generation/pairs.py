"""What a prior learns from: which items come together in an example, and the example as a sequence of blocks.

Everything random about an example is a function of (seed, epoch, number); in evaluation, of the number alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vqmm.contracts.prior import without_condition
from vqmm.contracts.vocabulary import PAD, Range, Vocabulary
from vqmm.generation.prompts import LABEL
from vqmm.tokens.shards import Row

KEPT = 4_000_000  # ids of blocks that are kept: 32 MB

Members = Mapping[str, Mapping[str, Sequence[int]]]  # for each modality and class the rows that are of it


class RowSource(Protocol):
    """Rows by number: a `TokenSet`, or a list in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Row: ...


class Item(NamedTuple):
    """An item: the number of its row, and where the row is cut to fit, the frame it begins at."""

    row: int
    start: int = 0


class Pairing(Protocol):
    """Which items an example is made of. `epoch` None: in evaluation, where nothing changes from look to look."""

    def __len__(self) -> int:
        """How many examples an epoch has."""
        ...

    def items(self, epoch: int | None, number: int) -> Mapping[str, Item]:
        """One item of every range of the vocabulary."""
        ...


class Aligned:
    """Example i is the i-th item of every range.

    Args:
        rows: for each range its rows, in the order of the examples.
    """

    def __init__(self, rows: Mapping[str, Sequence[int]]):
        self.rows = rows

    def __len__(self) -> int:
        return min(map(len, self.rows.values()))

    def items(self, epoch: int | None, number: int) -> Mapping[str, Item]:
        """As `Pairing.items`: row `number` of every range, whole and in every epoch the same."""
        return {name: Item(rows[number]) for name, rows in self.rows.items()}


class Windows:
    """One range, lines longer than `longest` in as many windows as they take: in evaluation one after the other, the
    last as far back as it has to; in training each begins anywhere.

    Args:
        rows: for each of the others (the label) and for the range itself its rows, aligned.
        lengths: how many frames each line has, aligned with them.
    """

    def __init__(self, name: str, rows: Mapping[str, Sequence[int]], lengths: Sequence[int], longest: int, seed: int):
        self.name, self.rows, self.lengths, self.longest, self.seed = name, rows, lengths, longest, seed
        each = (range(-(-length // longest)) for length in lengths)
        self.places = [(line, piece) for line, pieces in enumerate(each) for piece in pieces]

    def __len__(self) -> int:
        return len(self.places)

    def items(self, epoch: int | None, number: int) -> Mapping[str, Item]:
        """As `Pairing.items`: window `number`; where it begins in its line is drawn afresh in each epoch."""
        line, piece = self.places[number]
        spare = max(self.lengths[line] - self.longest, 0)
        if epoch is None:
            start = min(piece * self.longest, spare)
        else:
            start = _drawing("window", self.seed, epoch, number).randint(0, spare)
        return {name: Item(rows[line], start if name == self.name else 0) for name, rows in self.rows.items()}


class ByClass:
    """An example is a class, and one item of it of every modality, drawn afresh. All classes come equally often.

    Args:
        members: every modality has every class.
        numbers: the number of each class in the range LABEL; empty where there is no such range.
    """

    def __init__(self, members: Members, numbers: Mapping[str, int], seed: int):
        self.members, self.numbers, self.seed = members, numbers, seed
        self.classes = list(next(iter(members.values())))
        self._count = max(sum(map(len, by_class.values())) for by_class in members.values())

    def __len__(self) -> int:
        return max(self._count, len(self.classes))

    def items(self, epoch: int | None, number: int) -> Mapping[str, Item]:
        """As `Pairing.items`: the class follows from `number`; its items are drawn afresh in each epoch."""
        label = self.classes[number * len(self.classes) // len(self)]  # neighbours share one: an even choice is fair
        draw = _drawing("pair", "judged" if epoch is None else f"{self.seed} {epoch}", number)
        places = {name: Item(draw.choice(by_class[label])) for name, by_class in self.members.items()}
        return {LABEL: Item(self.numbers[label]), **places} if self.numbers else places


class Sequences(NamedTuple):
    """A batch for `Prior.loss`: ids int64 (B, L), PAD after each; given int64 (B,): so many first ones do not count;
    hidden bool (B, L): what the prior is not shown."""

    ids: Tensor
    given: Tensor
    hidden: Tensor


class _Planned(NamedTuple):
    """The blocks of an example in order, all but the last its condition, which may be dropped."""

    names: list[str]
    items: Mapping[str, Item]
    dropped: bool


class Examples:
    """The examples of one split as sequences of ids.

    An example is one block where the vocabulary has one range, else two or more of them in any order; a label always
    stands first, and is never the last.

    Args:
        rows: of each range.
        condition_dropout: the share of training examples whose condition, all blocks but the last, is left out.
        token_dropout: the share of their codes that the prior is not shown, each example's own from 0 to twice that.
        given: how many other blocks come before the last, at most; None: all.
        token_dropout_on: the blocks whose codes may be hidden.
        loss_on: the blocks that count in training; "all" leaves out labels.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        rows: Mapping[str, RowSource],
        pairing: Pairing,
        condition_dropout: float = 0.0,
        token_dropout: float = 0.0,
        seed: int = 0,
        given: int | None = None,
        token_dropout_on: Literal["all", "last"] = "all",
        loss_on: Literal["all", "last"] = "all",
    ):
        self.vocabulary, self.rows, self.pairing, self.seed = vocabulary, rows, pairing, seed
        self.condition_dropout, self.token_dropout, self.given = condition_dropout, token_dropout, given
        self.token_dropout_on, self.loss_on = token_dropout_on, loss_on
        self._kept: dict[tuple[str, Item], Tensor] = {}
        self._room = KEPT

    def __len__(self) -> int:
        return len(self.pairing)

    @cached_property
    def wanted(self) -> list[str]:
        """The modalities: what is to be predicted."""
        return [span.name for span in self.vocabulary.ranges if span.name != LABEL]

    @property
    def conditional(self) -> bool:
        """Whether there is anything to condition on."""
        return len(self.vocabulary.ranges) > 1

    def training(self, indices: Sequence[tuple[int, int]]) -> Sequences:
        """The sequences of these (epoch, number). Counted are all blocks but the label; after a drop, and where
        `loss_on` is "last", only the last.

        Codes are hidden as those who learn to denoise hide them: the prior must not lean on any single one, and a
        small corpus is not learnt by heart as soon.
        """
        planned = []
        for epoch, number in indices:
            draw = _drawing("example", self.seed, epoch, number)
            names = self._names(draw, draw.choice(self.wanted))
            dropped = draw.random() < self.condition_dropout
            planned.append(_Planned(names, self.pairing.items(epoch, number), dropped))
        ids, condition = self._sequences(planned)
        label = self.vocabulary[LABEL].block if self.vocabulary.ranges[0].name == LABEL else 0
        first = torch.tensor([label if plan.names[0] == LABEL else 0 for plan in planned])
        gone = torch.tensor([plan.dropped for plan in planned])
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        if self.token_dropout:
            chance = torch.tensor([_chances(self.token_dropout, ids.shape[1], self.seed, *index) for index in indices])
            hidden = (chance < 0) & self._codes(ids)
            if self.token_dropout_on == "last":
                hidden &= torch.arange(ids.shape[1]) >= condition[:, None]
        given = condition if self.loss_on == "last" else torch.where(gone, condition, first)
        return Sequences(without_condition(ids, condition, gone), given, hidden)

    def _codes(self, ids: Tensor) -> Tensor:
        """bool, like ids: which are codes of a modality, and no edges, class numbers or padding."""
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for span in self.vocabulary.ranges:
            if span.name != LABEL:
                mask |= (span.end < ids) & (ids < span.stop)
        return mask

    def evaluated(self, want: str, numbers: Sequence[int], conditioned: bool = True) -> Sequences:
        """Sequences that end in a block of `want`, which alone counts; without their condition if so wanted."""
        planned = []
        for number in numbers:
            names = self._names(_drawing("judged", want, number), want)
            planned.append(_Planned(names, self.pairing.items(None, number), False))
        ids, condition = self._sequences(planned)
        if not conditioned:
            ids = without_condition(ids, condition, torch.ones(len(ids), dtype=torch.bool))
        return Sequences(ids, condition, torch.zeros_like(ids, dtype=torch.bool))

    def _names(self, draw: Random, last: str) -> list[str]:
        """One or more of the others in any order, the label in front, then the last."""
        others = [span.name for span in self.vocabulary.ranges if span.name != last]
        most = len(others) if self.given is None else min(self.given, len(others))
        chosen = draw.sample(others, draw.randint(min(1, most), most))
        return [*sorted(chosen, key=lambda name: name != LABEL), last]

    def _sequences(self, planned: Sequence[_Planned]) -> tuple[Tensor, Tensor]:
        """int64 (B, L), padded, and (B,): how long all blocks but the last are."""
        lines: list[list[Tensor]] = [[torch.empty(0)] * len(plan.names) for plan in planned]
        for span in self.vocabulary.ranges:
            where = [(i, plan.names.index(span.name)) for i, plan in enumerate(planned) if span.name in plan.names]
            blocks = self.blocks(span, [planned[i].items[span.name] for i, _ in where])
            for (i, at), block in zip(where, blocks, strict=True):
                lines[i][at] = block
        ids = torch.nn.utils.rnn.pad_sequence([torch.cat(line) for line in lines], True, PAD)
        return ids, torch.tensor([sum(map(len, line[:-1])) for line in lines])

    def blocks(self, span: Range, places: Sequence[Item]) -> list[Tensor]:
        """The ids of items, begin and end included. What was made is kept while there is room: it comes every epoch."""
        missing = [place for place in dict.fromkeys(places) if (span.name, place) not in self._kept]
        made = dict(zip(missing, self._made(span, missing), strict=True))
        for place, block in made.items():
            if self._room >= len(block):
                self._kept[span.name, place] = block
                self._room -= len(block)
        return [made[place] if place in made else self._kept[span.name, place] for place in places]

    def _made(self, span: Range, places: Sequence[Item]) -> list[Tensor]:
        maps = [cut(span, self.rows[span.name][place.row].maps, place.start) for place in places]
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for i, item_maps in enumerate(maps):
            alike.setdefault(tuple(each.shape for each in item_maps), []).append(i)
        blocks: dict[int, Tensor] = {}
        for numbers in alike.values():
            of_map = zip(*(maps[i] for i in numbers), strict=True)
            joined = span.join([torch.from_numpy(np.stack(each)) for each in of_map])
            blocks |= dict(zip(numbers, joined, strict=True))
        return [blocks[i] for i in range(len(places))]

    def every(self, name: str) -> Iterable[Item]:
        """Every item of a range that examples are made of, once, as they are evaluated."""
        if isinstance(self.pairing, ByClass):
            return (Item(row) for rows in self.pairing.members[name].values() for row in rows)
        return (self.pairing.items(None, number)[name] for number in range(len(self)))


def cut(span: Range, maps: Sequence[np.ndarray], start: int = 0) -> list[np.ndarray]:
    """The maps (stages, *grid) of an item from frame `start` on, as far as there is room; grids that are no lines
    whole."""
    if len(maps) > 1 or maps[0].ndim > 2:
        return list(maps)
    return [maps[0][:, start : start + span.layout.grids[0][0]]]


def label_rows(labels: Sequence[str]) -> list[Row]:
    """The rows of the range LABEL: the one of each class is its number."""
    return [Row(label, label, (1,), (np.array([[number]]),)) for number, label in enumerate(labels)]


def _chances(token_dropout: float, count: int, *seeds: int) -> list[float]:
    """For each of `count` places a number that is negative where it is to be hidden."""
    draw = _drawing("hide", *seeds)
    share = 2 * token_dropout * draw.random()
    return [draw.random() - share for _ in range(count)]


def _drawing(*parts: object) -> Random:
    """The randomness of one thing, the same on every machine."""
    return Random(" ".join(map(str, parts)))
