"""Vocabularies and sequences for property tests."""

import torch
from hypothesis import strategies as st

from vqmm.contracts.vocabulary import Vocabulary

NAMES = ("label", "text", "picture", "sound")

_stages = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def _fixed(rank: int) -> st.SearchStrategy:
    grid = st.tuples(*[st.integers(1, 3)] * rank)
    maps = st.lists(st.tuples(_stages, grid), min_size=1, max_size=2)
    return maps.map(lambda found: ([s for s, _ in found], {"grids": [g for _, g in found]}))


_free = st.tuples(_stages, st.integers(1, 4)).map(lambda found: ([found[0]], {"longest": found[1]}))

ranges = st.one_of(_free, st.integers(1, 3).flatmap(_fixed))


@st.composite
def vocabularies(draw, most: int = 3) -> Vocabulary:
    made = Vocabulary()
    for name in NAMES[: draw(st.integers(1, most))]:
        sizes, shape = draw(ranges)
        made = made.add(name, sizes, **shape, fingerprint=draw(st.sampled_from(["", "aa", "bb"])))
    return made


@st.composite
def blocks(draw, own, count: int = 1) -> list[torch.Tensor]:
    """Maps (count, stages, *grid) for a range, of any length that it allows."""
    grids = own.grids or ((draw(st.integers(1, own.longest)),),)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return [
        torch.stack([torch.randint(size, (count, *grid), generator=generator) for size in stages], dim=1)
        for stages, grid in zip(own.sizes, grids, strict=True)
    ]


@st.composite
def sequences(draw, vocabulary: Vocabulary) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
    """A legal sequence (L,), with NULLs before and PAD after, and the maps that are in it."""
    order = draw(st.permutations(vocabulary.ranges))[: draw(st.integers(1, len(vocabulary.ranges)))]
    maps = {own.name: draw(blocks(own)) for own in order}
    parts = [vocabulary[name].join(found)[0] for name, found in maps.items()]
    nulls, pads = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    return torch.cat([torch.ones(nulls).long(), *parts, torch.zeros(pads).long()]), maps
