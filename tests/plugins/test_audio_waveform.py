"""Networks on the waveform: causal ones step, none looks at padding, and each says how far it sees."""

import copy
from math import inf, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vqmm.plugins.audio.waveform import ResidualUnit, Snake, Style, WaveformDecoder, WaveformEncoder, level_widths
from vqmm.utils.errors import UserError

CLOSE = dict(atol=1e-5, rtol=1e-5)
STRIDES = [(2, 4, 5), (1, 3, 2), (8,), (7, 5), ()]
STYLES = [
    dict(activation="elu", weight_norm=True, bottleneck="none"),
    dict(activation="snake", weight_norm=False, bottleneck="lstm"),
    dict(activation="snake", weight_norm=True, bottleneck="attention"),
]
KINDS = [dict(causal=causal, **style) for style in STYLES for causal in (False, True)][:-1]  # no causal attention


def pair(strides=(2, 4, 5), channels=1, dim=6, width=16, blocks=3, **style):
    torch.manual_seed(0)
    given = (channels, dim, strides, width, blocks, Style(**style))
    return WaveformEncoder(*given).eval(), WaveformDecoder(*given).eval()


def stepped(network, x, sizes, unit, mask=None):
    """The network called on chunks of these sizes, in units; the last takes the rest."""
    state, parts, at = network.start(len(x)), [], 0
    for size in [*sizes, x.shape[2]]:
        now = slice(at, min(at + size * unit, x.shape[2]))
        at = now.stop
        if now.stop > now.start:
            y, state = network.step(x[:, :, now], None, state, None if mask is None else mask[:, now])
            parts.append(y)
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strides", STRIDES)
def test_encoder_and_decoder_are_mirrors(strides, kind):
    encoder, decoder = pair(strides, channels=2, **kind)
    for batch, codes in ((2, 5), (1, 1), (0, 3)):
        x = torch.randn(batch, 2, prod(strides) * codes)
        z = encoder(x)
        assert z.shape == (batch, 6, codes) and decoder(z).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind):
    encoder, decoder = pair((2, 3), **kind)
    decoder(encoder(torch.randn(2, 1, 60))).square().mean().backward()
    for network in (encoder, decoder):
        for name, weight in network.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("bottleneck", ["none", "lstm"])
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), max_size=8), activation=st.sampled_from(["elu", "snake"]))
def test_stepping_is_the_whole(strides, bottleneck, sizes, activation):
    encoder, decoder = pair(strides, causal=True, bottleneck=bottleneck, activation=activation)
    hop = prod(strides)
    x = torch.randn(2, 1, 23 * hop)
    with torch.no_grad():
        z = encoder(x)
        torch.testing.assert_close(stepped(encoder, x, sizes, hop), z, **CLOSE)
        torch.testing.assert_close(stepped(decoder, z, sizes, 1), decoder(z), **CLOSE)


@pytest.mark.parametrize("left", [0, 1, 13, 39])
def test_the_end_of_a_sample_is_masked_alike_in_steps(left):
    """A sample that ends inside a code: what follows it is nothing at every level, not only at the first."""
    encoder, _ = pair((2, 4, 5), causal=True, bottleneck="lstm")
    x = torch.randn(1, 1, 6 * 40)
    mask = torch.arange(240).unsqueeze(0) < 5 * 40 + left
    with torch.no_grad():
        whole = encoder(x, mask)
        torch.testing.assert_close(stepped(encoder, x, [2, 1], 40, mask), whole, **CLOSE)
        told = stepped(encoder, torch.where(mask.unsqueeze(1), x, 0), [2, 1], 40)
    assert left == 0 or (told - whole).abs().max() > 1e-4  # the mask matters


@pytest.mark.parametrize("strides", STRIDES)
def test_causal_networks_see_up_to_the_end_of_their_code_and_no_further(strides):
    encoder, decoder = pair(strides, causal=True, bottleneck="lstm")
    hop = prod(strides)
    x = torch.randn(1, 1, 9 * hop, requires_grad=True)
    (pull,) = torch.autograd.grad(encoder(x)[:, :, 4].sum(), x)
    assert pull[..., 5 * hop - 1].abs() > 0 and not pull[..., 5 * hop :].any()
    z = torch.randn(1, 6, 9, requires_grad=True)
    (pull,) = torch.autograd.grad(decoder(z)[..., 4 * hop : 5 * hop].sum(), z)
    assert pull[..., 4].abs().sum() > 0 and not pull[..., 5:].any()


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("blocks", [0, 1, 4])
def test_reach_is_how_far_a_network_sees(strides, causal, blocks):
    """Nothing outside, and on one side at least something at that very distance."""
    encoder, decoder = pair(strides, causal=causal, blocks=blocks)
    encoder, decoder = encoder.double(), decoder.double()
    hop, middle = prod(strides), max(encoder.receptive_field, decoder.receptive_field) + 1
    codes = 2 * middle + 1
    x = torch.randn(1, 1, codes * hop, dtype=torch.float64, requires_grad=True)
    (pull,) = torch.autograd.grad(encoder(x)[:, :, middle].sum(), x)
    assert farthest(pull.unflatten(2, (codes, hop)).abs().sum(dim=(0, 1, 3)), middle) == encoder.receptive_field
    z = torch.randn(1, 6, codes, dtype=torch.float64, requires_grad=True)
    farthest_of_cell = 0
    for sample in range(hop):
        (pull,) = torch.autograd.grad(decoder(z)[:, :, middle * hop + sample].sum(), z)
        farthest_of_cell = max(farthest_of_cell, farthest(pull.abs().sum(dim=(0, 1)), middle))
    assert farthest_of_cell == decoder.receptive_field


def farthest(pull, middle):
    return int((pull.nonzero().flatten() - middle).abs().max())


def test_reach_has_no_limit_with_an_lstm_or_attention():
    for style in (dict(causal=True, bottleneck="lstm"), dict(bottleneck="attention")):
        encoder, decoder = pair(**style)
        assert encoder.receptive_field == decoder.receptive_field == inf


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_alone_and_beside_a_longer_one(kind):
    """Whatever lies in the padding, NaN too."""
    encoder, decoder = pair((3, 2), **kind)
    alone = torch.randn(1, 1, 24)
    alone[..., 21:] = 0
    x = torch.full((2, 1, 90), float("nan"))
    x[1] = torch.randn(1, 90)
    x[0, :, :21] = alone[0, :, :21]
    mask = ~x[:, 0].isnan()
    with torch.no_grad():
        z, z_alone = encoder(x, mask), encoder(alone, torch.arange(24).unsqueeze(0) < 21)
        torch.testing.assert_close(z[:1, :, :4], z_alone, **CLOSE)
        grid = torch.zeros(2, 15, dtype=torch.bool)
        grid[0, :4], grid[1] = True, True
        torch.testing.assert_close(decoder(z, grid)[:1, :, :24], decoder(z_alone), **CLOSE)


@pytest.mark.parametrize("causal", [False, True])
def test_weight_norm_goes_to_disk_and_back(causal, tmp_path):
    encoder, _ = pair(causal=causal, weight_norm=True)
    state = encoder.state_dict()
    assert any(name.endswith("original1") for name in state)
    save_file(state, tmp_path / "weights.safetensors")
    torch.manual_seed(5)
    other = WaveformEncoder(1, 6, (2, 4, 5), 16, 3, Style(causal=causal, weight_norm=True))
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    x = torch.randn(1, 1, 200)
    assert torch.equal(other(x), encoder(x)) and torch.equal(copy.deepcopy(other)(x), encoder(x))
    if causal:  # a state reads the weights that are there now
        torch.testing.assert_close(stepped(other, x, [1, 1], 40), encoder(x), **CLOSE)


def test_weight_norm_changes_nothing_at_the_start():
    plain, _ = pair(weight_norm=False)
    normed, _ = pair(weight_norm=True)
    x = torch.randn(1, 1, 80)
    torch.testing.assert_close(normed(x), plain(x), **CLOSE)


def test_it_trains_under_fabric_in_bfloat16():
    from lightning_fabric import Fabric

    encoder, decoder = pair((2, 3), causal=True, bottleneck="lstm", activation="snake")
    model = torch.nn.Sequential(encoder, decoder).train()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    module, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), 1e-2))
    x = torch.sin(torch.arange(60) / 3).expand(2, 1, 60)
    losses = []
    for _ in range(20):
        loss = (module(x) - x).square().mean()
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_snake_by_hand():
    snake = Snake(2)
    with torch.no_grad():
        snake.log_frequency.copy_(torch.tensor([[0.0], [2.0]]).log1p())  # frequencies 1 and 3
        y = snake(torch.tensor([[[0.5, 0.0], [0.5, -0.2]]]))
    expected = [[0.5 + 0.229849, 0.0], [0.5 + 0.994996 / 3, -0.2 + 0.318821 / 3]]
    torch.testing.assert_close(y, torch.tensor([expected]), atol=1e-5, rtol=0)


def test_widths_double_and_have_a_floor():
    assert level_widths(64, (2, 4, 5, 8)) == [8, 8, 16, 32, 64]
    assert level_widths(8, ()) == [8]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="attention looks at all of a sample"):
        pair(causal=True, bottleneck="attention")
    with pytest.raises(ValueError, match=r"strides \(2, 0\)"):
        pair((2, 0))
    with pytest.raises(ValueError, match="width 4"):
        pair(width=4)
    with pytest.raises(ValueError, match="activation 'relu'"):
        pair(activation="relu")
    encoder, _ = pair(causal=False)
    with pytest.raises(ValueError, match="only a causal network"):
        encoder.start(1)
    encoder, _ = pair(causal=True)
    with pytest.raises(ValueError, match="does not divide by the stride"):
        encoder.step(torch.zeros(1, 1, 39), None, encoder.start(1))
    with pytest.raises(ValueError, match="position is None"):
        encoder.step(torch.zeros(1, 1, 40), 0, encoder.start(1))


@pytest.mark.parametrize("causal", [False, True])
def test_the_decoder_is_laid_out_the_other_way_round(causal):
    """Strides, widths and dilations, not only shapes."""
    encoder, decoder = pair((2, 4, 5), width=32, blocks=4, causal=causal)
    down = [
        tuple(layer.stride) if not causal else (layer.stride,) for layer in encoder.layers if hasattr(layer, "bias")
    ]
    assert [stride for (stride,) in down] == [1, 2, 4, 5, 1]
    assert [layer.stride for layer in decoder.layers if type(layer).__name__.endswith("Upsample")] == [5, 4, 2]
    for network in (encoder, decoder):
        units = [layer.conv for layer in network.layers if isinstance(layer, ResidualUnit)]
        dilations = [unit.dilation if causal else unit.dilation[0] for unit in units]
        assert dilations == [1, 3, 9, 1] * 3
        widths = [unit.weight.shape[1] for unit in units[::4]]
        assert widths == ([8, 8, 16] if network is encoder else [16, 8, 8])
