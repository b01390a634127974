"""Layers for 1, 2 and 3 dimensions."""

import itertools

import pytest
import torch

from vqmm import nn as layers

EXTENT = (8, 12, 4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_down_divides_and_up_multiplies_each_axis_by_its_own_factor(rank):
    x = torch.randn(2, 3, *EXTENT[:rank])
    for factor in itertools.product((1, 2), repeat=rank):
        small = layers.down(rank, 3, 5, factor)(x)
        assert small.shape == (2, 5, *(n // f for n, f in zip(EXTENT, factor, strict=False)))
        assert layers.up(rank, 5, 3, factor)(small).shape == x.shape


def test_level_factors_multiply_to_the_stride():
    assert layers.level_factors((1, 1)) == []
    assert layers.level_factors((2, 8)) == [(1, 2), (1, 2), (2, 2)]
    for wrong in ((3,), (0,), (2, -4)):
        with pytest.raises(ValueError, match="not a power of two"):
            layers.level_factors(wrong)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_encoder_and_decoder_are_mirrors(rank, stride, attention):
    shape = dict(rank=rank, channels=2, dim=6, stride=(stride,) * rank, width=16, blocks=1, attention=attention)
    x = torch.randn(2, 2, *EXTENT[:rank])
    z = layers.ConvEncoder(**shape)(x)
    assert z.shape == (2, 6, *(n // stride for n in x.shape[2:]))
    assert layers.ConvDecoder(**shape)(z).shape == x.shape


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_sample_is_the_same_alone_and_beside_a_longer_one(rank, attention):
    """Whatever lies in the padding, NaN too, in the encoder and in the decoder."""
    torch.manual_seed(0)
    shape = dict(rank=rank, channels=2, dim=6, stride=(4,) * rank, width=16, blocks=2, attention=attention)
    encoder, decoder = layers.ConvEncoder(**shape), layers.ConvDecoder(**shape)
    alone = torch.randn(1, 2, *(4,) * rank)
    box = (slice(0, 1), slice(None), *(slice(0, 4),) * rank)
    x = torch.full((2, 2, *EXTENT[:rank]), float("nan"))
    x[1] = torch.randn_like(x[1])
    x[box] = alone
    mask = ~x[:, 0].isnan()
    z, z_alone = encoder(x, mask), encoder(alone)
    cell = (slice(0, 1), slice(None), *(slice(0, 1),) * rank)
    torch.testing.assert_close(z[cell], z_alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        decoder(z, layers.resample_mask(mask, z.shape[2:]))[box], decoder(z_alone), atol=1e-5, rtol=1e-5
    )


def test_the_norm_looks_at_one_position_alone_and_keeps_zero():
    norm = layers.ChannelNorm(6)
    x = torch.randn(3, 6, 5)
    y = norm(x)
    torch.testing.assert_close(y.square().mean(dim=1), torch.ones(3, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm(x[:1, :, 2:3]), y[:1, :, 2:3])
    assert norm(torch.zeros(1, 6, 2)).abs().sum() == 0


def test_attention_refuses_a_width_that_its_heads_do_not_divide():
    with pytest.raises(ValueError, match="a width of 10 does not divide into 4 heads"):
        layers.Attention(10)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_signal_keeps_its_variance_through_the_networks(rank):
    torch.manual_seed(0)
    encoder = layers.ConvEncoder(rank, 3, 16, (8,) * rank, 64, 1, False)
    decoder = layers.ConvDecoder(rank, 3, 16, (8,) * rank, 64, 1, False)
    x = torch.randn(4, 3, *(64,) * rank)
    with torch.no_grad():
        z, again = encoder(x), encoder(x + 0.1 * torch.randn_like(x))
        y = decoder(torch.randn_like(z))
    assert 0.1 < float(z.std()) < 3 and 0.03 < float(y.std()) < 3
    assert float((again - z).std() / z.std()) > 0.02, "what differs between samples is lost on the way"
    assert all(not p.any() for name, p in encoder.named_parameters() if name.endswith("bias"))
