"""What priors over the maps of one modality have in common: from sequences of ids to grids and back.

Each map has a *level*: a causal network over its positions, given a class and the maps before it, and a small network
for the stages of a position, one after the other. A subclass brings the networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.prior import Prior
from vqmm.contracts.vocabulary import NULL, PAD, Range, Vocabulary
from vqmm.generation.prompts import LABEL
from vqmm.nn.layers import ResidualBlock, conv
from vqmm.utils.errors import UserError


@dataclass
class GridState:
    """Sequences that are under way.

    Attributes:
        classes: (B,), the id of each sequence's class, NULL where none was told.
        seen: the ids and places of every step so far.
        filled: how many ids they are.
        together: whether all sequences have stood at the same place of the block ever since one of them entered it.
        level: the number of the level that is under way, and what its network keeps.
        codes: of each level so far the embedded codes, each (B, width).
        features: (B, width), what the present position's network gave.
        prefix: (B, width), the sum of the embedded stages of the present position that are known.
    """

    classes: Tensor
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    filled: int = 0
    together: bool = True
    level: int = -1
    network: Any = None
    codes: list[list[Tensor]] = field(default_factory=list)
    features: Tensor | None = None
    prefix: Tensor | None = None


class GridPrior(Prior):
    """A prior over one modality, alone or by class (`label` in front), its maps coarse first.

    The class goes to every layer of every level, so it is never out of reach. Of a label that is no condition, which
    nobody asks for, it only learns how often each class comes.

    A step costs one position where all sequences of a batch stand at the same place of a block, as they do in
    `vqmm.generation.sampling`; from where they do not, each step computes everything anew.

    Raises:
        UserError: a vocabulary that it does not serve: several modalities; axes or lengths that it has no network for;
            a map that is smaller than the one before it.
    """

    ranks: ClassVar[Sequence[int]] = (1, 2)
    free: ClassVar[bool] = False  # whether it serves lines of free length

    class Options(Prior.Options):
        """Channels and dropout of every level; a subclass adds those of its networks."""

        width: int = Field(128, ge=2, description="channels of every position")
        dropout: float = Field(0.1, ge=0, lt=1, description="small corpora are memorised")

    options: Options

    def __init__(self, vocabulary: Vocabulary, context: int, options: Options | None = None):
        super().__init__(vocabulary, context, options)
        self.own = self._modality()
        self.conditioned = len(vocabulary.ranges) == 2
        width = self.options.width
        self.ids = nn.Embedding(len(vocabulary), width)
        grids = self.own.layout.grids
        self.levels: Any = nn.ModuleList(
            Level(self.network(grid, self.conditioned or m > 0), width, grids[: m + 1], len(stages))
            for m, (grid, stages) in enumerate(zip(grids, self.own.sizes, strict=True))
        )
        self.head = nn.Linear(width, len(vocabulary), bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        if self.conditioned:
            self.outside = nn.Parameter(torch.randn(width) * 0.02)  # the features of all that is not in the block
        else:
            self.register_buffer("outside", torch.zeros(width), persistent=False)
        self.begins = int(self.grammar.anchor[self.own.begin])  # its place; those of the codes follow
        self.spots = [
            (m, place, s)
            for m, grid in enumerate(grids)
            for place in range(prod(grid))
            for s in range(len(self.own.sizes[m]))
        ]  # of each code its map, position and stage

    def network(self, grid: Sequence[int], conditioned: bool) -> nn.Module:
        """A causal network over this grid: forward, start and step as of `vqmm.nn.pixel.PixelNetwork`. `conditioned`:
        whether there is a condition."""
        raise NotImplementedError(f"{type(self).__name__} needs a method network(grid, conditioned)")

    def _modality(self) -> Range:
        ranges = [id_range for id_range in self.vocabulary.ranges if id_range.name != LABEL]
        if len(ranges) != 1:
            names = ", ".join(id_range.name for id_range in self.vocabulary.ranges)
            raise UserError(
                f"prior {self.name!r} over {names}: it serves one modality, alone or by label; take a transformer or "
                "lstm (prior.name) for several"
            )
        (id_range,) = ranges
        grids = id_range.layout.grids
        if id_range.free and not self.free:
            raise UserError(
                f"prior {self.name!r} over lines of {id_range.name!r} of 1 to {id_range.longest} frames: it needs one "
                "grid for all; take wavenet, lstm or transformer (prior.name) for free lengths"
            )
        if len(grids[0]) not in self.ranks:
            raise UserError(
                f"prior {self.name!r} over grids of {id_range.name!r} with {len(grids[0])} axes: it serves "
                f"{' or '.join(map(str, self.ranks))}; a transformer (prior.name) serves any"
            )
        for coarse, fine in pairwise(grids):
            if any(less > more for less, more in zip(coarse, fine, strict=True)):
                raise UserError(
                    f"prior {self.name!r} over maps of {id_range.name!r} of {coarse} and {fine}: a map must be at "
                    "least as fine as the one before it, which is what it is drawn from"
                )
        return id_range

    # The whole at once

    def features(self, ids: Tensor, places: Tensor) -> Tensor:
        """Raises UserError where there are more ids than the context has."""
        self.require_room(ids.shape[1])
        codes, classes, at = self._found(ids, places)
        embedded = self.ids(codes)
        parts, start = [], 0
        before: list[Tensor] = []
        for level in self.levels:
            size = len(self.spots) if self.own.free else level.size
            level_codes = embedded[:, start : start + size].unflatten(1, (-1, level.stages))
            parts.append(level(level_codes, self._told(classes), before))
            before.append(level_codes)
            start += size
        hidden = torch.cat([*parts, self.outside.to(parts[0]).expand(len(ids), 1, -1)], dim=1)
        return hidden.gather(1, at.unsqueeze(2).expand(-1, -1, hidden.shape[2]))

    def _found(self, ids: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of sequences (B, L): the ids of the block's codes (B, codes), PAD where they did not come; the class told
        before the block (B,), NULL where none was; and for each position (B, L) the number of the code that is next, or
        `codes` where none is."""
        length = ids.shape[1]
        stages = len(self.own.sizes[0])
        most = len(self.spots)
        if self.own.free:  # no more than there can be
            most = min(most, -(-length // stages) * stages)
        is_begin = ids == self.own.begin
        first = torch.where(is_begin.any(dim=1), is_begin.int().argmax(dim=1), length)[:, None]
        number = torch.arange(most, device=ids.device)
        where = first + 1 + number
        inside = where.clamp(max=length - 1)
        is_code = (where < length) & (places.gather(1, inside) == self.begins + 1 + number)
        codes = torch.where(is_code, ids.gather(1, inside), PAD)
        classes = torch.full((len(ids),), NULL, device=ids.device)
        if self.conditioned:
            index = torch.arange(length, device=ids.device)
            class_ids = torch.where((index < first) & self._is_class(ids), ids, NULL)
            classes = class_ids.max(dim=1).values
        at = places - self.begins
        return codes, classes, torch.where((at >= 0) & (at < most), at, most)

    def _is_class(self, ids: Tensor) -> Tensor:
        label = self.vocabulary[LABEL]
        return (ids > label.end) & (ids < label.stop)

    def _told(self, classes: Tensor) -> Tensor | None:
        return self.ids(classes) if self.conditioned else None

    # One id after the other

    def start(self, batch: int, length: int) -> GridState:
        """A state for `batch` sequences whose class is not known yet. It grows with each step: `length` is not used."""
        return GridState(torch.full((batch,), NULL, device=self.head.weight.device))

    def step(self, ids: Tensor, places: Tensor, state: GridState) -> Tensor:
        """In evaluation, and without gradients."""
        count = ids.shape[1]
        self.require_room(state.filled + count)
        state.filled += count
        state.seen.append((ids, places))
        steps = (places - self.begins).T.tolist()
        with torch.no_grad():
            hidden = []
            for step_ids, standing in zip(ids.unbind(1), steps, strict=True):
                at = standing[0] if standing else 0
                inside = [0 <= each <= len(self.spots) for each in standing]
                state.together &= not any(inside) or standing.count(at) == len(standing)
                if not state.together:
                    every = self.features(*(torch.cat(each, dim=1) for each in zip(*state.seen, strict=True)))
                    return every[:, -count:]
                if any(inside):
                    hidden.append(self._advance(step_ids, at, state))
                    continue
                if self.conditioned and state.level < 0:
                    state.classes = torch.where(self._is_class(step_ids), step_ids, state.classes)
                hidden.append(self.outside.expand(len(step_ids), -1))
            return torch.stack(hidden, dim=1)

    def _advance(self, ids: Tensor, at: int, state: GridState) -> Tensor:
        """The features (B, width) at place `at` of the block, 0 for its begin."""
        known = None if at == 0 else self.ids(ids)
        if known is not None:
            m, _, stage = self.spots[at - 1]
            state.prefix = known if stage == 0 or state.prefix is None else state.prefix + known
            if m + 1 < len(self.levels):  # a level to come will ask
                state.codes[m].append(known)
        if at == len(self.spots):
            return self.outside.expand(len(ids), -1)
        m, position, stage = self.spots[at]
        level = self.levels[m]
        if position == stage == 0:
            before = [torch.stack(each, dim=1) for each in state.codes[:m]]
            split = [
                each.unflatten(1, (-1, coarse_level.stages))
                for each, coarse_level in zip(before, self.levels, strict=False)
            ]
            state.network = level.network.start(len(ids), level.condition(self._told(state.classes), split))
            state.level, state.prefix = m, self.head.weight.new_zeros(len(ids), self.head.weight.shape[1])
            state.codes = [*state.codes[:m], []]
        if stage == 0:
            state.features = level.network.step(state.prefix, position, state.network)
            return level.staged(state.features, None, 0)
        return level.staged(state.features, state.prefix, stage)


class Level(nn.Module):
    """One map: a network over its positions, what it is told by the maps before, and the stages of a position.

    Args:
        grids: of the maps before it, and its own.
    """

    def __init__(self, network: nn.Module, width: int, grids: Sequence[Sequence[int]], stages: int):
        super().__init__()
        self.network, self.stages = network, stages
        self.size = prod(grids[-1]) * stages
        self.grid = tuple(grids[-1])
        self.coarser: Any = nn.ModuleList(Coarser(width, grid, grids[-1]) for grid in grids[:-1])
        self.mix = StageMixer(width, stages) if stages > 1 else None

    def forward(self, codes: Tensor, class_embedding: Tensor | None, before: Sequence[Tensor]) -> Tensor:
        """codes (B, positions, stages, width), what is told of the class, (B, width), and the codes of the maps before
        -> the features of each code, (B, positions * stages, width), of those that come before it."""
        grid = self.grid if len(self.grid) > 1 else codes.shape[1:2]
        cells = codes.sum(dim=2).transpose(1, 2).unflatten(2, grid)
        hidden = self.network(cells, self.condition(class_embedding, before)).flatten(2).transpose(1, 2)
        if self.mix is None:
            return hidden
        prefix = F.pad(codes.cumsum(dim=2)[:, :, :-1], (0, 0, 1, 0))  # of each stage the sum of those before
        return self.mix(hidden.unsqueeze(2), prefix).flatten(1, 2)

    def condition(self, class_embedding: Tensor | None, before: Sequence[Tensor]) -> Tensor | None:
        """What spreads to (B, width, *grid): the class, and the maps before on this map's grid."""
        parts = [] if class_embedding is None else [class_embedding.view(*class_embedding.shape, *[1] * len(self.grid))]
        parts += [coarser(codes) for coarser, codes in zip(self.coarser, before, strict=True)]
        return sum(parts[1:], start=parts[0]) if parts else None

    def staged(self, features: Tensor, prefix: Tensor | None, stage: int) -> Tensor:
        """The features of one stage from those of its position, and from the stages before it, each (B, width)."""
        return features if self.mix is None else self.mix.step(features, prefix, stage)


class StageMixer(nn.Module):
    """From what is known of a position, and of its stages before, to what is expected of the next stage."""

    def __init__(self, width: int, stages: int):
        super().__init__()
        self.stage = nn.Parameter(torch.randn(stages, width) * 0.02)
        self.spread, self.join = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, prefix: Tensor) -> Tensor:
        """x (B, positions, 1, width) and the sum of the embedded stages before, (B, positions, stages, width)."""
        return self._through(x + prefix + self.stage)

    def step(self, x: Tensor, prefix: Tensor | None, stage: int) -> Tensor:
        """x and prefix (B, width)."""
        x = x + self.stage[stage]
        return self._through(x if prefix is None else x + prefix)

    def _through(self, x: Tensor) -> Tensor:
        return x + self.join(F.silu(self.spread(x)))


class Coarser(nn.Module):
    """What a whole map says of each position of a finer one: (B, positions, stages, width) -> (B, width, *fine)."""

    def __init__(self, width: int, grid: Sequence[int], fine: Sequence[int]):
        super().__init__()
        self.grid = tuple(grid)
        self.fine = tuple(fine)
        rank = len(self.grid)
        self.inner = nn.Sequential(conv(rank, width, width), ResidualBlock(rank, width, width))
        self.outer = ResidualBlock(rank, width, width)

    def forward(self, codes: Tensor) -> Tensor:
        """codes (B, positions, stages, width), embedded -> (B, width, *fine).

        The stages are summed, and every cell of the finer grid takes the coarser cell that it lies in; there are
        convolutions before and after that.
        """
        x = self.inner(codes.sum(dim=2).transpose(1, 2).unflatten(2, self.grid))
        for axis, (less, more) in enumerate(zip(self.grid, self.fine, strict=True), start=2):
            x = x.index_select(axis, torch.arange(more, device=x.device) * less // more)
        return self.outer(x)
