"""Built-in data: the same every time, and held out by font, level or phrasing."""

import sys
import wave
from collections import Counter

import numpy as np
import pytest

from vqmm.data.builtin import DIGIT_NAMES, builtin, dialled_digit
from vqmm.data.drawn import FONTS, draw_digits
from vqmm.data.source import Source
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

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


def digit_of(name):
    return name.split("/")[1]


def test_every_file_holds_the_two_tones_of_its_digit(tones):
    off = []
    for name, values in tones.items():
        spectrum = spectrum_of(values)
        found = {frequency: loudest_near(spectrum, frequency) for frequency in GRID_HZ}
        by_level = sorted(GRID_HZ, key=lambda frequency: -found[frequency][0])
        assert tuple(sorted(by_level[:2])) == KEYS[digit_of(name)], name
        assert found[by_level[1]][0] > 4 * found[by_level[2]][0], f"{name}: a third tone"
        off += [found[frequency][1] / frequency - 1 for frequency in by_level[:2]]
    assert 0.013 < np.abs(off).max() < 0.0155 and abs(np.mean(off)) < 0.001


def test_the_digit_is_heard_in_every_tone(tones):
    assert all(dialled_digit(values) == digit_of(name) for name, values in tones.items())
    assert dialled_digit(tones["train/7/000.wav"][::2], 4000) == "7"  # every second sample: 2 kHz are left
    noise = np.random.default_rng(0).standard_normal((200, 2000))
    assert len({dialled_digit(values) for values in noise}) == 12  # whatever comes is some key


def test_there_are_as_many_of_each_and_no_two_alike(tones):
    counts = {(split, str(digit)): each for split, each in (("train", 180), ("test", 40)) for digit in range(10)}
    assert Counter((name.split("/")[0], digit_of(name)) for name in tones) == counts
    lengths = np.array([len(values) for values in tones.values()]) / 8000
    assert 0.25 <= lengths.min() < 0.27 and 0.48 < lengths.max() <= 0.5
    starts = np.array([np.flatnonzero(np.abs(v) > 0.3 * np.abs(v).max())[0] for v in tones.values()]) / 8000
    assert 0.01 < starts.min() < 0.02 and 0.055 < starts.max() < 0.075
    assert len({values.tobytes() for values in tones.values()}) == 2200
    assert max(np.abs(values).max() for values in tones.values()) < 1  # none is clipped


@pytest.mark.parametrize("part", ["test", "validation"])
def test_held_out_tones_are_quieter_or_louder_than_those_trained_on(part):
    folder = builtin("tones" if part == "test" else f"tones-{part}")
    powers = {  # of the held part, in dB; a tone is 2 dB off its level at most
        split: [10 * np.log10(np.mean(held(sound(path)) ** 2)) for path in sorted((folder / split).rglob("*.wav"))]
        for split in ("train", "test")
    }
    low, high = min(powers["train"]), max(powers["train"])
    within = np.mean([low <= power <= high for power in powers["test"]])
    quiet = np.mean([power < np.median(powers["train"]) for power in powers["test"]])
    assert quiet == 0.5 and within < (0.1 if part == "test" else 0.7)


def test_a_few_are_a_tenth_of_each_split_and_of_each_digit():
    with np.load(builtin("drawn-few")) as file:
        for split, each in (("train", 90), ("test", 6)):
            assert np.bincount(file[f"y_{split}"]).tolist() == [each] * 10 and len(file[f"x_{split}"]) == 10 * each
    for split, each in (("train", 18), ("test", 4)):
        assert [len([*(builtin("tones-few") / split / digit).iterdir()]) for digit in "0123456789"] == [each] * 10


def held(values):
    loud = np.flatnonzero(np.abs(values) > 0.5 * np.abs(values).max())
    return values[loud[0] : loud[-1]]


def test_they_are_the_same_every_time(tones):
    again = builtin.__wrapped__("tones")  # past the cache: a new folder
    assert again != builtin("tones") and builtin("tones") == builtin("tones")
    assert all(np.array_equal(sound(again / name), values) for name, values in tones.items())


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(
        UserError,
        match=r"'tone'. There is: digits, drawn, .*names, .*tones, .*topics. Did you mean 'tones'\?",
    ):
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


def texts(samples):
    return {(sample.label, bytes(sample.read()[0].tolist()).decode()) for sample in samples}


def test_names_have_every_digit_in_both_splits_and_no_phrasing():
    modality = Registry.discover().modality("text")()
    phrasings, words = {}, {}
    for name in ("builtin:names", "builtin:names-validation"):
        source = Source(modality, name)
        assert source.labels == tuple("0123456789") and source.has_split
        for split, samples in (("train", source.training()), (name, source.held_out())):
            found = texts(samples)
            assert len(found) == len(samples) - (400 if split == "train" else 0) and {
                label for label, _ in found
            } == set("0123456789")
            phrasings[split] = {text.replace(DIGIT_NAMES[int(label)], "{}") for label, text in found}
            words[split] = {word for phrasing in phrasings[split] for word in phrasing.split()}
            assert len(found) == 10 * len(phrasings[split])  # all ten in each of them
    train, test, validation = phrasings.values()
    assert len(train) > 100 and len(test) > 40 and len(validation) > 40
    assert not train & test and not train & validation and not test & validation
    assert words["builtin:names"] | words["builtin:names-validation"] <= words["train"]


@pytest.fixture(scope="module")
def drawn():
    arrays = {}
    for part in ("test", "validation"):
        with np.load(builtin("drawn" if part == "test" else "drawn-validation")) as file:
            arrays |= {"train": (file["x_train"], file["y_train"]), part: (file["x_test"], file["y_test"])}
    return arrays


def test_drawn_digits_are_pictures_of_ten_classes_no_two_alike(drawn):
    for part, (x, y) in drawn.items():
        count = 9000 if part == "train" else 600
        assert (
            x.shape == (count, 32, 32, 3)
            and x.dtype == np.uint8
            and Counter(y.tolist()) == dict.fromkeys(range(10), count // 10)
        )
        assert len({picture.tobytes() for picture in x}) == count
        ink = np.abs(x.astype(int) - x[:, :1, :1]).max(axis=3) > 60  # the corner is paper
        share = ink.mean(axis=(1, 2))
        assert share.min() > 0.02 and share.max() < 0.5
        border = np.concatenate([ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]], axis=1)
        assert not border.any(), "a digit is cut off"


def test_no_font_is_in_two_parts_and_slanted_ones_stay_with_the_upright():
    every = [font for part in FONTS.values() for font in part]
    assert len(set(every)) == len(every) and len(FONTS["test"]) >= 3
    part_of = {font: part for part, fonts in FONTS.items() for font in fonts}
    for font, part in part_of.items():
        upright = font.replace("Oblique", "").replace("Italic", "").removesuffix("Ita").removesuffix("-")
        assert part_of.get(upright, part) == part, font
    again, digits = draw_digits("test", 3)
    assert np.array_equal(again, draw_digits("test", 30)[0][:3]) and digits.tolist() == [0, 1, 2]


def test_handwritten_digits_are_still_there():
    source = Source(Registry.discover().modality("image")(), "builtin:digits")
    assert len(source.samples) == 1797 and source.labels == tuple("0123456789") and not source.has_split
