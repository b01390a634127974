"""Critics' networks: extents, labels, spectral norms."""

import pytest
import torch

from vqmm.plugins.adversary import networks


@pytest.mark.parametrize(
    ("extent", "grid"),
    [((16,), (4,)), ((13, 9), (4, 3)), ((1, 1), (1, 1)), ((5, 4, 1), (2, 1, 1))],
)
def test_a_trunk_scores_patches_of_any_extent(extent, grid):
    rank = len(extent)
    trunk = networks.Trunk(2, 4, 2, (4,) * rank, (2,) * rank)
    score, features = trunk(torch.randn(3, 2, *extent))
    assert score.shape == (3, 1, *grid) and len(features) == 3
    assert [each.shape[1] for each in features] == [4, 8, 8]


def test_labels_count_by_projection():
    """The score of a patch changes by the inner product of the label's embedding and the patch's last features."""
    torch.manual_seed(0)
    trunk = networks.Trunk(1, 4, 1, (4, 4), (2, 2), labels=2)
    x = torch.randn(1, 1, 8, 8)
    plain, _ = trunk(x, torch.tensor([0]))
    with torch.no_grad():
        trunk.embedding.weight[1] = torch.tensor([1.0, 0.0, -2.0, 0.0])
    told, features = trunk(x, torch.tensor([1]))
    last = features[-1]
    torch.testing.assert_close(told - plain, last[:, 0:1] - 2 * last[:, 2:3])


def test_a_spectral_norm_is_that_of_the_singular_values_and_moves_only_when_told():
    torch.manual_seed(0)
    layer = networks.spectral(torch.nn.Conv2d(3, 5, 3))
    for _ in range(50):
        networks.turn(layer)
    largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
    assert largest.item() == pytest.approx(1, rel=1e-3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.randn(2, 3, 6, 6))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(7)
    networks.turn(layer)
    assert torch.linalg.svdvals(layer.weight.detach().flatten(1))[0].item() == pytest.approx(1, rel=1e-2)


def test_periods_look_down_columns_alone():
    """A change in one residue class of the samples changes the features of that column alone."""
    torch.manual_seed(0)
    critic = networks.Period(1, 3, 4, 2)
    x = torch.randn(1, 1, 30)
    other = x.clone()
    other[..., 1::3] += 1
    for one, two in zip(critic(x)[1], critic(other)[1], strict=True):
        assert torch.equal(one[..., 0], two[..., 0]) and torch.equal(one[..., 2], two[..., 2])
        assert not torch.equal(one[..., 1], two[..., 1])


def test_a_hot_token_is_its_embedding():
    critic = networks.Tokens(5, 4, 1)
    hot = torch.nn.functional.one_hot(torch.tensor([[3, 1]]), 5).movedim(-1, 1).float()
    torch.testing.assert_close(critic.embedding(hot)[0].T, critic.embedding.weight[:, :, 0].T[[3, 1]])
