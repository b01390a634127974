"""The loss of sound: each term by hand or by what it must rank, and padding that makes no difference."""

import math

import pytest
import torch

from vqmm.plugins.audio.losses import _power, envelope_loss, mel_loss, mel_windows, sound_loss, waveform_loss

RATE = 8000
ALL = {"waveform": 1.0, "mel": 1.0, "envelope": 1.0}


def tone(seconds=0.6, hz=440.0, gain=0.5):
    """A tone that swells and fades four times a second: (1, 1, T)."""
    t = torch.arange(round(seconds * RATE)) / RATE
    return (gain * torch.sin(2 * math.pi * hz * t) * (0.55 + 0.45 * torch.sin(2 * math.pi * 4 * t)))[None, None]


def test_the_waveform_term_by_hand():
    x = torch.tensor([[[1.0, -1.0, 1.0, -1.0]], [[1.0, 1.0, 7.0, 7.0]]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    error = waveform_loss(torch.zeros_like(x), x, mask)
    assert float(error) == pytest.approx(1 / (1 + 1e-4))
    assert float(waveform_loss(x + 0.5, x, mask)) == pytest.approx(0.25 / (1 + 1e-4))
    assert waveform_loss(x * 0, x * 0, mask) == 0


def test_half_the_amplitude_is_log_two_in_every_loud_band():
    torch.manual_seed(0)
    x = torch.rand(1, 1, RATE) * 2 - 1
    assert float(mel_loss(x / 2, x, None, RATE)) == pytest.approx(math.log(2), abs=0.01)
    assert mel_loss(x, x, None, RATE) == 0


def test_envelopes_do_not_mind_loudness_and_mind_being_smeared():
    torch.manual_seed(0)
    x = tone() + 0.02 * torch.randn(1, 1, round(0.6 * RATE))
    steady = torch.randn_like(x) * x.std()
    same, louder, flat = (float(envelope_loss(y, x, None, RATE)) for y in (x, 0.5 * x, steady))
    assert same < 1e-3 and louder < 0.02 and flat > 0.5
    assert envelope_loss(steady, torch.zeros_like(x), None, RATE) == 0  # nothing to follow


@pytest.mark.parametrize("term", [{"waveform": 1.0}, {"mel": 1.0}, {"envelope": 1.0}], ids=str)
def test_each_term_ranks_more_noise_as_worse(term):
    torch.manual_seed(0)
    x, noise = tone(), torch.randn(1, 1, round(0.6 * RATE))
    weights = {"waveform": 0.0, "mel": 0.0, "envelope": 0.0} | term
    found = [float(sound_loss(x + level * noise, x, None, RATE, **weights)) for level in (0, 0.01, 0.05, 0.3)]
    assert found == sorted(found) and found[0] < 0.01 < found[-1]


def test_weights_add_up_and_none_is_computed_for_nothing(monkeypatch):
    x, y = tone(), tone(hz=500)
    alone = [sound_loss(y, x, None, RATE, **(dict.fromkeys(ALL, 0.0) | {name: 1.0})) for name in ALL]
    both = sound_loss(y, x, None, RATE, waveform=2.0, mel=3.0, envelope=0.5)
    torch.testing.assert_close(both, 2 * alone[0] + 3 * alone[1] + 0.5 * alone[2])
    monkeypatch.setattr("vqmm.plugins.audio.losses.mel_loss", None)
    sound_loss(y, x, None, RATE, waveform=1.0, mel=0.0, envelope=0.0)


def test_what_stands_in_padding_makes_no_difference_and_dilutes_nothing():
    torch.manual_seed(0)
    x, y = tone(), tone(hz=450)
    length = x.shape[2]
    mask = torch.zeros(1, 2 * length, dtype=torch.bool)
    mask[:, :length] = True
    padded = [torch.cat([each, torch.randn_like(each)], dim=2) for each in (y, x)]
    blank = [torch.cat([each, torch.zeros_like(each)], dim=2) for each in (y, x)]
    assert sound_loss(*padded, mask, RATE, **ALL) == sound_loss(*blank, mask, RATE, **ALL)
    for name in ("waveform", "mel"):
        weights = dict.fromkeys(ALL, 0.0) | {name: 1.0}
        alone = float(sound_loss(y, x, None, RATE, **weights))
        assert float(sound_loss(*padded, mask, RATE, **weights)) == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize(("length", "hop"), [(32, 8), (64, 16), (410, 205), (205, 102), (26, 13), (33, 8)])
@pytest.mark.parametrize("samples", [1, 7, 204, 410, 1000])
def test_power_is_that_of_torchs_own_transform_and_so_is_its_gradient(length, hop, samples):
    torch.manual_seed(0)
    x = torch.randn(2, 1, samples, requires_grad=True)
    power = _power(x, length, hop)
    options = {"window": torch.hann_window(length), "pad_mode": "constant", "return_complex": True}
    truth = torch.stft(x[:, 0], length, hop, **options).abs().square().mT[:, None]
    torch.testing.assert_close(power, truth, atol=1e-4, rtol=1e-4)
    pull = torch.rand_like(truth)
    (gradient,), (expected,) = (torch.autograd.grad(each, x, pull) for each in (power, truth))
    torch.testing.assert_close(gradient, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_a_second_derivative_is_refused_and_not_wrong():
    x = torch.rand(1, 1, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(_power(x, 32, 8).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_half_precision_around_it_makes_no_difference():
    x, y = tone(), tone(gain=0.4)
    with torch.autocast("cpu", torch.bfloat16):
        half = sound_loss(y, x, None, RATE, **ALL)
    assert half == sound_loss(y, x, None, RATE, **ALL) and half.dtype == torch.float32


@pytest.mark.parametrize("length", [1, 3, 50, 700])
def test_short_sounds_and_silence_have_finite_losses_and_gradients(length):
    for x in (torch.zeros(2, 1, length), torch.rand(2, 1, length)):
        y = torch.zeros(2, 1, length, requires_grad=True)
        sound_loss(y, x, None, RATE, **ALL).backward()
        assert y.grad.isfinite().all()


def test_an_empty_batch_costs_nothing():
    assert sound_loss(torch.zeros(0, 1, 80), torch.zeros(0, 1, 80), None, RATE, **ALL) == 0


@pytest.mark.parametrize("rate", [1000, 8000, 16_000, 22_050, 44_100, 192_000])
def test_every_rate_has_five_windows_and_a_finite_loss(rate):
    assert len(mel_windows(rate)) == 5 and list(mel_windows(rate)) == sorted(mel_windows(rate))
    x = torch.rand(1, 2, rate // 4)
    assert sound_loss(x * 0.9, x, None, rate, **ALL).isfinite()
