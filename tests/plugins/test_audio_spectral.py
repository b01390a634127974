"""Spectral networks: shapes, neighbours in a batch, how far they look, and streams."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm.plugins.audio.spectral import (
    LEAST_SHAPE,
    MOST_GAIN,
    SpectralDecoder,
    SpectralEncoder,
    bounded,
    overlapping_bands,
)

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
        assert max(first, last) <= network.receptive_field <= max(first, last) + 1
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


def head(decoder, x, louder):
    """What a decoder makes of the spectra of x's own frames (1, C, n * HOP), so much louder (1, C, n, bands; logs)."""
    margin = decoder.margin
    padded = torch.nn.functional.pad(x, (margin, decoder.length - HOP - margin))
    spectrum = torch.fft.rfft(padded.unfold(-1, decoder.length, HOP) * decoder.hann)
    power = spectrum.abs().square() @ decoder.bands.T / decoder.bands.sum(1) + LEAST_SHAPE
    gains = torch.atanh((power.log() / 2 + louder) / MOST_GAIN) * MOST_GAIN / 2
    told = torch.cat([spectrum.real, spectrum.imag, gains], dim=3).transpose(2, 3).flatten(1, 2)
    decoder.trunk.forward = lambda vectors, mask=None: told
    torch.nn.init.zeros_(decoder.bypass.bias)
    return decoder(torch.zeros(1, DIM, x.shape[2] // HOP))


@pytest.mark.parametrize("channels", [1, 2])
def test_the_head_gives_back_what_its_spectra_say(channels):
    """A decoder whose trunk is told the spectra of a sound's own frames, and their gains, gives back that sound."""
    _, decoder = networks(channels, blocks=0)
    x = torch.rand(1, channels, 9 * HOP) * 2 - 1
    louder = torch.zeros(1, channels, 9, len(decoder.bands))
    torch.testing.assert_close(head(decoder, x, louder), x, atol=1e-5, rtol=0)
    louder[:, -1] = math.log(2)  # the last channel alone
    wanted = torch.cat([x[:, :-1], 2 * x[:, -1:]], dim=1)
    torch.testing.assert_close(head(decoder, x, louder), wanted, atol=1e-4, rtol=0)


def test_a_gain_moves_its_own_band():
    """A high tone beside a low one, 20 dB down by its gain alone: the low one stays as it is."""
    _, decoder = networks(blocks=0)
    t = torch.arange(40 * HOP) / HOP
    low, high = (torch.sin(2 * torch.pi * cycles * t)[None, None] for cycles in (1, 7))
    middles = (decoder.bands * torch.linspace(0, HOP / 2, decoder.bins)).sum(1) / decoder.bands.sum(1)  # cycles a hop
    louder = torch.where(middles > 4, math.log(0.1), 0.0).expand(1, 1, 40, -1)
    found = head(decoder, low + high, louder)[..., 4 * HOP : -4 * HOP]
    torch.testing.assert_close(found, (low + 0.1 * high)[..., 4 * HOP : -4 * HOP], atol=2e-3, rtol=0)


def test_a_shape_has_no_loudness_of_its_own():
    """What the blocks say of a spectrum counts by its proportions in a band; how loud it is only the gains say."""
    _, decoder = networks(blocks=0)
    vectors = torch.randn(1, DIM, 9)
    with torch.no_grad():
        once = decoder(vectors)
        decoder.trunk[-1].weight[: 2 * decoder.bins] *= 100
        decoder.trunk[-1].bias[: 2 * decoder.bins] *= 100
        torch.testing.assert_close(decoder(vectors), once, atol=1e-2 * float(once.abs().max()), rtol=0)


@pytest.mark.parametrize("channels", [1, 2])
def test_levels_have_a_way_past_the_blocks(channels):
    """Blocks that say the same of everything leave z a linear map of the levels, and loudness one of the vectors."""
    encoder, decoder = networks(channels)
    for network in (encoder, decoder):
        for parameter in network.trunk.parameters():
            torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(decoder.trunk[-1].bias)
    x = torch.rand(1, channels, 20 * HOP) - 0.5
    with torch.no_grad():
        once, ten, hundred = encoder(x), encoder(10 * x), encoder(100 * x)
        assert (ten - once).abs().max() > 0.1
        torch.testing.assert_close(ten - once, hundred - ten, atol=1e-3, rtol=1e-3)
        torch.nn.init.constant_(decoder.bypass.weight, 0.1)
        vectors = torch.zeros(1, DIM, 9)
        assert (decoder(vectors + 1) / decoder(vectors)).mean() > 2


def test_gains_are_steep_at_first_and_never_beyond_70_db():
    gains = torch.tensor([-1e6, -0.01, 0.0, 0.01, 1e6], requires_grad=True)
    found = bounded(gains)
    torch.testing.assert_close(found, torch.tensor([-MOST_GAIN, -0.02, 0.0, 0.02, MOST_GAIN]), atol=1e-4, rtol=0)
    _, decoder = networks()
    assert decoder(1e4 * torch.randn(1, DIM, 5)).isfinite().all()


@pytest.mark.parametrize(
    ("bins", "most", "bands"),
    [(1, 40, 1), (2, 40, 2), (9, 1, 1), (41, 40, 11), (161, 40, 40), (321, 40, 40), (5000, 9, 9)],
)
def test_bands_overlap_add_up_to_one_and_none_is_empty(bins, most, bands):
    found = overlapping_bands(bins, most)
    assert found.shape == (bands, bins) and (found >= 0).all() and (found.sum(1) > 0).all()
    torch.testing.assert_close(found.sum(0), torch.ones(bins))
    assert found[0, 0] == 1 and found[-1, -1] == 1 and ((found > 0).sum(0) <= 2).all()


def test_no_number_of_bins_leaves_a_band_empty():
    for bins in range(1, 700):
        assert overlapping_bands(bins, 40).sum(1).min() > 0
