"""Sound for the eye and the ear: players, waveforms and spectrograms as one piece of HTML that needs nothing else."""

import base64
import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from vqmm.contracts.show import named_rows
from vqmm.plugins.audio.metrics import magnitudes, stft_sizes

LONGEST_S = 10.0  # shown and played of a sample; the rest is cut off, and said to be
RANGE_DB = 80.0  # of the colours of a spectrogram, down from the loudest point of its sample,
QUIETEST_DB = -60.0  # or from here, so that silence is dark
WIDTH_IN, HEIGHT_IN, DPI = 3.6, 2.1, 160  # of a picture: sharp on a phone, and small enough to be part of a page
INK, LINE = "#7d848b", "#1f97a0"  # to be read on white and on black
NAMES = {1: ("sound",), 2: ("original", "reconstruction")}  # of rows, where their number says what they are

# Where the page around it has colours of its own they are used. Its pictures are for white paper, these for any.
STYLE = """<style>
.sound { display: grid; gap: 28px; }
.sound > p { margin: 0; font-size: 0.84rem; color: var(--soft, #6a6d72); }
.sound section { margin: 0; }
.sound h3 { margin: 0 0 8px; font-size: 0.9rem; }
.sound section > div { display: grid; gap: 20px; }
.sound section > div { grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); }
.sound .one { min-width: 0; max-width: 640px; }
.sound .one p { margin: 0 0 6px; font-size: 0.84rem; color: var(--soft, #6a6d72); }
.sound audio { display: block; width: 100%; height: 36px; }
.sound img { display: block; width: 100%; height: auto; margin-top: 8px; background: none; }
</style>"""


def show_sound(rows: Sequence[Sequence[Tensor]], sample_rate_hz: int, names: Sequence[str] | None = None) -> str:
    """Players, waveforms and spectrograms of rows of samples, the same sample of every row side by side.

    Both axes of a sample's waveforms, and the colours of its spectrograms, are the same in all rows.

    Args:
        rows: lists of samples (C, T), floats in [-1, 1], C 1 or 2; as many in each row.
        names: of the rows; without any "original" and "reconstruction" where there are two, else "row 1" and so on.

    Returns:
        HTML in plain ASCII, to be put into a page or opened as it is. Where a page has the CSS variable `--soft` it is
        used for small print.

    Raises:
        UserError: rows of different lengths, or another number of names.
    """
    names = named_rows(rows, names, NAMES.get(len(rows), [f"row {number}" for number in range(1, len(rows) + 1)]))
    shown = [_sample(number, column, names, sample_rate_hz) for number, column in enumerate(zip(*rows, strict=True), 1)]
    legend = (
        f"Waveform above spectrogram (s, kHz). Colours: {RANGE_DB:g} dB down from the loudest point of a sample, the "
        "same for all its rows."
    )
    said = legend if shown else "No samples."
    return f'{STYLE}\n<div class="sound">\n<p>{said}</p>\n{"".join(shown)}</div>\n'


def _sample(number: int, column: Sequence[Tensor], names: Sequence[str], sample_rate_hz: int) -> str:
    """One sample, as it is in every row."""
    most = round(LONGEST_S * sample_rate_hz)
    waves = [torch.nan_to_num(sample.detach().cpu().float(), 0.0, 1.0, -1.0)[:, :most] for sample in column]
    pictures = draw(waves, sample_rate_hz)
    cells = []
    for name, sample, whole, picture in zip(names, waves, column, pictures, strict=True):
        caption = [escape(name), _length(whole, sample_rate_hz)]
        if not whole.isfinite().all():
            caption.append("holds values that are not numbers")
        cells.append(
            f'<div class="one"><p>{", ".join(caption)}</p>\n'
            f'<audio controls preload="metadata" src="data:audio/wav;base64,{_base64(to_wav(sample, sample_rate_hz))}">'
            f'</audio>\n<img alt="waveform and spectrogram, {escape(name)}, sample {number}" '
            f'width="{round(WIDTH_IN * DPI)}" height="{round(HEIGHT_IN * DPI)}" '
            f'src="data:image/png;base64,{_base64(picture)}"></div>\n'
        )
    return f"<section><h3>sample {number}</h3>\n<div>\n{''.join(cells)}</div></section>\n"


def _length(sample: Tensor, sample_rate_hz: int) -> str:
    seconds = sample.shape[1] / sample_rate_hz
    return f"the first {LONGEST_S:g} of {seconds:.4g} s" if seconds > LONGEST_S else f"{seconds:.3g} s"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def to_wav(sample: Tensor, sample_rate_hz: int) -> bytes:
    """A 16-bit WAV file of a sample (C, T), 1 being 32,768; louder ones are clipped."""
    values = (sample * 32768).round().clamp(-32768, 32767).to(torch.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(sample.shape[0])
        written.setsampwidth(2)
        written.setframerate(sample_rate_hz)
        written.writeframes(values.T.contiguous().numpy().astype("<i2").tobytes())
    return file.getvalue()


def draw(waves: Sequence[Tensor], sample_rate_hz: int) -> list[bytes]:
    """A transparent PNG for each wave (C, T): waveform above spectrogram, channels averaged, all on one scale."""
    from matplotlib import rc_context

    mono = [sample.mean(dim=0) for sample in waves]
    spectra = [decibels(signal, sample_rate_hz) for signal in mono]
    high = max((float(signal.abs().max()) for signal in mono if len(signal)), default=0.0) or 1.0
    loudest = max((float(spectrum.max()) for spectrum in spectra if spectrum.numel()), default=QUIETEST_DB)
    scales = _Scales(sample_rate_hz, max(map(len, mono)), high, max(loudest, QUIETEST_DB))
    look: dict[Any, Any] = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with rc_context(look | {"font.size": 7}):
        return [_picture(signal, spectrum, scales) for signal, spectrum in zip(mono, spectra, strict=True)]


def decibels(x: Tensor, sample_rate_hz: int) -> Tensor:
    """The spectrogram (frequencies, frames) of (T,), dB; 0 is a sine of full scale."""
    n_fft = stft_sizes(sample_rate_hz)[0]
    return 20 * magnitudes(x[None], n_fft)[0].clamp(min=1e-9).log10() if len(x) else torch.empty(n_fft // 2 + 1, 0)


@dataclass(frozen=True)
class _Scales:
    """What the pictures of one sample share: `longest` in values, `high` the largest one, `loudest` in dB."""

    sample_rate_hz: int
    longest: int
    high: float
    loudest: float


def _picture(x: Tensor, spectrum: Tensor, scales: _Scales) -> bytes:
    """Figure objects and no pyplot: nothing of the caller's matplotlib is touched, and no display is looked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    upper, lower = figure.add_axes((0.1, 0.7, 0.87, 0.28)), figure.add_axes((0.1, 0.15, 0.87, 0.51))
    rate, end = scales.sample_rate_hz, (scales.longest or scales.sample_rate_hz) / scales.sample_rate_hz
    upper.plot(torch.arange(len(x)).numpy() / rate, x.numpy(), color=LINE, linewidth=0.5)
    upper.set_ylim(-1.05 * scales.high, 1.05 * scales.high)
    upper.tick_params(labelbottom=False)
    if spectrum.numel():
        lower.imshow(
            spectrum.numpy(),
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, len(x) / rate, 0, rate / 2000),
            vmin=scales.loudest - RANGE_DB,
            vmax=scales.loudest,
        )
    lower.set_ylim(0, rate / 2000)
    lower.set_xlabel("s", labelpad=1)
    lower.set_ylabel("kHz", labelpad=2)
    for axes in (upper, lower):
        axes.set_xlim(0, end)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=2, pad=2)
        axes.patch.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, transparent=True, metadata={"Software": None})
    return file.getvalue()
