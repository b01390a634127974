"""Attention that never looks ahead, with a cache of keys and values. The protocol is that of `vqmm.nn.causal`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.pointwise import Pointwise, blank


@dataclass
class Cache:
    """The keys and values of the positions so far. Slot 0 is a silent one; with a window the others are a ring."""

    keys: Tensor  # (B, heads, 1 + slots, size)
    values: Tensor
    known: Tensor  # bool (B, 1 + slots)
    turn: tuple[Tensor, Tensor]  # what to rotate each position by
    extent: tuple[int, ...]
    row: int = 0  # the last one written to
    filled: int = 1

    def slot(self, position: int) -> int:
        """The slot of a position, from 1 on; with a window, positions a whole ring apart share one."""
        return 1 + position % (self.keys.shape[2] - 1)

    def turn_at(self, position: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each (1, size / 2), of the angles that a position's query and key are turned by."""
        cos, sin = self.turn
        return cos[position : position + 1], sin[position : position + 1]

    def enter(self, position: int) -> None:
        """Forget the rows of long ago whose slots the row of `position`, and any that were left out, take over."""
        inner = math.prod(self.extent[1:])
        row = position // inner
        for passed in range(max(self.row + 1, row + 1 - (self.keys.shape[2] - 1) // inner), row + 1):
            slot = self.slot(passed * inner)
            self.known[:, slot : slot + inner] = False
        self.row = max(self.row, row)


class CausalAttention(nn.Module):
    """Self-attention over the positions up to the present in raster order, or strictly before it.

    Queries come from x; keys and values from x, or from `memory` where the layer has one (Chen et al. 2018, PixelSNAIL,
    arXiv 1712.09763: queries from features, keys and values from the picture as well). A strict layer without a memory
    still takes its query from the present position.

    Distances are told by rotating queries and keys by their coordinates (Su et al. 2021, arXiv 2104.09864), each axis
    in channels of its own, so any extent will do. Beside the positions there is a silent place with key and value
    zero: where nothing may be seen, the heads give zero.

    Args:
        size: channels of a head, even.
        memory: channels of the memory; None: there is none.
        window: see only the last so many steps of the first axis, the present one included (samples of a line, rows of
            a picture, frames of a film): costs and the cache then grow with the window, not with the square of the
            positions.
    """

    def __init__(
        self,
        rank: int,
        width: int,
        heads: int = 4,
        size: int = 16,
        *,
        memory: int | None = None,
        strict: bool = False,
        window: int | None = None,
    ):
        super().__init__()
        if size % 2 or min(heads, size) < 1 or (window is not None and window < 1):
            raise ValueError(
                f"CausalAttention: {heads} heads of size {size} with a window of {window}: heads and window are at "
                "least 1, the size is even"
            )
        self.rank, self.heads, self.size, self.strict, self.window = rank, heads, size, strict, window
        self.has_memory = memory is not None
        self.query = Pointwise(width, heads * size)
        self.key_value = Pointwise(width if memory is None else memory, 2 * heads * size)
        self.out = Pointwise(heads * size, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        """x (B, width, *extent), mask bool (B, *extent), memory (B, channels, *extent) -> (B, width, *extent)."""
        x = blank(x, mask)
        extent = tuple(x.shape[2:])
        count, inner = math.prod(extent), math.prod(extent[1:])
        turn = self._turn(torch.arange(count, device=x.device), extent)
        query = rotate(self._heads(self.query(x))[0], turn)
        keys, values = self._heads(self.key_value(x if memory is None else blank(memory, mask)), 2)
        keys = rotate(keys, turn)
        seen = None if mask is None else mask.flatten(1)
        rows = extent[0] if self.window is None else min(self.window, extent[0])
        parts = []
        for top in range(0, extent[0], rows):
            first, end = top * inner, min(top + rows, extent[0]) * inner
            oldest = max(top - rows + 1, 0) * inner
            parts.append(self._block(query, keys, values, seen, (oldest, first, end), (rows, inner)))
        mixed = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        return self.out(mixed.transpose(2, 3).flatten(1, 2).unflatten(2, extent))

    def _block(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        seen: Tensor | None,
        block: tuple[int, int, int],
        window: tuple[int, int],
    ) -> Tensor:
        """The queries of positions first to end, over the keys of oldest to end: (B, heads, end - first, size)."""
        oldest, first, end = block
        query = query[:, :, first:end]
        if not oldest and not first and seen is None:
            # with the silent place before the first key, and for a layer that is not strict a query for it, the plain
            # lower triangle is right, which is faster than a mask
            lead, last = (0, end - 1) if self.strict else (1, end)
            query = F.pad(query, (0, 0, lead, 0))
            keys, values = (F.pad(each[:, :, :last], (0, 0, 1, 0)) for each in (keys, values))
            return F.scaled_dot_product_attention(query, keys, values, is_causal=True)[:, :, lead:]
        rows, inner = window
        i = torch.arange(first, end, device=query.device).unsqueeze(1)
        j = torch.arange(oldest, end, device=query.device)
        allowed = (j < i if self.strict else j <= i) & (i // inner - j // inner < rows)
        if seen is not None:
            allowed = allowed & seen[:, None, None, oldest:end]
        keys, values = (F.pad(each[:, :, oldest:end], (0, 0, 1, 0)) for each in (keys, values))
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=F.pad(allowed, (1, 0), value=True))

    def start(self, batch: int, extent: Sequence[int]) -> Cache:
        """A cache for `batch` samples of that extent, or of the window where there is one."""
        extent = tuple(extent)
        rows = extent[0] if self.window is None else min(self.window, extent[0])
        slots = 1 + rows * math.prod(extent[1:])
        keys = self.out.weight.new_zeros(batch, self.heads, slots, self.size).detach()
        known = torch.zeros(batch, slots, dtype=torch.bool, device=keys.device)
        known[:, 0] = True
        turn = self._turn(torch.arange(math.prod(extent), device=keys.device), extent)
        return Cache(keys, keys.clone(), known, turn, extent)

    def step(self, x: Tensor, position: int, state: Cache, mask: Tensor | None = None) -> tuple[Tensor, Cache]:
        """x (B, width, T), mask (B, T) -> (B, width, T), and the cache. With a memory the caller calls `remember`:
        before a step, or for a strict layer after it, when the position is known."""
        outputs, x = [], blank(x, mask)
        for t in range(x.shape[2]):
            now, seen = x[:, :, t : t + 1], None if mask is None else mask[:, t : t + 1]
            if not self.strict and not self.has_memory:
                self.remember(now, position + t, state, seen)
            outputs.append(self.look(now, position + t, state))
            if self.strict and not self.has_memory:
                self.remember(now, position + t, state, seen)
        return torch.cat(outputs, dim=2), state

    def remember(self, memory: Tensor, position: int, state: Cache, mask: Tensor | None = None) -> None:
        """Keep what memory (or x, where there is none) says at that position: (B, channels, 1), mask (B, 1)."""
        keys, values = self._heads(self.key_value(blank(memory, mask)), 2)
        state.enter(position)
        slot = state.slot(position)
        state.keys[:, :, slot] = rotate(keys, state.turn_at(position)).squeeze(2).to(state.keys)
        state.values[:, :, slot] = values.squeeze(2).to(state.values)
        state.known[:, slot] = True if mask is None else mask[:, 0]
        state.filled = max(state.filled, slot + 1)

    def look(self, x: Tensor, position: int, state: Cache) -> Tensor:
        """What the query of x (B, width, 1) at that position finds among what is remembered: (B, width, 1)."""
        state.enter(position)
        query = rotate(self._heads(self.query(x))[0], state.turn_at(position))
        keys, values = (each[:, :, : state.filled].to(query) for each in (state.keys, state.values))
        known = state.known[:, None, None, : state.filled]
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=known)
        return self.out(mixed.transpose(2, 3).flatten(1, 2))

    def _heads(self, x: Tensor, count: int = 1) -> Tensor:
        """(B, count * heads * size, *extent) -> (count, B, heads, positions, size)."""
        return x.flatten(2).unflatten(1, (count, self.heads, self.size)).permute(1, 0, 2, 4, 3)

    def _turn(self, positions: Tensor, extent: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosine and sine (positions, size / 2) of the angles to rotate by: pair i turns with axis i % rank."""
        coordinates = torch.stack(torch.unravel_index(positions, tuple(extent)), dim=1)
        pair = torch.arange(self.size // 2, device=positions.device)
        speed = 10_000.0 ** (-(pair // self.rank) * self.rank / (self.size // 2))
        angle = coordinates[:, pair % self.rank] * speed
        return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """x (..., positions, size) with each of its size / 2 pairs of channels turned by its angle."""
    cos, sin = (each.to(x) for each in turn)
    first, two = x.chunk(2, dim=-1)
    return torch.cat([first * cos - two * sin, first * sin + two * cos], dim=-1)
