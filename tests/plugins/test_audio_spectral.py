"""Spectral networks: shapes, neighbours in a batch, how far they look, and streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm.plugins.audio.spectral import SpectralDecoder, SpectralEncoder

HOP, DIM = 20, 6


def networks(channels=1, window=4, blocks=2, causal=False, hop=HOP):
    torch.manual_seed(0)
    common = {"window": window, "width": 16, "blocks": blocks, "causal": causal}
    encoder = SpectralEncoder(channels, DIM, hop, 8000, **common).eval()
    return encoder, SpectralDecoder(channels, DIM, hop, **common).eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("hop", "window"), [(20, 4), (21, 2), (7, 3), (80, 5)])
@pytest.mark.parametrize(("batch", "codes"), [(1, 1), (2, 5), (0, 3)])
def test_a_code_for_every_hop_and_a_hop_for_every_code(causal, channels, hop, window, batch, codes):
    encoder, decoder = networks(channels, window, 1, causal, hop)
    z = encoder(torch.rand(batch, channels, codes * hop))
    assert z.shape == (batch, DIM, codes)
    assert decoder(z).shape == (batch, channels, codes * hop)


@pytest.mark.parametrize("causal", [False, True])
def test_a_sound_is_the_same_alone_and_beside_a_longer_one(causal):
    encoder, decoder = networks(causal=causal)
    x = torch.rand(2, 1, 12 * HOP)
    mask = torch.ones(2, 12 * HOP, dtype=torch.bool)
    mask[0, 5 * HOP - 3 :] = False
    codes = torch.ones(2, 12, dtype=torch.bool)
    codes[0, 5:] = False
    alone = x[:1, :, : 5 * HOP].clone()
    alone[..., -3:] = 0
    with torch.no_grad():
        z, z_alone = encoder(x, mask), encoder(alone)
        torch.testing.assert_close(z[:1, :, :5], z_alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(decoder(z, codes)[:1, :, : 5 * HOP], decoder(z_alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [2, 3, 4, 7])
@pytest.mark.parametrize("blocks", [0, 2])
def test_an_output_depends_on_no_more_than_its_reach(causal, window, blocks):
    """And on nothing later, where the network is causal. The reach is no looser than a hop."""
    encoder, decoder = networks(window=window, blocks=blocks, causal=causal)
    middle, total = 20, 41
    x = torch.rand(1, 1, total * HOP, requires_grad=True)
    (pull,) = torch.autograd.grad(encoder(x)[..., middle].sum(), x)
    places = pull[0, 0].reshape(total, HOP).abs().sum(1).nonzero().flatten() - middle
    z = torch.randn(1, DIM, total, requires_grad=True)
    (pull,) = torch.autograd.grad(decoder(z)[..., middle * HOP : (middle + 1) * HOP].sum(), z)
    for network, found in ((encoder, places), (decoder, pull[0].abs().sum(0).nonzero().flatten() - middle)):
        first, last = -int(found.min()), int(found.max())
        assert max(first, last) <= network.reach <= max(first, last) + 1
        if causal:
            assert last == 0


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 6), max_size=6).filter(any))
def test_a_stream_in_any_chunks_is_the_whole(cuts):
    encoder, decoder = networks(channels=2, causal=True)
    total = sum(cuts)
    torch.manual_seed(1)
    x = torch.rand(3, 2, total * HOP)
    with torch.no_grad():
        z, state, parts = encoder(x), encoder.start(3), []
        for part in x.split([cut * HOP for cut in cuts], dim=2):
            made, state = encoder.step(part, None, state)
            parts.append(made)
        torch.testing.assert_close(torch.cat([z[..., :0], *parts], dim=2), z, atol=1e-5, rtol=0)
        y, state, parts = decoder(z), decoder.start(3), []
        for part in z.split(cuts, dim=2):
            made, state = decoder.step(part, None, state)
            parts.append(made)
        torch.testing.assert_close(torch.cat([y[..., :0], *parts], dim=2), y, atol=1e-5, rtol=0)


def test_the_head_gives_back_what_its_spectra_say():
    """A decoder whose trunk is told the spectra of a sound's own frames gives back that sound."""
    _, decoder = networks(blocks=0)
    x = torch.rand(1, 1, 9 * HOP) * 2 - 1
    margin = decoder.margin
    padded = torch.nn.functional.pad(x, (margin, decoder.length - HOP - margin))
    spectrum = torch.fft.rfft(padded.unfold(-1, decoder.length, HOP) * decoder.hann)
    told = torch.stack([spectrum.real, spectrum.imag], dim=2).transpose(3, 4).flatten(1, 3)
    decoder.trunk.forward = lambda vectors, mask=None: told
    torch.testing.assert_close(decoder(torch.zeros(1, DIM, 9)), x, atol=1e-5, rtol=0)
