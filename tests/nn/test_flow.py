"""Invertible layers: the determinant is autograd's, the way back is the way there, padding is not looked at."""

import math

import pytest
import torch

from vqmm.nn.flow import (
    NARROW,
    WIDE,
    Coupling,
    Mix,
    Scale,
    ScaleShift,
    bounded,
    haar,
    scale_factors,
    squeeze,
    unsqueeze,
    unwavelets,
    wavelets,
)

EXTENT = (8, 4, 2)
WIDTH = 8


def stirred(layer, amount=0.1):
    """Weights as training might leave them: none at zero, none where it started."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += amount * torch.randn_like(parameter)
    return layer


def layers(rank):
    torch.manual_seed(0)
    return {
        "scale and shift": ScaleShift(4),
        "mix": Mix(4),
        "mix one channel": Mix(1),
        "coupling": Coupling(rank, 4, 2, WIDTH, NARROW),
        "coupling that keeps the last": Coupling(rank, 5, 2, WIDTH, NARROW, last=True),
        "coupling that keeps none": Coupling(rank, 4, 0, WIDTH, WIDE),
    }


def channels_of(layer):
    if isinstance(layer, Coupling):
        return layer.keep + layer.say.out_channels // 2
    return len(layer.log_scale)


def jacobian_log_det(function, x):
    """log |det| of the Jacobian of a function of one sample (1, C, *grid)."""
    matrix = torch.autograd.functional.jacobian(lambda row: function(row.reshape(x.shape)).flatten(), x.flatten())
    return torch.linalg.slogdet(matrix)[1]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", layers(1))
def test_log_determinant_of_each_layer_is_that_of_the_jacobian(name, rank):
    layer = stirred(layers(rank)[name], 0.3).double()
    x = torch.randn(2, channels_of(layer), *EXTENT[:rank], dtype=torch.float64)
    context = torch.randn(2, WIDTH, *EXTENT[:rank], dtype=torch.float64)
    _, found = layer(x, context)
    for i in range(2):
        expected = jacobian_log_det(lambda one, i=i: layer(one, context[i : i + 1])[0], x[i : i + 1])
        torch.testing.assert_close(torch.as_tensor(found).expand(2)[i], expected)


@pytest.mark.parametrize(("rank", "factor"), [(1, (4,)), (2, (2, 1)), (2, (2, 2)), (3, (2, 1, 2))])
def test_log_determinant_of_a_scale_is_that_of_the_jacobian(rank, factor):
    torch.manual_seed(0)
    scale = stirred(Scale(rank, 2, factor, 2, WIDTH)).double()
    grid = (2, 2, 1)[:rank]
    x = torch.randn(1, 2, *(n * f for n, f in zip(grid, factor, strict=True)), dtype=torch.float64)
    context = torch.randn(1, WIDTH, *grid, dtype=torch.float64)

    def all_of(one):
        return torch.cat([part.flatten() for part in scale(one, context)[:2]])

    torch.testing.assert_close(scale(x, context)[2][0], jacobian_log_det(all_of, x))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", layers(1))
def test_there_and_back_in_float32(name, rank):
    layer = stirred(layers(rank)[name])
    x = torch.randn(2, channels_of(layer), *EXTENT[:rank])
    context = torch.randn(2, WIDTH, *EXTENT[:rank])
    torch.testing.assert_close(layer.inverse(layer(x, context)[0], context), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(layer.inverse(x, context), context)[0], x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_deep_scale_comes_back_in_float32(rank):
    torch.manual_seed(0)
    scale = stirred(Scale(rank, 3, (2,) * rank, depth=12, width=16), 0.03)
    x, context = torch.rand(2, 3, *(8, 4, 4)[:rank]) * 2 - 1, torch.randn(2, 16, *(4, 2, 2)[:rank])
    averages, latents, _ = scale(x, context)
    torch.testing.assert_close(scale.inverse(averages, latents, context), x, atol=1e-4, rtol=0)
    averages, latents = torch.randn_like(averages), torch.randn_like(latents)
    again = scale(scale.inverse(averages, latents, context), context)
    torch.testing.assert_close(again[0], averages, atol=1e-4, rtol=0)
    torch.testing.assert_close(again[1], latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", layers(1))
def test_a_sample_is_the_same_alone_and_beside_a_longer_one(name, rank):
    """Padding stays zero both ways, adds nothing to the determinant, and its context, NaN even, is not looked at."""
    layer = stirred(layers(rank)[name])
    box = (slice(0, 1), slice(None), *(slice(0, n // 2) for n in EXTENT[:rank]))
    mask = torch.ones(2, *EXTENT[:rank], dtype=torch.bool)
    mask[0] = False
    mask[(0, *box[2:])] = True
    x = torch.randn(2, channels_of(layer), *EXTENT[:rank]) * mask.unsqueeze(1)
    context = torch.where(mask.unsqueeze(1), torch.randn(2, WIDTH, *EXTENT[:rank]), float("nan"))
    y, log_det = layer(x, context, mask)
    alone, alone_log_det = layer(x[box], context[box])
    torch.testing.assert_close(y[box], alone)
    torch.testing.assert_close(log_det[:1], torch.as_tensor(alone_log_det).expand(1))
    assert not y[~mask.unsqueeze(1).expand_as(y)].any()
    back = layer.inverse(y, context, mask)
    torch.testing.assert_close(back, x, atol=1e-5, rtol=1e-5)
    assert not back[~mask.unsqueeze(1).expand_as(back)].any()


@pytest.mark.parametrize("factor", [(2,), (4,), (1, 2), (2, 2), (2, 1, 2), (1, 1, 1)])
def test_squeeze_and_wavelets_lose_nothing(factor):
    x = torch.randn(2, 3, *EXTENT[: len(factor)])
    torch.testing.assert_close(unsqueeze(squeeze(x, factor), factor), x, atol=0, rtol=0)
    waves = wavelets(x, factor)
    torch.testing.assert_close(unwavelets(waves, factor), x)
    torch.testing.assert_close(waves.square().sum(), x.square().sum())  # a rotation


def test_wavelets_by_hand():
    """Averages first, times the root of how many; then the details along the last axis, the first, and both."""
    x = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    assert squeeze(x, (2, 2)).flatten().tolist() == [1, 3, 5, 7]
    torch.testing.assert_close(wavelets(x, (2, 2)).flatten(), torch.tensor([8.0, -2.0, -4.0, 0.0]))


def test_log_scales_are_bounded():
    assert bounded(torch.tensor([-1e9, 0.0, 1e9]), 2.0).tolist() == [-NARROW, 0, 2]


def test_a_mix_starts_as_a_rotation():
    matrix = Mix(6).matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(6), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [(1,), (2,), (64,), (4, 4), (8, 2), (1, 16), (2, 4, 4), (160,), (7, 6), (1, 3, 9)])
def test_scales_divide_what_the_stride_divides(stride):
    factors = scale_factors(stride)
    assert [math.prod(each[axis] for each in factors) for axis in range(len(stride))] == [*stride]
    assert {f for each in factors for f in each} <= {1, 2, 3, 4, 5, 7}
    assert scale_factors((8, 2)) == [(4, 1), (2, 2)]
    assert scale_factors((6, 2)) == [(2, 1), (3, 2)]


@pytest.mark.parametrize("factor", [(2,), (4,), (3,), (5, 2), (1, 7), (2, 3, 1)])
def test_a_block_is_turned_and_its_average_comes_first(factor):
    matrix = haar(factor, torch.zeros(()))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(math.prod(factor)), atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix[0], torch.full_like(matrix[0], math.prod(factor) ** -0.5))
    x = torch.randn(2, 3, *(2 * f for f in factor))
    torch.testing.assert_close(unwavelets(wavelets(x, factor), factor), x, atol=1e-5, rtol=0)
