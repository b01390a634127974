"""Distributions of a position's channels: they sum to one, survive anything, and draw what they say."""

import itertools
import math

import pytest
import torch

from vqmm.nn.likelihood import Categorical, Logistics, MuLaw, pick


def all_levels(count, channels):
    """(1, C, count ** C): every value that a position can take, side by side."""
    return torch.tensor([*itertools.product(range(count), repeat=channels)]).T.unsqueeze(0)


def probabilities(distribution, feature, levels):
    """The probability of each of levels (1, C, N) for one feature vector (width,)."""
    features = feature.view(1, -1, 1).expand(-1, -1, levels.shape[2])
    return torch.exp2(-distribution.bits(features, levels)).squeeze(0)


KINDS = {
    "logistics": lambda channels, count: Logistics(channels, 6, count, mixtures=3),
    "categorical": lambda channels, count: Categorical(channels, 6, count),
}


@pytest.mark.parametrize(("channels", "count"), [(1, 2), (1, 4), (1, 16), (2, 4), (2, 7), (3, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_values_sum_to_one(kind, channels, count):
    torch.manual_seed(0)
    distribution = KINDS[kind](channels, count)
    levels = all_levels(count, channels)
    for scale in (0.1, 1, 30):
        found = probabilities(distribution, scale * torch.randn(6), levels)
        assert found.sum().item() == pytest.approx(1, abs=1e-4)
        assert (found >= 0).all()


def test_logistics_by_hand():
    """Two channels, three levels (-1, 0, 1), one component: 1 / (1 + exp(-(end - mean) / scale)) between the ends."""
    distribution = Logistics(2, 1, 3, mixtures=1)
    mean, scale, slope = (0.3, -0.2), (0.4, 0.7), 0.5

    def cdf(end, mean, scale):
        return 1 / (1 + math.exp(-(end - mean) / scale))

    def inverse_softplus(y):
        return math.log(math.expm1(y))

    with torch.no_grad():
        raw = [inverse_softplus(math.log(s) - distribution.narrowest) for s in scale]
        distribution.head.weight.zero_()
        distribution.head.bias.copy_(torch.tensor([5.0, *mean, *raw, math.atanh(slope)]))
        for one, two in itertools.product(range(3), repeat=2):
            p = 1.0
            for level, m, s in ((one, mean[0], scale[0]), (two, mean[1] + slope * (one - 1), scale[1])):
                low = 0 if level == 0 else cdf(level - 1.5, m, s)
                high = 1 if level == 2 else cdf(level - 0.5, m, s)
                p *= high - low
            found = distribution.bits(torch.zeros(1, 1, 1), torch.tensor([[[one], [two]]]))
            assert found.item() == pytest.approx(-math.log2(p), abs=1e-4)


def test_extreme_parameters_stay_finite_and_give_gradients():
    torch.manual_seed(0)
    for count, scale in itertools.product((2, 256, 65_536), (1e3, 1e6)):
        distribution = Logistics(3, 4, count, mixtures=2)
        features = (scale * torch.randn(5, 4, 2)).requires_grad_()
        levels = torch.randint(count, (5, 3, 2))
        levels[0], levels[1] = 0, count - 1
        bits = distribution.bits(features, levels)
        (pull,) = torch.autograd.grad(bits.sum(), features)
        assert bits.isfinite().all() and pull.isfinite().all()
        drawn = distribution.draw(features[..., 0].detach(), torch.rand(5, 4), 1.0)
        assert ((drawn >= 0) & (drawn < count)).all()


def test_bits_of_a_uniform_model_are_the_log_of_the_levels():
    distribution = Logistics(2, 1, 4, mixtures=16)
    with torch.no_grad():
        distribution.head.weight.zero_()
        bias = distribution.head.bias.zero_().view(16, -1)
        bias[:, 1:3] = torch.tensor([*itertools.product((-1, -1 / 3, 1 / 3, 1), repeat=2)])  # a component on each value
        bias[:, 3:5] = -20.0  # as narrow as they get
        bits = distribution.bits(torch.zeros(1, 1, 16), all_levels(4, 2))
    torch.testing.assert_close(bits, torch.full((1, 16), 2 * math.log2(4)), atol=0.3, rtol=0)
    for classes in (Categorical(2, 3, 12), MuLaw(2, 3)):
        for head in classes.heads:
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
        bits = classes.bits(torch.randn(2, 3, 5), torch.randint(classes.count, (2, 2, 5)))
        torch.testing.assert_close(bits, torch.full((2, 5), 2 * math.log2(classes.count)))


def test_levels_and_values_are_inverse():
    for count in (2, 5, 256, 65_536):
        distribution, levels = Logistics(1, 1, count, 1), torch.arange(count)
        assert torch.equal(distribution.levels(distribution.values(levels)), levels)
        assert distribution.values(levels)[0] == -1 and distribution.values(levels)[-1] == 1
        assert distribution.levels(torch.tensor([-3.0, 3.0])).tolist() == [0, count - 1]
    law, levels = MuLaw(1, 1), torch.arange(256)
    values = law.values(levels)
    assert torch.equal(law.levels(values), levels)
    assert values[0] == -1 and values[-1] == 1
    assert values.diff().min() == values.diff()[127] and values.diff()[127] < 2e-4, "finest at zero"


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_probabilities_that_are_stated(kind):
    """Channel after channel: a later one depends on what was drawn for those before it."""
    torch.manual_seed(1)
    distribution = KINDS[kind](2, 4)
    if kind == "logistics":
        torch.nn.init.normal_(distribution.head.weight)
    feature, count = torch.randn(6), 20_000
    drawn = distribution.draw(feature.expand(count, -1), torch.rand(count, distribution.draws), 1.0)
    shares = torch.bincount(drawn @ torch.tensor([4, 1]), minlength=16) / count
    expected = probabilities(distribution, feature, all_levels(4, 2))
    torch.testing.assert_close(shares, expected.detach(), atol=0.015, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_of_zero_takes_the_likeliest(kind):
    torch.manual_seed(0)
    distribution = KINDS[kind](2, 5)
    features = torch.randn(7, 6)
    one, two = (distribution.draw(features, torch.rand(7, distribution.draws), 0.0) for _ in range(2))
    assert torch.equal(one, two)
    nearly = distribution.draw(features, torch.rand(7, distribution.draws), 1e-4)
    assert torch.equal(one, nearly)


def test_pick_is_the_inverse_of_the_distribution_function():
    logits = torch.log(torch.tensor([[0.0, 0.25, 0.75, 0.0]])).expand(4, -1)
    assert pick(logits, torch.tensor([0.0, 0.2, 0.3, 0.9999999]), 1.0).tolist() == [1, 1, 2, 2]
    assert pick(logits, torch.zeros(4), 0.0).tolist() == [2] * 4


@pytest.mark.parametrize("wrong", [dict(channels=0), dict(count=1), dict(mixtures=0)])
def test_distributions_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="at least 1, 2, 1"):
        Logistics(**{"channels": 1, "width": 2, "count": 4, "mixtures": 1, **wrong})
    with pytest.raises(ValueError, match="at least 1 of each"):
        Categorical(1, 2, 0)
