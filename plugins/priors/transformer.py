"""A decoder-only transformer over ids (Vaswani et al. 2017, arXiv 1706.03762), with a cache of keys and values.

Each block: RMS norm before attention and before a gated network (Zhang and Sennrich 2019, arXiv 1910.07467; Shazeer
2020, arXiv 2002.05202). The norms have no gains of their own: the matrix that follows each can hold them. Positions are
told by rotating queries and keys (Su et al. 2021, arXiv 2104.09864): half of a head's channels by the index in the
sequence, the others shared between the axes of the grids, so that the code above is as near as the code to the left.
With `places` each place of each range is learnt as well: which code stands where tells a class from few examples.

Not built on `vqmm.nn.causal`: sequences of blocks of different grids have no raster order, and a step has to be lean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.grammar import Grammar
from vqmm.contracts.prior import Prior
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.kernels.cached_attention import cached_attention
from vqmm.utils.errors import UserError

SLOWEST = 10_000.0, 100.0  # the longest period of a rotation over 2 pi: of the index, and of coordinates
LIKE, OWN = 0.3, 0.1  # deviations of embeddings that begin with vectors: of what those add, and of each code's own
EPSILON = 1e-6  # a root mean square that counts as none


@dataclass
class TransformerState:
    """Keys and values of the ids so far, each layer's (B, 2, heads, length, size), of which `filled` are there; what
    each place adds, (places, width); and the weights that a step multiplies by in each layer: of one run and one set of
    weights."""

    standing: Tensor
    caches: list[Tensor]
    weights: list[tuple[Tensor, ...]]
    filled: int = 0


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + gated(norm(x)); x (B, T, width).

    Dropout is on what is added, not on attention's weights: with that a CPU has no fast attention, and a step of
    training takes a quarter longer.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.attend = linear(width, 3 * width)  # queries, keys, values
        self.mix = linear(width, width)
        self.gate = linear(width, 2 * hidden)
        self.out = linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, turn: Tensor, cache: Tensor | None = None, first: int = 0) -> Tensor:
        """With a cache, x stands after the `first` ids in it, and is put into it. `turn`: see `rotate`."""
        batch, time, width = x.shape
        mixed = rotate(self.attend(norm(x)).view(batch, time, 3, self.heads, -1), turn)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # each (B, heads, T, size)
        if cache is None:
            seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            cache[:, :, :, first : first + time] = mixed[:, :, 1:].permute(0, 2, 3, 1, 4)
            key, value = cache[:, :, :, : first + time].unbind(1)
            mask = torch.ones(time, first + time, dtype=torch.bool, device=x.device).tril(first)
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.drop(self.mix(seen.transpose(1, 2).reshape(batch, time, width)))
        gate, up = self.gate(norm(x)).chunk(2, dim=-1)
        return x + self.drop(self.out(F.silu(gate) * up))

    def step(self, x: Tensor, turn: Tensor, cache: Tensor, first: int, weights: tuple[Tensor, ...]) -> Tensor:
        """The same for one id of each sequence, x (B, width), in as few calls as it takes."""
        attend, mix, gated, out = weights
        batch, width = x.shape
        mixed = rotate(torch.mm(unit(x), attend).view(batch, 3, self.heads, -1), turn)
        cache.select(3, first).copy_(mixed[:, 1:])
        seen = cached_attention(mixed[:, 0], cache, first + 1)
        x = torch.addmm(x, seen.reshape(batch, width).to(x.dtype), mix)  # under autocast it is bfloat16
        gate, up = torch.mm(unit(x), gated).chunk(2, dim=1)
        return torch.addmm(x, F.silu(gate).mul_(up), out)

    def weights(self) -> tuple[Tensor, ...]:
        """What `step` multiplies by, transposed: few rows are multiplied faster so.

        `unit` is `norm` without its factor, which is put into the matrix that follows.
        """
        scale = math.sqrt(self.mix.weight.shape[0])
        by = self.attend.weight * scale, self.mix.weight, self.gate.weight * scale, self.out.weight
        return tuple(weight.t().contiguous() for weight in by)


class Transformer(Prior):
    """Ids, and what they stand for (which modality, map and stage), through `depth` blocks."""

    name = "transformer"
    by_index: Tensor  # (context, 3, 1, size / 2, 2): how each index turns each pair of channels, as `rotate` takes it
    by_place: Tensor  # (places, 3, 1, size / 2, 2): how each place turns them further

    class Options(Prior.Options):
        """The size of the blocks, whether places are learnt, and whether input and output share a matrix."""

        added: ClassVar[frozenset[str]] = frozenset({"learned_positions"})
        width: int = Field(256, ge=1, description="channels of every position")
        depth: int = Field(6, ge=1, description="blocks")
        heads: int = Field(4, ge=1, description="of attention; width / heads is a multiple of 4")
        hidden: int | None = Field(None, ge=1, description="channels inside a block's network; None: 8/3 of the width")
        dropout: float = Field(0.1, ge=0, lt=1, description="small corpora are memorised")
        learned_positions: bool = Field(False, description="learn each place too: helps where examples are few")
        tied: bool = Field(True, description="one matrix for what goes in and what comes out")

    options: Options

    def __init__(self, vocabulary: Vocabulary, context: int, options: Options | None = None):
        super().__init__(vocabulary, context, options)
        o = self.options
        size = o.width // o.heads
        if o.width % o.heads or size % 4:
            raise UserError(f"a transformer of width {o.width} with {o.heads} heads: width / heads must divide by 4")
        hidden = o.hidden or -(-o.width * 8 // 3 // 32) * 32
        self.ids = nn.Embedding(len(vocabulary), o.width)
        self.kinds = nn.Embedding(self.grammar.kinds, o.width)
        self.places = nn.Embedding(len(self.grammar), o.width) if o.learned_positions else None
        self.drop = nn.Dropout(o.dropout)
        blocks = [TransformerBlock(o.width, o.heads, hidden, o.dropout) for _ in range(o.depth)]
        self.blocks: Any = nn.ModuleList(blocks)
        self.head = self.ids if o.tied else nn.Linear(o.width, len(vocabulary), bias=False)
        by_index, by_place = angles(self.grammar, context, size)
        self.register_buffer("by_index", as_turns(by_index), persistent=False)
        self.register_buffer("by_place", as_turns(by_place), persistent=False)
        for embedding in (self.ids, self.kinds, self.places, self.head):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)
        with torch.no_grad():
            for block in blocks:  # so that the sum over all blocks keeps its size
                block.mix.weight.div_(math.sqrt(2 * o.depth))
                block.out.weight.div_(math.sqrt(2 * o.depth))

    @torch.no_grad()
    def init_embeddings(self, vectors: Mapping[str, Sequence[Tensor]]) -> None:
        """Codes of like vectors get like embeddings, so what is learnt of one holds for its neighbours from the start.

        Places are brought to the same scale: beside a code, where it stands must count as much as which it is.
        """
        if not vectors:
            return
        nn.init.normal_(self.ids.weight, std=OWN)
        for embedding in (self.kinds, self.places):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=LIKE)
        for id_range in self.vocabulary.ranges:
            stages = [each - each.mean(dim=0) for each in vectors.get(id_range.name, ())[: len(id_range.sizes[0])]]
            if not stages:
                continue
            dim = stages[0].shape[1]
            turn = torch.randn(dim, self.ids.embedding_dim) * dim**-0.5 / torch.cat(stages).cpu().std().clamp(min=1e-6)
            first = id_range.end + 1
            for stage in stages:
                self.ids.weight[first : first + len(stage)] += (LIKE * stage.cpu() @ turn).to(self.ids.weight)
                first += len(stage)

    def features(self, ids: Tensor, places: Tensor) -> Tensor:
        """Raises UserError where there are more ids than the context has."""
        return self._through(ids, places, None)

    def start(self, batch: int, length: int) -> TransformerState:
        """Caches for `batch` sequences of up to `length` ids, and copies of the weights laid out for single steps."""
        weight = self.ids.weight
        heads = self.options.heads
        caches = [weight.new_empty(batch, 2, heads, length, weight.shape[1] // heads) for _ in self.blocks]
        with torch.no_grad():
            return TransformerState(self._standing(), caches, [block.weights() for block in self.blocks])

    def step(self, ids: Tensor, places: Tensor, state: TransformerState) -> Tensor:
        """In evaluation, and without gradients."""
        first = state.filled
        self.require_room(first + ids.shape[1])
        state.filled += ids.shape[1]
        with torch.no_grad():
            if ids.shape[1] != 1:
                return self._through(ids, places, state, first)
            ids, places = ids[:, 0], places[:, 0]
            x = F.embedding(ids, self.ids.weight) + F.embedding(places, state.standing)
            turn = torch.view_as_complex(self.by_index[first]) * torch.view_as_complex(self.by_place)[places]
            for block, cache, weights in zip(self.blocks, state.caches, state.weights, strict=True):
                x = block.step(x, turn, cache, first, weights)
            return norm(x).unsqueeze(1)

    def _through(self, ids: Tensor, places: Tensor, state: TransformerState | None, first: int = 0) -> Tensor:
        end = first + ids.shape[1]
        self.require_room(end)
        x = self.drop(self.ids(ids) + F.embedding(places, self._standing()))
        turn = torch.view_as_complex(self.by_index[first:end]) * torch.view_as_complex(self.by_place)[places]
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, None if state is None else state.caches[layer], first)
        return norm(x)

    def _standing(self) -> Tensor:
        """(places, width): what an id is added to, by where it stands: what kind of place that is, and which."""
        kinds = self.kinds(self.grammar.kind)
        return kinds if self.places is None else kinds + self.places.weight


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Without a bias; what comes out of it is at first as large as what goes in."""
    made = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
    nn.init.normal_(made.weight, std=inputs**-0.5)
    return made


def norm(x: Tensor) -> Tensor:
    """x over the root of its mean square."""
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON**2)


def unit(x: Tensor) -> Tensor:
    """x of length 1: what `norm` gives over the root of the width, in half the time on a CPU."""
    return x / torch.linalg.vector_norm(x, 2, -1, True).clamp_min_(EPSILON)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Neighbouring channels of x (..., 3, heads, size), taken as complex numbers, times turn (..., 3, 1, size / 2).

    The third of the three, the values, is turned by nothing: as one product the three take less time than two alone.
    """
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).view(x.shape).to(x.dtype)


def angles(grammar: Grammar, context: int, size: int) -> tuple[Tensor, Tensor]:
    """By index (context, size / 2) and by place (places, size / 2), in radians: the first half of the pairs of channels
    turns with the index, the others with one axis of the grids each."""
    pairs = size // 2
    by_index = torch.zeros(context, pairs)
    by_index[:, : pairs // 2] = torch.arange(context)[:, None] * _speeds(pairs // 2, SLOWEST[0])
    place = coordinates(grammar)
    axes = max(len(grid) for id_range in grammar.vocabulary.ranges for grid in id_range.layout.grids)
    by_place = torch.zeros(len(grammar), pairs)
    for axis in range(axes):
        mine = slice(pairs // 2 + axis, None, axes)
        by_place[:, mine] = place[:, axis, None] * _speeds(len(range(pairs)[mine]), SLOWEST[1])
    return by_index, by_place


def as_turns(angle: Tensor) -> Tensor:
    """Angles (N, pairs) -> (N, 3, 1, pairs, 2): cosine and sine for queries and keys, 1 and 0 for values."""
    turned = torch.stack([angle, angle, torch.zeros_like(angle)], dim=1)[:, :, None]
    return torch.stack([turned.cos(), turned.sin()], dim=-1)


def _speeds(count: int, slowest: float) -> Tensor:
    return slowest ** -(torch.arange(count) / max(count, 1))


def coordinates(grammar: Grammar) -> Tensor:
    """float32 (places, 3): where each place is on the grid of its range's last map; a coarser cell at its middle."""
    positions = grammar.coordinates.float()
    for number, id_range in enumerate(grammar.vocabulary.ranges):
        for m, grid in enumerate(id_range.layout.grids[:-1]):
            mine = (grammar.range == number) & (grammar.map == m)
            scale = torch.tensor([fine / coarse for fine, coarse in zip(id_range.layout.grids[-1], grid, strict=True)])
            positions[mine, : len(grid)] = (positions[mine, : len(grid)] + 0.5) * scale - 0.5
    return positions
