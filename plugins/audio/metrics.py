"""Scores of sound: of every value, of all clips joined, and of their spectra."""

import math
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from vqmm.contracts.metric import Metric, basic_metrics
from vqmm.plugins.audio.extra import needed
from vqmm.utils.errors import UserError

SI_SDR_LIMIT_DB = 100.0  # of a perfect signal or one of zeros alone, whose true scores are not finite
JUDGED_S = 600.0  # of all clips joined: what STOI and PESQ look at
STOI_PIECE_S, STOI_SHORTEST_S = 30.0, 0.4  # STOI compares stretches of 30 frames, 12.8 ms apart
PESQ_PIECE_S, PESQ_SHORTEST_S = 10.0, 0.25  # its code holds 50 utterances, and goes wrong on a signal that has more
PESQ_MODES = {8000: ("nb", "narrow band, P.862.1"), 16000: ("wb", "wide band, P.862.2")}
PESQ_WORST = 1.0
SILENT = 2.0**-16  # less comes out of a 16-bit file as zeros
SPECTRUM_PIECE_S = 10.0  # longer clips go through the Fourier transform in pieces, so that memory stays flat
FLOOR = 1e-4  # of magnitudes, where a sine of full scale has 1: -80 dB, above what 16 bits add, below what is heard

Score = Callable[[Any, Any, int], float | None]  # (outputs, originals, sample rate), NumPy float64 (T,)


def sound_metrics(sample_rate_hz: int) -> dict[str, Metric]:
    """Fresh metrics of sound (n, C, T) with values in [-1, 1].

    `pesq` is among them where its package is installed and the rate is one that it knows (8 or 16 kHz).

    Raises:
        UserError: a library that the others need is not installed.
    """
    for module in ("pystoi", "torchaudio"):
        if find_spec(module) is None:
            raise UserError(f'evaluating sound needs {module}, which is not installed: pip install "vqmm[audio]"')
    n_fft, hop, bands = mel_settings(sample_rate_hz)
    metrics = {
        **basic_metrics(scale="[-1, 1]"),
        "si_sdr_db": Metric(
            JoinedSISDR(),
            f"of all clips and channels joined, means not removed; kept within {SI_SDR_LIMIT_DB:g} dB either way; null "
            "where the originals are silent",
            True,
        ),
        "stoi": Metric(JoinedPieces(stoi, sample_rate_hz, STOI_PIECE_S), f"STOI {_joined(STOI_PIECE_S)}", True),
        "mel_distance": Metric(
            MelDistance(sample_rate_hz),
            f"mean absolute difference of natural logs of {bands} mel bands (HTK, triangles of height 1), Hann window "
            f"of {n_fft}, hop {hop}, magnitudes of which a full-scale sine has 1, floor {FLOOR:g}; {_each()}",
            False,
        ),
        "stft_distance": Metric(
            STFTDistance(sample_rate_hz),
            "spectral convergence plus mean absolute difference of natural log magnitudes, the mean over Hann windows "
            f"of {', '.join(map(str, stft_sizes(sample_rate_hz)))}, hop a quarter, floor {FLOOR:g} of a full-scale "
            f"sine; {_each()}",
            False,
        ),
    }
    if sample_rate_hz in PESQ_MODES and find_spec("pesq") is not None:
        rule = (
            f"PESQ ({PESQ_MODES[sample_rate_hz][1]}) {_joined(PESQ_PIECE_S)}; silence for sound counts {PESQ_WORST:g}"
        )
        metrics["pesq"] = Metric(JoinedPieces(pesq, sample_rate_hz, PESQ_PIECE_S), rule, True)
    return metrics


def _joined(piece_s: float) -> str:
    return (
        f"of the clips joined (the first {JUDGED_S:g} s; channels averaged), in pieces of {piece_s:g} s weighted by "
        "length; pieces too short or silent are left out, null where all are"
    )


def _each() -> str:
    return f"every clip and channel between zeros, those over {SPECTRUM_PIECE_S:g} s in pieces"


# All clips joined


class JoinedSISDR(torchmetrics.Metric):
    """Scale-invariant signal-to-distortion ratio, dB, of all clips laid end to end (Le Roux et al. 2019, equation 3).

    With o the outputs and s the originals, it is that of a = <o, s> / <s, s>: 10 log10(|a s|^2 / |a s - o|^2), which
    takes three sums, so that no clip is kept. NaN where s is silent.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        for name in ("both", "output", "original"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Add the three sums over outputs and originals, each (n, C, T), in float64."""
        o, s = outputs.double().flatten(), originals.double().flatten()
        self.both += o @ s
        self.output += o @ o
        self.original += s @ s

    def compute(self) -> Tensor:
        """float64 scalar in dB, from -100 to 100; -100 if all outputs are zeros, NaN if the originals are silent."""
        kept = self.both.square() / self.original
        ratio = 10 * (kept / (self.output - kept).clamp(min=0)).log10()
        limited = ratio.clamp(-SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB)
        # zeros for sound: nothing over nothing, but nothing of the original is in it
        return torch.where((self.output == 0) & (self.original > 0), -SI_SDR_LIMIT_DB, limited)


class JoinedPieces(torchmetrics.Metric):
    """The mean of a score over pieces of one length of all clips laid end to end, weighted by their lengths.

    Only what does not fill a piece yet is kept. A score that gives None leaves its piece out; NaN where all do.
    """

    full_state_update = False
    higher_is_better = True
    waiting: list[Tensor]  # (2, t) outputs and originals, shorter than a piece together

    def __init__(self, score: Score, sample_rate_hz: int, piece_s: float, judged_s: float = JUDGED_S) -> None:
        super().__init__()
        self.score, self.sample_rate_hz = score, sample_rate_hz
        self.piece, self.judged = round(piece_s * sample_rate_hz), round(judged_s * sample_rate_hz)
        self.add_state("waiting", default=[], dist_reduce_fx=None)
        for name in ("total", "weight", "taken"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Score every piece that outputs and originals (n, C, T) fill, channels averaged, up to `judged_s` in all."""
        joined = torch.stack([side.float().mean(dim=1).flatten().cpu() for side in (outputs, originals)])
        joined = joined[:, : self.judged - int(self.taken)]
        self.taken += joined.shape[1]
        pieces = torch.cat([*self.waiting, joined], dim=1).split(self.piece, dim=1)
        full = [piece for piece in pieces if piece.shape[1] == self.piece]
        self.waiting = [piece.clone() for piece in pieces[len(full) :]]  # a view would keep all of it
        for piece in full:
            total, weight = self._scored(piece)
            self.total += total
            self.weight += weight

    def compute(self) -> Tensor:
        """float64 scalar in the unit of the score; the last, shorter piece is included. NaN if no piece has a score."""
        total, weight = self.total, self.weight
        for piece in self.waiting:
            more, length = self._scored(piece)
            total, weight = total + more, weight + length
        return total / weight

    def _scored(self, piece: Tensor) -> tuple[float, int]:
        """The score times the length, and the length; zeros where the piece cannot be evaluated."""
        if not piece.numel():
            return 0.0, 0
        if not piece.isfinite().all():  # a network that has gone wrong; the libraries would say something else
            return math.nan, piece.shape[1]
        output, original = piece.double().numpy()
        score = self.score(output, original, self.sample_rate_hz) if abs(original).max() >= SILENT else None
        return (0.0, 0) if score is None else (score * len(original), len(original))


def stoi(output: Any, original: Any, sample_rate_hz: int) -> float | None:
    """Short-time objective intelligibility, about 0 to 1 (Taal et al. 2011); None where there is too little sound."""
    if len(original) < STOI_SHORTEST_S * sample_rate_hz:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(needed("pystoi").stoi(original, output, sample_rate_hz))
        except RuntimeWarning:  # too little of it is louder than what the measure takes for silence
            return None


def pesq(output: Any, original: Any, sample_rate_hz: int) -> float | None:
    """Perceptual evaluation of speech quality, 1 to 4.6 (ITU-T P.862); None where the original has no utterance."""
    if len(original) < PESQ_SHORTEST_S * sample_rate_hz:
        return None
    if abs(output).max() < SILENT:
        return PESQ_WORST
    library = needed("pesq")
    try:
        return float(library.pesq(sample_rate_hz, original, output, PESQ_MODES[sample_rate_hz][0]))
    except library.NoUtterancesError:  # it looks for them in the original alone
        return None


# Spectra


class MelDistance(torchmetrics.Metric):
    """The mean absolute difference of log-mel spectra, over all bands and frames."""

    full_state_update = False
    higher_is_better = False

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz
        for name in ("total", "count"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Add the absolute differences of log-mel magnitudes of outputs and originals, each (n, C, T)."""
        n_fft, _, bands = mel_settings(self.sample_rate_hz)
        filters = needed("torchaudio.functional").melscale_fbanks(
            n_freqs=n_fft // 2 + 1,
            f_min=0.0,
            f_max=self.sample_rate_hz / 2,
            n_mels=bands,
            sample_rate=self.sample_rate_hz,
        )
        for pair in _spectra(outputs, originals, n_fft, self.sample_rate_hz):
            output, original = ((filters.to(m).T @ m).clamp(min=FLOOR).log() for m in pair)
            self.total += (output - original).abs().sum().double()
            self.count += original.numel()

    def compute(self) -> Tensor:
        """float64 scalar, a difference of natural logs of magnitudes (1 is 8.7 dB); NaN if there were no samples."""
        return self.total / self.count


class STFTDistance(torchmetrics.Metric):
    """Spectral convergence plus log magnitude distance, the mean over three windows (Yamamoto et al. 2020, equations 4
    to 6), each over all frames.
    """

    full_state_update = False
    higher_is_better = False

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz
        for name in ("error", "power", "total", "count"):
            self.add_state(name, default=torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Add, for each window, the sums over the magnitudes of outputs and originals (n, C, T).

        They are those of squared differences, of the originals' squares, and of absolute differences of natural logs.
        """
        for i, n_fft in enumerate(stft_sizes(self.sample_rate_hz)):
            for output, original in _spectra(outputs, originals, n_fft, self.sample_rate_hz):
                self.error[i] += (output - original).double().square().sum()
                self.power[i] += original.double().square().sum()
                ratio = output.clamp(min=FLOOR).log() - original.clamp(min=FLOOR).log()
                self.total[i] += ratio.abs().sum().double()
                self.count[i] += original.numel()

    def compute(self) -> Tensor:
        """float64 scalar without a unit, 0 for equal signals.

        For each window sqrt(squared differences / originals' squares) plus the mean difference of natural logs; then
        the mean over windows. Not finite if the originals are silent.
        """
        return ((self.error / self.power).sqrt() + self.total / self.count).mean()


def mel_settings(sample_rate_hz: int) -> tuple[int, int, int]:
    """Window, hop (a quarter of it) and bands: the power of two nearest to 1/20 s; 80 bands, under 16 kHz 40."""
    n_fft = 2 ** max(round(math.log2(sample_rate_hz / 20)), 4)
    return n_fft, n_fft // 4, 80 if sample_rate_hz >= 16000 else 40


def stft_sizes(sample_rate_hz: int) -> tuple[int, int, int]:
    """The mel distance's window, half of it and twice it."""
    n_fft = mel_settings(sample_rate_hz)[0]
    return n_fft // 2, n_fft, 2 * n_fft


def _spectra(outputs: Tensor, originals: Tensor, n_fft: int, sample_rate_hz: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Magnitudes (clips, frequencies, frames) of both sides, a few seconds after the other."""
    piece = round(SPECTRUM_PIECE_S * sample_rate_hz)
    sides = (side.float().flatten(0, 1).split(piece, dim=1) for side in (outputs, originals))
    for o, s in zip(*sides, strict=True):
        if o.numel():
            yield magnitudes(o, n_fft), magnitudes(s, n_fft)


def magnitudes(x: Tensor, n_fft: int) -> Tensor:
    """(n, T) -> (n, n_fft / 2 + 1, frames): a Hann window every n_fft / 4, zeros around; a full-scale sine has 1."""
    window = torch.hann_window(n_fft, device=x.device)
    spectrum = torch.stft(x, n_fft, n_fft // 4, window=window, center=True, pad_mode="constant", return_complex=True)
    return spectrum.abs() * (2 / window.sum())
