"""Batch, Codes and masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqmm.contracts.batch import Batch, Codes
from vqmm.nn.masks import mask_size, masked_mean, pool_mask


def test_the_size_of_a_batch_without_mask_is_its_extent():
    batch = Batch(torch.zeros(2, 3, 4, 6), ("a", "b"))
    assert batch.size.tolist() == [[4, 6], [4, 6]]


@pytest.mark.parametrize(
    ("x", "key", "mask", "said"),
    [
        (torch.zeros(2, 3), ("a", "b"), None, "must be .B, C, .extent."),
        (torch.zeros(2, 3, 4), ("a",), None, "with 1 keys"),
        (torch.zeros(1, 3, 4), ("a",), torch.ones(1, 5, dtype=torch.bool), "must be bool"),
        (torch.zeros(1, 3, 4), ("a",), torch.ones(1, 4), "torch.float32"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_its_values(x, key, mask, said):
    with pytest.raises(ValueError, match=said):
        Batch(x, key, mask)


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4))
def test_a_mask_knows_the_size_of_each_sample(sizes):
    mask = torch.zeros(len(sizes), 7, 7, dtype=torch.bool)
    for one, (h, w) in zip(mask, sizes, strict=True):
        one[:h, :w] = True
    assert mask_size(mask).tolist() == [list(size) for size in sizes]
    batch = Batch(torch.zeros(len(sizes), 1, 7, 7), ("k",) * len(sizes), mask)
    assert batch.size.tolist() == [list(size) for size in sizes]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 12))
def test_a_coarse_cell_is_real_where_any_of_its_positions_is(extent, cell, length):
    mask = (torch.arange(extent) < length)[None]
    grid = -(-extent // cell)
    cells = -(-extent // grid)  # what a grid of that many cells spans; a coarser one may not exist for this extent
    if -(-extent // cells) != grid:
        return
    expected = [any(i < length for i in range(c * cells, min((c + 1) * cells, extent))) for c in range(grid)]
    assert pool_mask(mask, (grid,)).tolist() == [expected]


@pytest.mark.parametrize(("extent", "grid"), [((4,), (3,)), ((4,), (0,)), ((2,), (3,))])
def test_a_grid_that_does_not_divide_is_refused(extent, grid):
    with pytest.raises(ValueError, match="does not divide"):
        pool_mask(torch.ones(1, *extent, dtype=torch.bool), grid)


def test_the_masked_mean_leaves_out_padding_and_survives_nan_there():
    values = torch.tensor([[[1.0, 3.0, float("nan")]], [[5.0, float("inf"), float("nan")]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask) == 3.0
    assert masked_mean(values, torch.zeros(2, 3, dtype=torch.bool)) == 0.0
    assert masked_mean(torch.zeros(0, 1, 3), None) == 0.0


def test_codes_slice_and_pool_their_mask_for_every_map():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True] * 4])
    codes = Codes((torch.zeros(3, 1, 2), torch.zeros(3, 2, 4)), torch.tensor([[3], [1], [4]]), mask, torch.arange(3))
    coarse, fine = codes.map_masks()
    assert coarse.tolist() == [[True, True], [True, False], [True, True]]
    assert fine.equal(mask)
    some = codes[1:]
    assert len(some) == 2 and some.maps[1].shape == (2, 2, 4) and some.label.tolist() == [1, 2]
    assert some.mask.equal(mask[1:]) and some.size.tolist() == [[1], [4]]
