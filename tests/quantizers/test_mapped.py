"""Where a codebook that is a map of a fixed matrix starts."""

import pytest
import torch

from vqmm.quantizers.mapped import starting_map

SPREADS = torch.tensor([2.0, 1.0, 0.5, 0.1, 3.0, 0.7, 0.2])


def covariance_of(weight, spreads):
    """Of rows of independent numbers with these standard deviations, seen through the weight."""
    return weight @ spreads.double().square().diag() @ weight.T


def latents(count=400, dim=6):
    torch.manual_seed(0)
    return torch.randn(1, dim, count) * torch.logspace(-1, 0.5, dim)[:, None] + 5


@pytest.mark.parametrize(
    ("spreads", "codebook_size", "directions"),
    [
        (SPREADS, 4096, 6),  # all that there are
        (SPREADS[:3], 4096, 3),  # columns
        (SPREADS, 5, 3),  # bits of a code
        (SPREADS, 1, 1),
        (torch.ones(6), 64, 6),
    ],
)
def test_codes_start_along_the_largest_variances_shared_out_by_their_roots(spreads, codebook_size, directions):
    z = latents()
    weight, bias = starting_map(z, None, spreads, codebook_size)
    variances, axes = torch.linalg.eigh(z[0].double().cov())
    torch.testing.assert_close(bias, z[0].double().mean(1))
    largest = variances[-directions:]
    shares = largest.sqrt() * largest.sum() / largest.sqrt().sum()
    expected = axes[:, -directions:] @ shares.diag() @ axes[:, -directions:].T
    torch.testing.assert_close(covariance_of(weight, spreads), expected)
    assert weight.shape == (6, len(spreads))


def test_columns_take_part_by_their_size():
    """A column that says little of the start: an optimizer finds it free to refine."""
    spreads = torch.tensor([1.0] * 20 + [0.01] * 20)
    weight = starting_map(latents(), None, spreads, 4096)[0] * spreads
    assert weight[:, 20:].norm() < 0.05 * weight[:, :20].norm()


def test_a_start_looks_only_at_what_counts():
    z, mask = torch.randn(2, 6, 50), torch.ones(2, 50, dtype=torch.bool)
    z[0, :, :10], mask[0, :10] = 1e3, False
    z[1, 2, 3] = float("inf")
    rows = torch.cat((z[0, :, 10:], z[1, :, :3], z[1, :, 4:]), 1)
    for found, expected in zip(
        starting_map(z, mask, SPREADS, 64), starting_map(rows[None], None, SPREADS, 64), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_latents_that_are_all_the_same_start_codes_there():
    weight, bias = starting_map(torch.full((1, 3, 9), 2.0), None, SPREADS, 16)
    assert not weight.any() and torch.equal(bias, torch.full((3,), 2.0).double())
    assert starting_map(torch.ones(1, 3, 1), None, SPREADS, 16) is None


def test_every_process_starts_the_same():
    """Each has its own noise by then, and nothing sends the first weights around."""
    found = []
    for rank in range(2):
        torch.manual_seed(rank)
        found.append(starting_map(torch.arange(60.0).reshape(1, 6, 10) ** 2, None, SPREADS, 64)[0])
    assert torch.equal(*found)
