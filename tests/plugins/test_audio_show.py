"""Sound for the eye and the ear: what is in the HTML, that it is right, and that a page holds it well."""

import base64
import io
import re
import wave
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vqmm
from tests.pages.test_browser import CHROMIUM, FRAME, MEASURE, browse
from vqmm.evaluation.evaluate import EvaluationResult, write_shown
from vqmm.plugins.audio import Audio, show
from vqmm.plugins.audio.show import LONGEST_S, decibels, draw, show_sound, to_wav
from vqmm.utils.errors import UserError

RATE = 8000


def tone(hertz: float, seconds: float = 0.5, level: float = 0.5, channels: int = 1) -> torch.Tensor:
    t = torch.arange(round(seconds * RATE)) / RATE
    return (level * torch.sin(2 * torch.pi * hertz * t)).repeat(channels, 1)


class Parsed(HTMLParser):
    """Tags with their attributes in order; fails where one is closed that is not open."""

    def __init__(self, fragment: str):
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(fragment)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def sources(self, tag: str) -> list[bytes]:
        return [base64.b64decode(told["src"].split(",", 1)[1]) for name, told in self.seen if name == tag]


def played(data: bytes) -> tuple[int, np.ndarray]:
    """The rate and int16 (T, C) of a WAV file."""
    with wave.open(io.BytesIO(data)) as file:
        assert file.getsampwidth() == 2
        frames = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return file.getframerate(), frames.reshape(-1, file.getnchannels())


# What is in it


def test_every_sample_of_every_row_has_a_player_and_a_picture():
    originals = [tone(440), tone(900, 0.3), tone(50, 1.1)]
    again = [0.5 * sample for sample in originals]
    parsed = Parsed(show_sound([originals, again], RATE))
    files, pictures = parsed.sources("audio"), parsed.sources("img")
    assert len(files) == len(pictures) == 6
    for file, sample in zip(files, (s for pair in zip(originals, again, strict=True) for s in pair), strict=True):
        rate, values = played(file)
        assert rate == RATE and values.T.tolist() == (sample * 32768).round().int().tolist()
    assert parsed.text.count("original, ") == parsed.text.count("reconstruction, ") == 3
    assert "sample 3" in parsed.text and "1.1 s" in parsed.text and "80 dB" in parsed.text
    assert [told["controls"] for tag, told in parsed.seen if tag == "audio"] == [None] * 6


def test_it_is_plain_ascii_that_refers_to_nothing_outside():
    fragment = show_sound([[tone(440)], [tone(441)]], RATE)
    assert fragment.isascii() and "http" not in fragment and "<script" not in fragment and "url(" not in fragment
    assert all(told["src"].startswith("data:") for tag, told in Parsed(fragment).seen if tag in ("audio", "img"))


def test_names_are_those_given_escaped_and_else_only_what_is_known():
    rows = [[tone(440)]] * 3
    told = show_sound(rows, RATE, ["clean & loud", "<b>", "vqvae"])
    assert "clean &amp; loud" in told and "&lt;b&gt;" in told and "<b>" not in told
    assert all(f"row {number}, " in show_sound(rows, RATE) for number in (1, 2, 3))
    with pytest.raises(UserError, match=r"2 names \(a, b\) for 3 rows"):
        show_sound(rows, RATE, ["a", "b"])
    with pytest.raises(UserError, match="rows of 1, 2 samples"):
        show_sound([[tone(1)], [tone(1)] * 2], RATE)


def test_a_long_sample_is_cut_and_says_so():
    parsed = Parsed(show_sound([[tone(440, 12.5)]], RATE))
    assert len(played(parsed.sources("audio")[0])[1]) == LONGEST_S * RATE
    assert "sound, the first 10 of 12.5 s" in parsed.text


def test_stereo_plays_both_channels_in_their_places():
    sample = torch.stack([tone(440)[0], -0.25 * tone(440)[0]])
    _, values = played(to_wav(sample, RATE))
    assert values.shape == (4000, 2) and values.T.tolist() == (sample * 32768).round().int().tolist()
    Parsed(show_sound([[sample], [sample]], RATE))


def test_loud_values_are_clipped_and_never_wrap():
    _, values = played(to_wav(torch.tensor([[1.0, -1.0, 7.0, -7.0, 32767.4 / 32768]]), RATE))
    assert values[:, 0].tolist() == [32767, -32768, 32767, -32768, 32767]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_is_said_and_does_not_break_the_page(bad):
    spoilt = tone(440)
    spoilt[0, 5] = bad
    told = Parsed(show_sound([[tone(440)], [spoilt]], RATE)).text
    assert told.count("holds values that are not numbers") == 1


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_no_samples(rows):
    assert "No samples." in Parsed(show_sound(rows, RATE)).text


@pytest.mark.parametrize("length", [0, 1, 3])
def test_hardly_any_values_and_silence(length):
    rows = [[torch.zeros(1, length), torch.zeros(1, 900)]] * 2
    parsed = Parsed(show_sound(rows, RATE))
    assert [len(played(file)[1]) for file in parsed.sources("audio")] == [length, length, 900, 900]


# Pictures


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)


def spectrogram(picture: np.ndarray) -> np.ndarray:
    """The lower part, within its axes."""
    return picture[int(0.36 * len(picture)) : int(0.84 * len(picture)), int(0.12 * picture.shape[1]) : -20]


def lit(picture: np.ndarray) -> np.ndarray:
    """Where the spectrogram is bright: (height, width)."""
    part = spectrogram(picture)
    return (part[..., :3].sum(-1) > 500) & (part[..., 3] > 0)


def test_a_spectrogram_shows_the_tone_where_it_is():
    low, high = (lit(pixels(draw([tone(hertz)], RATE)[0])) for hertz in (1000, 3000))
    for picture, share in ((low, 0.75), (high, 0.25)):  # of the height, from above; 4 kHz is the top
        rows = np.flatnonzero(picture.mean(axis=1) > 0.5)
        assert len(rows) and abs(rows.mean() / len(picture) - share) < 0.05


def test_both_rows_share_one_scale_of_colours_and_of_heights():
    loud, quiet, under = draw([tone(1000, level=0.9 * 10 ** (-db / 20)) for db in (0, 50, 90)], RATE)
    alone = draw([tone(1000, level=0.9 * 10 ** (-50 / 20))], RATE)[0]
    assert lit(pixels(loud)).any() and not lit(pixels(quiet)).any() and lit(pixels(alone)).any()
    assert spectrogram(pixels(quiet))[..., :3].sum(-1).max() > 60, "30 dB above what is black"
    assert spectrogram(pixels(under))[..., :3].sum(-1).max() < 10, "more than 80 dB down is black"


def test_rows_of_two_lengths_share_the_axis_of_time():
    whole, half = (pixels(picture) for picture in draw([tone(1000, 1.0), tone(1000, 0.5)], RATE))
    width = lit(whole).shape[1]
    assert lit(whole)[:, int(0.75 * width)].any() and lit(half)[:, int(0.25 * width)].any()
    assert not lit(half)[:, int(0.75 * width)].any()


def test_silence_is_dark_and_the_paper_shows_through():
    picture = pixels(draw([torch.zeros(1, 4000)], RATE)[0])
    assert not lit(picture).any() and picture[2, 2, 3] == 0, "transparent, for light and dark pages"


def test_a_full_scale_sine_is_at_0_db():
    spectrum = decibels(tone(1000, level=1.0)[0], RATE)
    assert float(spectrum.max()) == pytest.approx(0, abs=0.1)
    assert spectrum.max(dim=1).values.argmax() == round(1000 / RATE * 2 * (len(spectrum) - 1))


def test_matplotlib_is_left_as_it_was():
    import matplotlib

    before = matplotlib.rcParams.copy()
    draw([tone(440)], RATE)
    assert matplotlib.rcParams.copy() == before


# In pages


def shown_as_sound() -> vqmm.Modality:
    """A modality that shows sound."""
    return Audio(Audio.Options(sample_rate_hz=RATE))


@pytest.mark.parametrize("count, title", [(2, "Originals, reconstructions"), (3, "Inputs, reconstructions, originals")])
def test_a_file_of_its_own_is_a_page_that_says_what_the_rows_are(count, title, tmp_path):
    rows = [[tone(440), tone(660)]] * count
    result = EvaluationResult(shown=(rows[0], rows[1]), inputs=rows[0] if count == 3 else [])
    file = write_shown(shown_as_sound(), result, tmp_path / "v1.0")
    page = file.read_text()
    assert file.name == "v1.0.html" and f"<h1>{title}</h1>" in page and '<meta charset="utf-8">' in page
    assert show_sound(rows, RATE) in page


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a run whose modality shows sound: four samples, one of them long."""
    from vqmm.pages import report
    from vqmm.plugins.image.evaluation import ImageEvaluation

    out = tmp_path_factory.mktemp("runs") / "heard"
    settings = ["modality.size=8", "modality.channels=1", "modality.width=16", "quantizer.dim=8"]
    vqmm.train("image", "builtin:digits", out, steps=2, settings=[*settings, "train.evaluate_samples=4"], quiet=True)
    samples = [tone(440), tone(700, 12), torch.zeros(1, 800), tone(300, 0.05, channels=2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageEvaluation, "show", lambda self, *rows: show_sound([samples] * len(rows), RATE))
        return Path(report(out)["report"])


def test_the_report_says_which_sample_is_which(page):
    text = page.read_text()
    assert "Originals and reconstructions" in text and text.count("<audio controls") == 8
    assert len(re.findall(r'<span class="line">sample \d: [^<]+</span>', text)) == 4
    assert "media-src data:" in text, "the page may play what it holds"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_plays_it_and_nothing_is_wider_than_the_window(page, width):
    seen = browse(page)
    assert "CONSOLE" not in seen.stderr, seen.stderr
    measure = MEASURE.replace(
        "document.body.scrollWidth]",
        "document.body.scrollWidth, ...[...document.querySelectorAll('audio, .sound img')].map(e => e.offsetWidth),"
        " ...[...document.querySelectorAll('audio')].map(e => Math.round(1000 * e.duration))]",
    )
    text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', lambda _: measure, page.read_text())
    assert count == 1 and measure != MEASURE
    (page.parent / "measured.html").write_text(text)
    frame = page.parent / "frame.html"
    frame.write_text(FRAME.format(width=width))
    (told,) = re.findall("<title>(.*)</title>", browse(frame, "--window-size=1400,2200").stdout)
    window, *numbers = map(int, told.split())
    assert window == width and max(numbers[:2]) <= width
    assert all(200 < wide <= width for wide in numbers[2:18])
    assert numbers[18:] == [500, 500, 10000, 10000, 100, 100, 50, 50], "milliseconds that the players have"


def test_the_fragment_stays_small():
    assert len(show_sound([[tone(440, 1.0)]] * 2, RATE)) < 200_000
    assert show.DPI * show.WIDTH_IN <= 640
