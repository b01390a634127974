"""Small data that needs no download: `builtin:digits`, `:drawn`, `:tones`, `:names` and `:topics`.

Of those that are made here (`drawn`, `tones`, `names`) the test split is of another kind than what is trained on: other
fonts, levels or phrasings. `builtin:NAME-validation` has the same training split and a third kind for its test split.
Choose settings by that one: then `builtin:NAME` says how well they do on what no choice was made by. `drawn-few` and
`tones-few` are a tenth of each split, to try a command with.
"""

import atexit
import shutil
import tempfile
import wave
from collections.abc import Callable
from functools import cache, lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np

from vqmm.data.drawn import draw_digits
from vqmm.utils.errors import UserError, unknown
from vqmm.utils.files import must_exist

BUILTIN = "builtin:"  # how such a source is written where a path is expected

DRAWN, DRAWN_TEST = 9000, 600  # pictures
TONES_RATE_HZ = 8000
TONES_EACH, TONES_EACH_TEST = 180, 40  # files of each digit
LEVELS = {"train": ((0.08, 0.25),), "validation": ((0.06, 0.08), (0.25, 0.32)), "test": ((0.04, 0.06), (0.32, 0.4))}
ROWS_HZ, COLUMNS_HZ = (697, 770, 852, 941), (1209, 1336, 1477)  # ITU-T Q.23; its fourth column has no digit
KEYS = ("123", "456", "789", "*0#")
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPENINGS = (
    *("", "a", "the", "this is", "this is a", "this is the", "that is", "that is the", "it is", "it is a", "here is"),
    *("here is the", "is it", "is this the", "press", "press the", "dial", "dial a", "now", "now the", "and"),
)
NOUNS = ("", "digit", "number")
ENDS = ("", "please", "again", "now")
ALONE = ("{}",) * 40  # as people type it most, so it is trained on more often than other phrasings
REMAINDERS = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}  # which phrasings are of which part
LONG = 4096  # values; waves of so many are kept
OFF = 0.015  # the most that a frequency is off; Q.23 allows a telephone 1.8 %


def source_must_exist(path: str | Path) -> None:
    """A `UserError` where there is nothing at a path: no file, no folder, no built-in data set of that name."""
    name = str(path).removeprefix(BUILTIN)
    if name != str(path):
        if name not in MAKERS:
            raise unknown("built-in data set", name, MAKERS)
    else:
        must_exist(path, f"give a file or folder, or {' or '.join(BUILTIN + each for each in MAKERS)}")


@cache
def builtin(name: str) -> Path:
    """The file or folder of a built-in data set, in a temporary folder that goes when this process ends."""
    source_must_exist(f"{BUILTIN}{name}")
    folder = tempfile.mkdtemp(prefix="vqmm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return MAKERS[name](Path(folder))


def _digits(folder: Path) -> Path:
    """1,797 handwritten digits, 8 x 8 (UCI, Alpaydin and Kaynak 1998)."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError('builtin:digits comes with scikit-learn: pip install "vqmm[demo]"') from None
    digits = load_digits()  # 0 to 16
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    path = folder / "digits.npz"
    np.savez(path, x=x, y=digits.target.astype(np.uint8))
    return path


def _drawn(folder: Path, part: str, divisor: int = 1) -> Path:
    """9,600 digits in the fonts of matplotlib, 32 x 32 in colour, the same every time; fonts of one split alone."""
    x_train, y_train = draw_digits("train", DRAWN // divisor)
    x_test, y_test = draw_digits(part, DRAWN_TEST // divisor)
    path = folder / "drawn.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def _tones(folder: Path, part: str, divisor: int = 1) -> Path:
    """2,200 dialled digits, the same every time: `train/7/031.wav`, 8 kHz, 16 bits, mono, 0.25 to 0.5 s.

    The test split's are quieter or louder than those trained on.
    """
    for split, source, each in (("train", "train", TONES_EACH), ("test", part, TONES_EACH_TEST)):
        generator = np.random.default_rng(list(LEVELS).index(source))
        for digit in "0123456789":
            (folder / split / digit).mkdir(parents=True)
            for number in range(each // divisor):
                level = generator.uniform(*LEVELS[source][number % len(LEVELS[source])])
                values = np.rint(_dialled(digit, level, generator) * 32767).astype("<i2")
                with wave.open(str(folder / split / digit / f"{number:03}.wav"), "wb") as file:
                    file.setparams((1, 2, TONES_RATE_HZ, 0, "NONE", ""))
                    file.writeframes(values.tobytes())
    return folder


def _dialled(digit: str, level: float, generator: np.random.Generator) -> np.ndarray:
    """(T,) in [-1, 1]: a key held for a while, between two short pauses, on a line that hisses.

    `level`: the amplitude of its tones, before they are made to differ.
    """
    row = next(i for i, keys in enumerate(KEYS) if digit in keys)
    pair = np.array([ROWS_HZ[row], COLUMNS_HZ[KEYS[row].index(digit)]])
    length, before, after = (generator.uniform(*span) for span in ((0.25, 0.5), (0.01, 0.06), (0.01, 0.06)))
    t = np.arange(round(length * TONES_RATE_HZ)) / TONES_RATE_HZ
    frequencies = pair * generator.uniform(1 - OFF, 1 + OFF, 2)
    levels = level * 10 ** (generator.uniform(-2, 2, 2) / 20)  # at most 4 dB apart
    turns = frequencies[:, None] * t + generator.uniform(0, 1, 2)[:, None]
    held = np.clip(np.minimum(t - before, length - after - t) / 0.005, 0, 1)  # 5 ms up and down
    hiss = generator.uniform(0.0005, 0.005) * generator.standard_normal(len(t))
    return np.clip(held * (levels @ np.sin(2 * np.pi * turns)) + hiss, -1, 1)


def dialled_digit(values: np.ndarray, rate_hz: int = TONES_RATE_HZ) -> str:
    """The key whose two tones are the loudest of their group: "0" to "9", "*" or "#".

    Goertzel's filter at each frequency of the keypad and at those near it, as far as Q.23 allows. `values` (T,).
    """
    length = len(values)
    waves = _kept_waves(rate_hz)[..., :length] if length <= LONG else _waves(length, rate_hz)
    levels = np.abs(waves @ values).max(axis=1)  # of rows, then of columns
    row, column = levels[: len(ROWS_HZ)].argmax(), levels[len(ROWS_HZ) :].argmax()
    return KEYS[int(row)][int(column)]


def _waves(length: int, rate_hz: int) -> np.ndarray:
    """(tones, frequencies, length): what each tone of the keypad, and those near it, look like."""
    near = np.multiply.outer(np.array(ROWS_HZ + COLUMNS_HZ), np.linspace(1 - OFF, 1 + OFF, 13))
    return np.exp(-near[..., None] * (2j * np.pi / rate_hz * np.arange(length)))


@lru_cache(maxsize=2)
def _kept_waves(rate_hz: int) -> np.ndarray:
    return _waves(LONG, rate_hz)  # takes far longer to make than to use


def _topics(folder: Path) -> Path:
    """English text that comes with Python, what `help("if")` shows: a `.txt` for each topic, 79 of Python 3.11.

    As text goes it is technical, and it differs a little from one version of Python to the next.
    """
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError:
        raise UserError("builtin:topics is a part of Python (pydoc_data) that this one was installed without") from None
    for name in sorted(topics):
        (folder / f"{name}.txt").write_bytes(topics[name].encode())
    return folder


def _names(folder: Path, part: str) -> Path:
    """The English names of the ten digits in many phrasings, with the digit as label; phrasings of one split alone."""
    rows = [
        f"{split}\t{digit}\t{phrase.format(name)}\n"
        for split, source in (("train", "train"), ("test", part))
        for phrase in [*_phrasings(source), *(ALONE if split == "train" else ())]
        for digit, name in enumerate(DIGIT_NAMES)
    ]
    path = folder / "names.tsv"
    path.write_bytes(f"split\tlabel\ttext\n{''.join(rows)}".encode())
    return path


def _phrasings(part: str) -> list[str]:
    """Openings, nouns and ends, joined. All words are trained on; which of them come together is a part's own."""
    joined = product(enumerate(OPENINGS), enumerate(NOUNS), enumerate(ENDS))
    words = [
        (opening, noun, "{}", end)
        for (a, opening), (b, noun), (c, end) in joined
        if (a + 2 * b + 3 * c) % 5 in REMAINDERS[part]
    ]
    return [" ".join(filter(None, each)) for each in words]


MAKERS: dict[str, Callable[[Path], Path]] = {"digits": _digits, "topics": _topics}
for _name, _make in (("drawn", _drawn), ("tones", _tones), ("names", _names)):
    MAKERS |= {_name: partial(_make, part="test"), f"{_name}-validation": partial(_make, part="validation")}
for _name, _few in (("drawn", _drawn), ("tones", _tones)):
    MAKERS[f"{_name}-few"] = partial(_few, part="test", divisor=10)
