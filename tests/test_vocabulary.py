"""Layout: codes as one sequence of ids."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqmm.batch import Codes
from vqmm.vocabulary import Layout


def test_a_layout_by_hand():
    layout = Layout(grids=((1,), (2,)), sizes=((4,), (8, 8)))
    assert len(layout) == 5
    assert layout.positions == ((0, 0, (0,)), (1, 0, (0,)), (1, 1, (0,)), (1, 0, (1,)), (1, 1, (1,)))
    maps = (torch.tensor([[[3]]]), torch.tensor([[[4, 6], [5, 7]]]))
    ids = layout.join(Codes(maps, torch.tensor([[8]])))
    assert ids.tolist() == [[3, 4, 5, 6, 7]]


grids = st.integers(1, 3).flatmap(
    lambda rank: st.lists(
        st.tuples(st.tuples(*[st.integers(1, 3)] * rank), st.lists(st.integers(1, 9), min_size=1, max_size=3)),
        min_size=1,
        max_size=3,
    )
)


@given(grids, st.integers(0, 3))
def test_split_is_the_inverse_of_join_and_positions_name_each_id(maps, count):
    layout = Layout(tuple(grid for grid, _ in maps), tuple(tuple(sizes) for _, sizes in maps))
    codes = Codes(
        tuple(torch.randint(9, (count, len(sizes), *grid)) for grid, sizes in maps),
        torch.zeros(count, len(maps[0][0]), dtype=torch.int64),
    )
    assert Layout.of(codes, layout.sizes) == layout
    ids = layout.join(codes)
    assert ids.shape == (count, len(layout)) and len(layout.positions) == len(layout)
    assert all(map(torch.equal, layout.split(ids), codes.maps))
    for column, (which, stage, place) in enumerate(layout.positions):
        assert torch.equal(ids[:, column], codes.maps[which][(slice(None), stage, *place)])


def test_ids_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"must be \(B, 4\)"):
        Layout(((2, 2),), ((5,),)).split(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="2 grids for 1 maps"):
        Layout(((2,), (4,)), ((5,),))
