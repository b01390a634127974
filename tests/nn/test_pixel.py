"""The network of pixel priors: what it sees, and that columns one after the other give what the whole gives."""

import re

import pytest
import torch

from tests.covering import pairs
from vqmm.nn.pixel import PixelNetwork

CLOSE = dict(atol=1e-5, rtol=1e-5)
GRIDS = [(1, 1), (1, 5), (4, 1), (3, 5), (6, 4), (7,), (1,)]
KINDS = [
    dict(depth=3),
    dict(depth=2, kernel=5),
    dict(depth=2, attention=1, heads=2),
    dict(depth=3, attention=3, heads=2),
]


def network(grid, width=4, **options):
    torch.manual_seed(0)
    return PixelNetwork(grid, width, **{"depth": 2, **options})


def stepped(made, x, condition=None):
    state, parts = made.start(len(x), condition), []
    line = x.flatten(2)
    before = torch.zeros_like(line[..., 0])
    with torch.no_grad():
        for position in range(line.shape[2]):
            parts.append(made.step(before, position, state))
            before = line[..., position]
    return torch.stack(parts, dim=2).view(x.shape)


def pulls(made, x, condition=None):
    """float (positions out, positions in): the sum of all absolute gradients of an output by an input."""
    x = x.requires_grad_()
    found = made(x, condition).flatten(2)
    rows = [
        torch.autograd.grad(found[..., p].square().sum(), x, retain_graph=True)[0].abs().sum(dim=(0, 1)).flatten()
        for p in range(found.shape[2])
    ]
    return torch.stack(rows)


@pairs(grid=GRIDS, options=KINDS, batch=[0, 1, 3])
def test_columns_one_after_the_other_give_what_the_whole_gives(grid, options, batch):
    made = network(grid, **options)
    x = torch.randn(batch, 4, *grid)
    for condition in (None, torch.randn(batch, 4, *[1] * len(grid)), torch.randn(batch, 4, *grid)):
        torch.testing.assert_close(stepped(made, x, condition), made(x, condition), **CLOSE)


@pairs(grid=GRIDS, options=KINDS)
def test_no_position_sees_itself_or_what_comes_later(grid, options):
    made = network(grid, **options)
    found = pulls(made, torch.randn(2, 4, *grid), torch.randn(2, 4, *grid))
    assert (found.triu() == 0).all(), "exactly"


def test_there_is_no_blind_spot():
    """Within its reach every position before the present is seen, right above included."""
    made = network((6, 7), depth=7)
    found = pulls(made, torch.randn(2, 4, 6, 7))
    assert (found > 0).equal(torch.ones(42, 42).tril(-1) > 0)


def test_the_reach_is_that_of_the_kernels_and_attention_has_none():
    near, far = network((9,), depth=2), network((9,), depth=2, attention=2, heads=2)
    wide = network((3, 8), depth=2, attention=1, heads=2)
    assert (pulls(wide, torch.randn(1, 4, 3, 8)) > 0).equal(torch.ones(24, 24).tril(-1) > 0)
    assert (pulls(near, torch.randn(1, 4, 9))[8] > 0).tolist() == [False] * 5 + [True] * 3 + [False]
    assert (pulls(far, torch.randn(1, 4, 9))[8] > 0).tolist() == [True] * 8 + [False]


def test_a_condition_is_seen_at_its_place_and_by_what_comes_after():
    made = network((3, 4))
    told = torch.randn(1, 4, 3, 4, requires_grad=True)
    found = made(torch.randn(1, 4, 3, 4), told).flatten(2)
    (pull,) = torch.autograd.grad(found[..., 5].sum(), told)
    seen = pull.abs().sum(dim=1).flatten() > 0
    assert seen[[0, 4, 5]].all() and not seen[8:].any(), "of rows to come nothing is heard"


def test_two_runs_do_not_disturb_each_other():
    made = network((2, 3), attention=1, heads=2)
    one, other = torch.randn(2, 2, 4, 2, 3).unbind(0)
    alone = stepped(made, one)
    stepped(made, other)
    assert torch.equal(alone, stepped(made, one))


def test_places_are_told_apart():
    made = network((3, 3))
    with torch.no_grad():
        made.at_row.normal_()
        made.at_column.normal_()
    found = made(torch.zeros(1, 4, 3, 3)).flatten(2)[0].T
    assert torch.cdist(found, found).fill_diagonal_(1).min() > 1e-3


def test_double_precision_all_the_way():
    made = network((3, 4), attention=2, heads=2).double()
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(stepped(made, x), made(x), atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(grid=(2, 2, 2)), "a grid of (2, 2, 2)"),
        (dict(grid=(0, 2)), "a grid of (0, 2)"),
        (dict(grid=(2, 2), kernel=4), "kernel 4"),
        (dict(grid=(2, 2), kernel=1), "an odd kernel of at least 3"),
        (dict(grid=(2, 2), attention=1, heads=4), "width 4 with 4 heads: width / heads must be even"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        network(**given)
