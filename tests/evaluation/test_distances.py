"""Distances of sets of features, against closed forms."""

import pytest
import torch

from vqmm.evaluation.distances import frechet_distance, precision_and_recall


def with_moments(mean, deviations, count=400):
    """Features (count, D) whose mean and covariance are exactly those of independent axes."""
    torch.manual_seed(0)
    x = torch.randn(count, len(mean), dtype=torch.float64)
    x = x - x.mean(dim=0)
    values, vectors = torch.linalg.eigh(x.T.cov())
    white = x @ vectors / values.sqrt() @ vectors.T
    return white * torch.tensor(deviations) + torch.tensor(mean)


def test_gaussians_with_equal_axes_by_hand():
    """|m - n|^2 + sum (s - t)^2, where both covariances are diagonal."""
    one, other = with_moments([0.0, 1.0, 2.0], [1.0, 2.0, 0.5]), with_moments([3.0, 1.0, 0.0], [2.0, 2.0, 1.5])
    assert frechet_distance(one, other) == pytest.approx(9 + 4 + 1 + 0 + 1, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(15, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_turning_both_sets_changes_nothing_and_turning_one_does():
    one, other = with_moments([0.0, 0.0], [1.0, 3.0]), with_moments([0.0, 0.0], [1.0, 3.0])
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert frechet_distance(one @ quarter, other @ quarter) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, other @ quarter) == pytest.approx(2 * (3 - 1) ** 2, rel=1e-6)


def test_more_axes_than_samples_and_one_axis():
    torch.manual_seed(0)
    few = torch.randn(4, 9)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]])) == pytest.approx(25)


def test_precision_and_recall_by_hand():
    """Two clusters of data; the fakes know one of them, and half lie nowhere."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    real = torch.cat([corners, corners + 100])
    fake = torch.cat([corners + 0.1, corners + torch.tensor([1000.0, 0.0])])
    precision, recall = precision_and_recall(real, fake)
    assert precision == 0.5 and recall == 0.5
    assert precision_and_recall(real, real) == (1.0, 1.0)
    assert precision_and_recall(real, real + 5000) == (0.0, 0.0)


def test_the_radius_is_that_of_the_third_neighbour():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [50.0]])
    points = torch.tensor([[-2.9], [-3.1], [6.0], [97.0], [98.1]])
    # radii of 0, 1, 2, 3: 3, 2, 2, 3; of 50: 49, which reaches from 1 to 99
    precision, _ = precision_and_recall(line, points)
    assert precision == pytest.approx(4 / 5)
    assert precision_and_recall(line, points, neighbours=1)[0] == pytest.approx(2 / 5), "50 reaches from 3 to 97 then"


def test_features_that_do_not_fit_are_refused():
    for one, other in ((torch.zeros(5, 2), torch.zeros(5, 3)), (torch.zeros(1, 2), torch.zeros(5, 2))):
        with pytest.raises(ValueError, match="must be"):
            frechet_distance(one, other)
    with pytest.raises(ValueError, match="4 rows or more"):
        precision_and_recall(torch.zeros(3, 2), torch.zeros(9, 2))
