"""Opus and the floor without a network: rates, lengths, alignment, and the figures that are known for spoken digits."""

import io
import sys
import tarfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm.plugins.audio.baselines import LogMelFloor, Opus, _thinned, least_squares, sound_baselines
from vqmm.utils.errors import UserError

LENGTHS = [1, 3999, 800, 0, 2, 16001, 127, 12345]


def noise(length, channels=1, seed=0):
    """Low, slowly swelling noise, (channels, length): broad enough to be aligned, loud enough to be coded."""
    x = torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool1d(x[:, None], 5, 1, 2)[:, 0] if length else x
    return smooth * (1 + torch.sin(torch.arange(length) / 700)) * 0.3


def clips(channels=1, lengths=LENGTHS):
    return [noise(length, channels, seed) for seed, length in enumerate(lengths)]


def lag(output, original):
    """By how many values `output` (T,) comes late: where the cross-correlation has its peak."""
    n = 2 * len(original)
    product = torch.fft.rfft(output, n) * torch.fft.rfft(original, n).conj()
    peak = int(torch.fft.irfft(product, n).argmax())
    return peak if peak < len(original) else peak - n


def snr_db(output, original):
    return float(10 * (original.square().sum() / (output - original).square().sum()).log10())


# Both


def test_the_list_has_both_families_and_every_name_once():
    found = sound_baselines(16000)
    assert [each.family for each in found] == ["log-mel k-means"] * 4 + ["Opus"] * 4
    assert len({each.name for each in found}) == 8 and all(each.rule for each in found)
    assert (found[1].label(1599.6), found[4].label(6447.3)) == ("log-mel k-means 1.6 kbit/s", "Opus 6.4 kbit/s")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("make", [lambda: LogMelFloor(8000, 2), lambda: Opus(8000, 8)], ids=["floor", "opus"])
def test_every_clip_comes_back_with_its_own_shape_in_range_and_the_same_twice(make, channels):
    baseline, originals = make(), clips(channels)
    before = torch.random.get_rng_state()
    baseline.fit(iter(originals))
    kept = [original.clone() for original in originals]
    outputs, bits = baseline.reconstruct(originals)
    again, same_bits = baseline.reconstruct(originals)
    assert [each.shape for each in outputs] == [each.shape for each in originals] and bits == same_bits > 0
    for output, twice in zip(outputs, again, strict=True):
        assert torch.equal(output, twice) and output.isfinite().all() and (output.abs() <= 1).all()
    assert all(map(torch.equal, originals, kept)) and torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("make", [lambda: LogMelFloor(8000, 1), lambda: Opus(8000, 6)], ids=["floor", "opus"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [100]])
def test_little_or_nothing(make, lengths):
    baseline, originals = make(), clips(lengths=lengths)
    baseline.fit(iter(clips()))
    outputs, bits = baseline.reconstruct(originals)
    assert [each.shape for each in outputs] == [each.shape for each in originals]
    assert bits > 0 if sum(lengths) else bits == 0


def test_silence_comes_back_as_silence():
    quiet = [torch.zeros(1, 8000)]
    floor = LogMelFloor(8000, 1)
    floor.fit(iter(quiet))
    for baseline in (floor, Opus(8000, 6)):
        (output,), _ = baseline.reconstruct(quiet)
        assert output.abs().max() < 0.02


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch):
    for module in ("torchaudio", "soundfile"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r'needs soundfile, .*pip install "vqmm\[audio\]"'):
        Opus(8000, 6).reconstruct(clips())
    with pytest.raises(UserError, match=r'needs torchaudio, .*pip install "vqmm\[audio\]"'):
        LogMelFloor(8000, 1).fit(iter(clips()))


# Opus


@pytest.mark.parametrize("rate_hz", [8000, 11025, 12000, 16000, 22050, 24000, 44100, 48000, 96000, 4000])
def test_opus_is_not_shifted_at_any_rate(rate_hz):
    originals = [noise(2 * rate_hz + extra, seed=extra) for extra in (0, 1, 777)]
    opus = Opus(rate_hz, 64)
    outputs, _ = opus.reconstruct(originals)
    for output, original in zip(outputs, originals, strict=True):
        assert lag(output[0], original[0]) == 0 and snr_db(output, original) > 5
    assert ("resampled" in opus.rule) == (rate_hz not in (8000, 12000, 16000, 24000, 48000))


def test_opus_takes_about_the_rate_that_is_asked_for_and_is_the_better_the_more():
    seconds, originals, before = 10, [noise(80000)], -100.0
    for kbps in (6, 8, 12, 16, 32):
        outputs, bits = Opus(8000, kbps).reconstruct(originals)
        assert kbps <= bits / seconds / 1000 + 1 and bits / seconds / 1000 < 1.2 * kbps + 1, "variable bit rate, pages"
        assert snr_db(outputs[0], originals[0]) > before
        before = snr_db(outputs[0], originals[0])


def test_two_channels_of_opus_take_the_rate_of_each():
    one, two = (Opus(16000, 12).reconstruct([noise(160000, channels)])[1] for channels in (1, 2))
    assert 1.6 < two / one < 2.2


def test_many_short_clips_share_one_header():
    one_by_one = sum(Opus(8000, 6).reconstruct([clip])[1] for clip in clips(lengths=[2000] * 20))
    _, together = Opus(8000, 6).reconstruct(clips(lengths=[2000] * 20))
    assert together < one_by_one / 3


def test_loud_clips_are_kept_in_range():
    (output,), _ = Opus(8000, 6).reconstruct([noise(8000).sign()])
    assert output.abs().max() <= 1


@pytest.mark.parametrize("kbps", [5.9, 256.1, 0, -6, float("nan")])
def test_a_rate_that_opus_does_not_have_is_refused(kbps):
    with pytest.raises(UserError, match=r"kbit/s a channel: it can be asked for 6 to 256"):
        Opus(8000, kbps)


def test_a_soundfile_without_opus_is_one_line(monkeypatch):
    import soundfile

    def fails(*_, **__):
        raise soundfile.LibsndfileError(1, "no such\nsubtype: ")

    monkeypatch.setattr(soundfile, "SoundFile", fails)
    with pytest.raises(UserError, match=r"soundfile cannot code Opus here: .*: it needs a libsndfile") as error:
        Opus(8000, 6).reconstruct(clips())
    assert "\n" not in str(error.value)


# The floor


@pytest.mark.parametrize(("rate_hz", "hop"), [(8000, 80), (16000, 160), (22050, 220), (44100, 441), (4000, 40)])
def test_the_floor_counts_8_bits_a_stage_for_100_frames_a_second(rate_hz, hop):
    originals = [noise(rate_hz), noise(rate_hz + 5, seed=1)]
    for stages in (1, 3):
        floor = LogMelFloor(rate_hz, stages)
        floor.fit(iter(originals))
        frames = (2 * rate_hz + 5) // hop + 1
        assert floor.reconstruct(originals)[1] == frames * stages * 8
        assert 2 * stages * 800 == pytest.approx(frames * stages * 8, rel=0.02)


def test_every_stage_brings_the_frames_nearer():
    training, held_out = clips(lengths=[8000] * 6), noise(16000, seed=99)
    errors = []
    for stages in (1, 2, 4):
        floor = LogMelFloor(8000, stages)
        floor.fit(iter(training))
        frames = floor._frames(held_out, floor._filters())
        errors.append(float((floor._quantized(frames) - frames).square().mean()))
    assert errors[0] > errors[1] > errors[2] > 0


def test_the_floor_brings_the_spectrum_back_and_not_the_waveform():
    tone = 0.5 * torch.sin(torch.arange(16000) * (2 * torch.pi * 440 / 8000))[None]
    floor = LogMelFloor(8000, 4)
    floor.fit(iter([tone, *clips()]))
    (output,), _ = floor.reconstruct([tone])
    peak = int(torch.fft.rfft(output[0]).abs().argmax())
    assert abs(peak / 2 - 440) < 40, "two bins to the hertz; within a mel band"
    assert 0.5 < float(output.square().mean() / tone.square().mean()) < 2


def test_what_cannot_be_fitted_or_was_not():
    with pytest.raises(UserError, match="hold no sound to fit k-means on"):
        LogMelFloor(8000, 1).fit(iter([torch.zeros(1, 0)]))
    with pytest.raises(UserError, match="hold no sound"):
        LogMelFloor(8000, 1).fit(iter(()))
    with pytest.raises(ValueError, match="call fit"):
        LogMelFloor(8000, 1).reconstruct(clips())
    once = LogMelFloor(8000, 2)
    once.fit(iter([noise(50)]))  # one frame for 256 codes
    assert once.reconstruct([noise(50)])[0][0].isfinite().all()


def test_least_squares_are_positive_and_fit():
    generator = torch.Generator().manual_seed(0)
    filters = torch.rand(9, 4, generator=generator)
    filters[3] = 0  # no filter sees this frequency
    bands = filters.T @ torch.rand(9, 50, generator=generator)
    found = least_squares(filters, bands)
    assert (found >= 0).all() and (found[3] == 0).all()
    assert ((filters.T @ found - bands).abs() < 0.1 * bands.mean()).float().mean() > 0.95
    assert torch.equal(least_squares(filters, torch.zeros(4, 2)), torch.zeros(9, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 12))
def test_of_too_many_frames_evenly_spaced_ones_are_kept(lengths, most):
    rows = torch.arange(sum(lengths), dtype=torch.float32)[:, None]
    kept = _thinned(iter(rows.split(lengths)) if lengths else iter(()), most)
    step = 1
    while len(rows[::step]) > most:
        step *= 2
    assert len(kept) <= most and kept.flatten().tolist() == rows[::step].flatten().tolist()


# Spoken digits


@pytest.fixture(scope="module")
def digits(data):
    """Peak-normalised clips of the repository's own split: every fourth to train on, all 300 to judge."""
    import soundfile

    archive = data / "audio" / "fsdd.tar.bz2"
    if not archive.is_file():
        pytest.skip(f"real data: {archive} is not there")
    training, held_out = [], []
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.name.endswith(".wav"):
                x, _ = soundfile.read(io.BytesIO(opened.extractfile(member).read()), dtype="float32")
                number = int(member.name.rpartition("_")[2].removesuffix(".wav"))
                clip = torch.from_numpy(x / abs(x).max() * 0.9)[None]
                (held_out if number < 5 else training).append((member.name, clip))
    return [clip for _, clip in sorted(training)[::4]], [clip for _, clip in sorted(held_out)]


KNOWN = [(LogMelFloor, 1, 0.775, 0.8), (LogMelFloor, 8, 0.931, 6.4), (Opus, 6, 0.883, 6.6)]


@pytest.mark.parametrize(("kind", "option", "intelligible", "kbps"), KNOWN)
def test_the_figures_that_are_known_for_spoken_digits(digits, kind, option, intelligible, kbps):
    pystoi = pytest.importorskip("pystoi")
    training, held_out = digits
    baseline = kind(8000, option)
    baseline.fit(iter(training))
    outputs, bits = baseline.reconstruct(held_out)
    before, after = (torch.cat(some, dim=1)[0].numpy() for some in (held_out, outputs))
    assert pystoi.stoi(before, after, 8000) == pytest.approx(intelligible, abs=0.015)
    assert bits / (len(before) / 8000) / 1000 == pytest.approx(kbps, rel=0.03)
