"""Dialling tones: the two frequencies of each digit, the same every time. Topics: the text that comes with Python."""

import sys
import wave

import numpy as np
import pytest

from vqmm.data.builtin import builtin, dialled_digit
from vqmm.data.source import Source
from vqmm.errors import UserError
from vqmm.registry import Registry

KEYS = {  # ITU-T Q.23
    "1": (697, 1209), "2": (697, 1336), "3": (697, 1477), "4": (770, 1209), "5": (770, 1336), "6": (770, 1477),
    "7": (852, 1209), "8": (852, 1336), "9": (852, 1477), "0": (941, 1336),
}  # fmt: skip
GRID_HZ = sorted({frequency for pair in KEYS.values() for frequency in pair})


def sound(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def spectrum_of(values):
    """Amplitudes of sines in steps of 0.5 Hz, through a Hann window."""
    window = np.hanning(len(values))
    return np.abs(np.fft.rfft(values * window, 16000)) * 2 / window.sum()


def loudest_near(spectrum, frequency):
    """The largest amplitude within 1.6 % of a frequency, and where it is."""
    first, last = int(frequency * 0.984 * 2), int(frequency * 1.016 * 2) + 1
    at = first + int(spectrum[first : last + 1].argmax())
    return spectrum[at], at / 2


@pytest.fixture(scope="module")
def tones():
    folder = builtin("tones")
    return {path.relative_to(folder).as_posix(): sound(path) for path in sorted(folder.rglob("*.wav"))}


def test_every_file_holds_the_two_tones_of_its_digit(tones):
    off = []
    for name, values in tones.items():
        spectrum = spectrum_of(values)
        found = {frequency: loudest_near(spectrum, frequency) for frequency in GRID_HZ}
        by_level = sorted(GRID_HZ, key=lambda frequency: -found[frequency][0])
        assert tuple(sorted(by_level[:2])) == KEYS[name[0]], name
        assert found[by_level[1]][0] > 4 * found[by_level[2]][0], f"{name}: a third tone"
        off += [found[frequency][1] / frequency - 1 for frequency in by_level[:2]]
    assert 0.013 < np.abs(off).max() < 0.0155 and abs(np.mean(off)) < 0.001


def test_the_digit_is_heard_in_every_tone(tones):
    assert all(dialled_digit(values) == name[0] for name, values in tones.items())
    assert dialled_digit(tones["7/000.wav"][::2], 4000) == "7"  # every second sample: 2 kHz are left
    noise = np.random.default_rng(0).standard_normal((200, 2000))
    assert len({dialled_digit(values) for values in noise}) == 12  # whatever comes is some key


def test_there_are_two_hundred_of_each_and_no_two_alike(tones):
    assert list(tones) == [f"{digit}/{number:03}.wav" for digit in range(10) for number in range(200)]
    lengths = np.array([len(values) for values in tones.values()]) / 8000
    assert 0.25 <= lengths.min() < 0.27 and 0.48 < lengths.max() <= 0.5
    levels = np.array([np.abs(values).max() for values in tones.values()])
    assert levels.min() < 0.12 and 0.6 < levels.max() < 1  # none is clipped
    starts = np.array([np.flatnonzero(np.abs(v) > 0.3 * np.abs(v).max())[0] for v in tones.values()]) / 8000
    assert 0.01 < starts.min() < 0.02 and 0.055 < starts.max() < 0.075
    assert len({values.tobytes() for values in tones.values()}) == 2000


def test_they_are_the_same_every_time(tones):
    again = builtin.__wrapped__("tones")  # past the cache: a new folder
    assert again != builtin("tones") and builtin("tones") == builtin("tones")
    assert all(np.array_equal(sound(again / name), values) for name, values in tones.items())


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(UserError, match=r"'tone'. There is: digits, names, tones, topics. Did you mean 'tones'\?"):
        builtin("tone")


def test_topics_are_the_texts_that_come_with_python():
    from pydoc_data.topics import topics

    files = sorted(builtin("topics").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.txt" for name in topics) and len(files) > 50
    assert all(file.read_bytes().decode() == topics[file.stem] for file in files)
    assert sum(file.stat().st_size for file in files) > 300_000


def test_a_python_without_its_topics_is_told_of(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match="builtin:topics is a part of Python"):
        builtin.__wrapped__("topics")


def test_names_have_every_digit_in_both_splits():
    modality = Registry.discover().modality("text")()
    source = Source(modality, "builtin:names")
    assert source.labels == tuple("0123456789") and source.has_split
    for samples in (source.training(), source.held_out()):
        texts = {(sample.label, bytes(sample.read()[0].tolist()).decode()) for sample in samples}
        assert len(texts) == len(samples) == 40 and ("7", "the number seven") in texts
