"""Metrics of sound: against formulas and libraries, whatever the batches are, and where nothing can be compared."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from vqmm.evaluation.evaluate import alike, figure
from vqmm.plugins.audio import metrics as module
from vqmm.plugins.audio.metrics import JoinedPieces, JoinedSISDR, magnitudes, mel_settings, sound_metrics, stft_sizes
from vqmm.utils.errors import UserError

pytest.importorskip("pystoi", reason="needs the extra audio")
pytest.importorskip("torchaudio", reason="needs the extra audio")

RATE = 8000


def voice(seconds: float, rate: int = RATE, seed: int = 0) -> torch.Tensor:
    """Something like speech: bursts of harmonics under moving resonances, (1, T), highest value 0.9."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)) / rate
    centre = 900 + 600 * np.sin(2 * np.pi * 1.3 * t)
    sound = sum(np.exp(-(((k * 120 - centre) / 700) ** 2)) * np.sin(k * pitch) for k in range(1, 30))
    sound = (sound + 0.02 * random.standard_normal(len(t))) * (0.05 + np.clip(np.sin(2 * np.pi * 3 * t), 0, 1))
    return torch.from_numpy(0.9 * sound / np.abs(sound).max()).float()[None]


def noisy(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def judged(outputs, originals, rate=RATE):
    """Values and rules of every metric, each pair given by itself."""
    found = {}
    for name, metric in sound_metrics(rate).items():
        for output, original in zip(outputs, originals, strict=True):
            metric.update(output[None], original[None])
        found[name] = figure(metric)
    return {name: value for name, (value, _) in found.items()}, {name: rule for name, (_, rule) in found.items()}


# What the figures are


def test_a_perfect_reconstruction_has_the_best_of_every_figure():
    clips = [voice(0.5, seed=seed) for seed in range(6)]
    values, _ = judged(clips, clips)
    values.pop("pesq", None)
    assert values == {
        "mse": 0,
        "nmse": 0,
        "si_sdr_db": 100,
        "stoi": pytest.approx(1, abs=1e-6),
        "mel_distance": 0,
        "stft_distance": 0,
    }


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_more_noise_is_worse_by_every_figure(rate):
    clips = [voice(0.7, rate, seed) for seed in range(5)]
    steps = [judged([noisy(clip, sigma) for clip in clips], clips, rate)[0] for sigma in (0.003, 0.03, 0.2)]
    for name, metric in sound_metrics(rate).items():
        low, middle, high = (step[name] for step in steps)
        assert (low > middle > high) if metric.higher_is_better else (low < middle < high), name


def test_the_ratio_is_that_of_the_joined_signal_at_any_loudness():
    clips = [voice(0.2 + 0.1 * i, seed=i) * 0.4**i for i in range(4)]
    spoilt = [noisy(clip, 0.05) for clip in clips]
    expected = scale_invariant_signal_distortion_ratio(*(torch.cat(side, 1).double() for side in (spoilt, clips)))
    assert judged(spoilt, clips)[0]["si_sdr_db"] == pytest.approx(float(expected), abs=1e-4)
    assert judged([3 * s for s in spoilt], clips)[0]["si_sdr_db"] == pytest.approx(float(expected), abs=1e-4)
    each = [float(scale_invariant_signal_distortion_ratio(s, c)) for s, c in zip(spoilt, clips, strict=True)]
    assert abs(np.mean(each) - float(expected)) > 1, "the mean over clips is another figure"


def test_spectral_distances_of_a_quieter_copy_by_hand():
    x = noisy(torch.zeros(1, 2 * RATE), 0.2)
    values, _ = judged([x / math.e], [x])
    assert values["mel_distance"] == pytest.approx(1, abs=1e-3)
    assert values["stft_distance"] == pytest.approx(1 - 1 / math.e + 1, abs=1e-3)


def test_what_lies_under_the_floor_is_no_difference():
    quiet = noisy(torch.zeros(1, RATE), 1e-6)
    values, rules = judged([torch.zeros_like(quiet)], [quiet])
    assert values["mel_distance"] == 0 and "floor 0.0001" in rules["mel_distance"]


@pytest.mark.parametrize("n_fft", [256, 1024])
def test_a_sine_of_full_scale_has_magnitude_one(n_fft):
    t = torch.arange(4 * n_fft)
    assert float(magnitudes(torch.sin(2 * math.pi * t / 16)[None], n_fft).max()) == pytest.approx(1, abs=1e-3)


def spoilt_clips():
    """Clips, noisy ones, and the same two joined as the libraries take them."""
    clips = [voice(0.6, seed=i) for i in range(5)]
    spoilt = [noisy(clip, 0.1) for clip in clips]
    return clips, spoilt, [torch.cat(side, 1)[0].double().numpy() for side in (clips, spoilt)]


def test_stoi_is_that_of_its_library():
    from pystoi import stoi

    clips, spoilt, joined = spoilt_clips()
    assert judged(spoilt, clips)[0]["stoi"] == pytest.approx(stoi(*joined, RATE), abs=1e-6)


@pytest.mark.neighbour(name="pesq")
def test_pesq_is_that_of_its_library():
    from pesq import pesq

    clips, spoilt, joined = spoilt_clips()
    assert judged(spoilt, clips)[0]["pesq"] == pytest.approx(pesq(RATE, *joined, "nb"), abs=1e-3)


@pytest.mark.neighbour(name="pesq")
def test_what_pesq_says_of_a_perfect_reconstruction_of_silence_and_of_too_little():
    x, clips = voice(2), [voice(0.5, seed=seed) for seed in range(6)]
    assert judged(clips, clips)[0]["pesq"] > 4.4
    values, rules = judged([torch.zeros_like(x)], [x])
    assert values["pesq"] == 1 and "silence for sound counts 1" in rules["pesq"]
    for output, original in ((x, torch.zeros_like(x)), (noisy(voice(0.1), 0.1), voice(0.1))):
        assert judged([output], [original])[0]["pesq"] is None


# Clips, joined and in pieces


def test_figures_do_not_depend_on_the_batches():
    originals = torch.stack([voice(0.4, seed=seed) for seed in range(4)])
    outputs = noisy(originals, 0.1)
    one_by_one, _ = judged(outputs, originals)
    for name, metric in sound_metrics(RATE).items():
        metric.update(outputs, originals)
        assert figure(metric)[0] == pytest.approx(one_by_one[name], rel=1e-5), name


def test_clips_of_mixed_lengths_keep_their_order_in_a_batch():
    clips = [torch.full((1, n), float(i)) for i, n in enumerate((3, 5, 3, 3, 5))]
    stacks = [stack for stack, _ in alike(clips, clips)]
    assert torch.cat([stack.flatten() for stack in stacks]).tolist() == torch.cat(clips, 1)[0].tolist()
    assert [len(stack) for stack in stacks] == [1, 1, 2, 1]


def means(output, original, rate):
    """A score that can be counted by hand: the mean of the outputs; none where the originals begin with a 2."""
    return None if original[0] == 2 else output.mean()


def test_pieces_by_hand():
    metric = JoinedPieces(means, 10, piece_s=0.4, judged_s=1.5)
    outputs, originals = torch.arange(18.0).reshape(1, 1, 18), torch.ones(1, 1, 18)
    originals[..., 4:8] = 2
    for part in range(0, 18, 3):
        metric.update(outputs[..., part : part + 3], originals[..., part : part + 3])
        assert sum(piece.shape[1] for piece in metric.waiting) < 4, "no more is kept than what fills no piece"
    # 0 to 3, 8 to 11, and what is left before 1.5 s: 12 to 14; 4 to 7 cannot be judged
    expected = (4 * 1.5 + 4 * 9.5 + 3 * 13) / 11
    assert float(metric.compute()) == pytest.approx(expected)
    assert float(metric.compute()) == pytest.approx(expected), "asking changes nothing"


def test_channels_are_averaged_for_pieces_and_joined_for_the_ratio():
    metric = JoinedPieces(means, 4, piece_s=1)
    metric.update(torch.tensor([[[1.0, 2, 3, 4], [3, 4, 5, 6]]]), torch.ones(1, 2, 4))
    assert float(metric.compute()) == 3.5
    left, right = voice(0.5, seed=1), voice(0.5, seed=2)
    ratio = JoinedSISDR()
    ratio.update(noisy(torch.cat([left, right])[None], 0.1), torch.cat([left, right])[None])
    one = JoinedSISDR()
    for side, original in zip(noisy(torch.cat([left, right])[None], 0.1)[0], (left, right), strict=True):
        one.update(side[None, None], original[None])
    assert float(ratio.compute()) == pytest.approx(float(one.compute()), abs=1e-6)


def test_a_long_clip_goes_through_the_transform_in_pieces(monkeypatch):
    x = noisy(torch.zeros(1, 25 * 1000), 0.3)
    y, real, most = noisy(x, 0.1), module.magnitudes, []
    monkeypatch.setattr(module, "magnitudes", lambda x, n_fft: most.append(x.shape[1]) or real(x, n_fft))
    whole = judged([y], [x], 1000)[0]
    assert max(most) == 10_000
    parts = judged(y.split(10_000, 1), x.split(10_000, 1), 1000)[0]
    assert {n: whole[n] for n in ("mel_distance", "stft_distance")} == {
        n: pytest.approx(parts[n], rel=1e-6) for n in ("mel_distance", "stft_distance")
    }


# Where little or nothing can be judged


def test_a_clip_of_a_tenth_of_a_second_alone_and_among_others():
    x = voice(0.1)
    values, rules = judged([noisy(x, 0.1)], [x])
    assert {name for name, value in values.items() if value is None} == {"stoi", "pesq"} & values.keys()
    assert rules["stoi"].endswith("; null: nan came out") and "null where all are" in rules["stoi"]
    clips = [voice(0.1 * (i % 3 + 1), seed=i) for i in range(30)]
    values, _ = judged([noisy(clip, 0.1) for clip in clips], clips)
    assert None not in values.values() and 0.2 < values["stoi"] < 1


@pytest.mark.parametrize("length", [0, 1, 7])
def test_clips_of_hardly_any_values(length):
    x = torch.full((1, length), 0.5)
    values, _ = judged([x, voice(0.3)], [x, voice(0.3)])
    assert values["mel_distance"] == 0 and values["si_sdr_db"] == 100


def test_silent_originals_have_no_ratio_and_no_intelligibility():
    silence, x = torch.zeros(1, 2 * RATE), voice(2)
    values, rules = judged([x], [silence])
    for name in {"si_sdr_db", "stoi", "stft_distance", "pesq", "nmse"} & values.keys():
        assert values[name] is None and "; null: " in rules[name], name
    json.dumps(values, allow_nan=False)


def test_too_little_sound_for_stoi_is_left_out_and_does_not_count_as_zero():
    x = torch.cat([voice(0.3), torch.zeros(1, 2 * RATE)], 1)  # it takes what is 40 dB down for silence
    assert judged([noisy(x, 1e-4)], [x])[0]["stoi"] is None


def test_silence_for_sound_is_the_worst_and_not_left_out():
    x = voice(2)
    values, _ = judged([torch.zeros_like(x)], [x])
    assert values["si_sdr_db"] == -100 and values["stoi"] == pytest.approx(0, abs=1e-6)


def test_a_network_that_has_gone_wrong_has_no_figures():
    x = voice(1)
    values, rules = judged([torch.full_like(x, math.nan)], [x])
    assert set(values.values()) == {None} and all("null: nan came out" in rule for rule in rules.values())


@pytest.mark.neighbour(name="pesq")
def test_an_original_without_an_utterance_is_left_out_of_pesq_and_a_reconstruction_without_one_is_not():
    click, x = noisy(torch.zeros(2 * RATE), 0.1).double().numpy(), voice(2)[0].double().numpy()
    click[400:] = 0  # 50 ms
    assert module.pesq(x, click, RATE) is None
    assert 1 <= module.pesq(click, x, RATE) < 1.5
    assert module.pesq(1e-30 * x, x, RATE) == 1, "too quiet for the library's arithmetic"


def test_no_library_warns_at_any_rate():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rate in (4000, 11025, 16000, 24000, 32000, 48000, 96000):
            x = voice(0.5, rate)
            assert judged([x], [x], rate)[0]["mel_distance"] == 0


# Settings and libraries


@pytest.mark.parametrize(
    "rate, mel, sizes", [(8000, (512, 128, 40), (256, 512, 1024)), (24000, (1024, 256, 80), (512, 1024, 2048))]
)
def test_settings_follow_the_rate_and_are_said(rate, mel, sizes):
    assert mel_settings(rate) == mel and stft_sizes(rate) == sizes
    metrics = sound_metrics(rate)
    assert f"{mel[2]} mel bands" in metrics["mel_distance"].rule and f"hop {mel[1]}" in metrics["mel_distance"].rule
    assert ", ".join(map(str, sizes)) in metrics["stft_distance"].rule


def test_pesq_is_offered_where_it_is_installed_and_knows_the_rate(monkeypatch):
    real = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: name == "pesq" or real(name))
    rules = {rate: sound_metrics(rate) for rate in (8000, 16000, 11025, 48000)}
    assert "narrow band" in rules[8000]["pesq"].rule and "wide band" in rules[16000]["pesq"].rule
    assert "pesq" not in rules[11025] and "pesq" not in rules[48000]
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "pesq" else real(name))
    assert "pesq" not in sound_metrics(8000)


@pytest.mark.parametrize("missing", ["pystoi", "torchaudio"])
def test_a_library_that_is_missing_is_named_with_its_install_line(missing, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(UserError, match=missing + r'.*pip install "vqmm\[audio\]"'):
        sound_metrics(RATE)
