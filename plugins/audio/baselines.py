"""What sound is coded with where there is no network: Opus, and k-means on the frames of a spectrogram (the floor)."""

import io
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vqmm.contracts.baseline import Baseline
from vqmm.kernels.nearest_code import nearest_code
from vqmm.plugins.audio.extra import needed
from vqmm.quantizers.kmeans import kmeans
from vqmm.utils.errors import UserError

OPUS_KBPS = (6, 8, 12, 16)  # asked for, a channel: from the lowest that Opus has to where speech is transparent
OPUS_LOWEST_KBPS, OPUS_SPAN_KBPS = 6.0, 250.0  # libsndfile's compression level 1 is the first; 0 is both together
OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)

STAGES = (1, 2, 4, 8)  # of K codes each
K = 256
BANDS = 40  # mel bands, at 8 kHz and above; fewer below, where the lowest would fall between two frequencies
FRAMES_PER_SECOND = 100
WINDOW_S = 0.032  # longer ones blur speech: with 50 ms the floor loses 0.06 of STOI on spoken digits
QUIETEST = 1e-2  # the floor of the magnitudes under the logarithm, for samples in [-1, 1]
FIT_FRAMES = 2**18  # that the codebooks are fitted on: 44 minutes; of more, evenly spaced ones
NNLS_STEPS = 50
GRIFFIN_LIM_STEPS, GRIFFIN_LIM_MOMENTUM = 32, 0.99  # fast Griffin-Lim (Perraudin et al. 2013)


def sound_baselines(sample_rate_hz: int) -> list[Baseline]:
    """The floor at several numbers of stages, and Opus at several rates, for sound (C, T) with values in [-1, 1]."""
    floors = [LogMelFloor(sample_rate_hz, stages) for stages in STAGES]
    return [*floors, *(Opus(sample_rate_hz, kbps) for kbps in OPUS_KBPS)]


class Opus(Baseline):
    """Opus in an Ogg file, as libsndfile writes it: variable bit rate, at about the rate that is asked for.

    All samples are laid end to end in one file, whose header would outweigh a short sample by itself. libsndfile takes
    the decoder's delay away: what comes back is as long as what went in, and not shifted.

    Args:
        kbps: kilobits per second of each channel, from 6 to 256.
    """

    family = "Opus"

    def __init__(self, sample_rate_hz: int, kbps: float):
        if not OPUS_LOWEST_KBPS <= kbps <= OPUS_LOWEST_KBPS + OPUS_SPAN_KBPS:
            raise UserError(f"Opus at {kbps:g} kbit/s a channel: it can be asked for 6 to 256")
        self.name = f"Opus, {kbps:g} kbit/s asked for"
        self.level = 1 - (kbps - OPUS_LOWEST_KBPS) / OPUS_SPAN_KBPS
        self.sample_rate_hz = sample_rate_hz
        self.coded_rate_hz = next((rate for rate in OPUS_RATES_HZ if rate >= sample_rate_hz), OPUS_RATES_HZ[-1])
        self.rule = "8 times the bytes of one Ogg file that holds all samples, pages and header included"
        if self.coded_rate_hz != sample_rate_hz:
            self.rule += f"; resampled to {self.coded_rate_hz:,} Hz and back, as Opus knows no {sample_rate_hz:,} Hz"

    def label(self, rate: float) -> str:
        """The codec and its measured rate in kbit/s, all channels together; `rate` is in bit/s."""
        return f"Opus {rate / 1000:.1f} kbit/s"

    def reconstruct(self, samples: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """Samples (C, T), and 8 times the bytes of the file.

        Raises:
            UserError: soundfile (or torchaudio, to resample) is not installed, or cannot write Opus.
        """
        joined = _joined(samples)
        if not joined.shape[1]:
            return [sample.clone() for sample in samples], 0.0
        soundfile = needed("soundfile")
        file = io.BytesIO()
        coded = self._resampled(joined, self.sample_rate_hz, self.coded_rate_hz)
        try:
            options = {"format": "OGG", "subtype": "OPUS", "compression_level": self.level}
            with soundfile.SoundFile(file, "w", self.coded_rate_hz, len(coded), **options) as writer:
                writer.write(coded.T.contiguous().numpy())
            size = len(file.getvalue())
            file.seek(0)
            decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            said = " ".join(str(error).split())
            raise UserError(f"soundfile cannot code Opus here: {said}: it needs a libsndfile 1.1 or newer") from None
        back = self._resampled(torch.from_numpy(decoded).T, self.coded_rate_hz, self.sample_rate_hz)
        return _parted(back.clamp(-1, 1), samples), 8.0 * size

    def _resampled(self, x: Tensor, rate_hz: int, wanted_hz: int) -> Tensor:
        return x if rate_hz == wanted_hz else needed("torchaudio").functional.resample(x, rate_hz, wanted_hz)


class LogMelFloor(Baseline):
    """The floor under every network: residual k-means on log-mel frames, whose phases Griffin and Lim's method guesses.

    A frame is the natural logs of mel bands of the magnitudes of a Hann window of 32 ms, 100 of them a second; each
    stage of K codes says what the stages before it left out. Back: the magnitudes, none below zero, whose bands come
    nearest (`least_squares`), then phases (Griffin and Lim 1984). Each channel by itself; samples laid end to end.

    Args:
        stages: codes of log2(K) bits for each frame.
    """

    family = "log-mel k-means"
    rule = (
        f"{math.log2(K):g} bits for every code: frames of {BANDS} log-mel bands, {FRAMES_PER_SECOND} a second, "
        "residual k-means and Griffin-Lim; samples joined"
    )

    def __init__(self, sample_rate_hz: int, stages: int):
        self.name = f"log-mel k-means, {stages} {'stage' if stages == 1 else 'stages'}"
        self.sample_rate_hz, self.stages = sample_rate_hz, stages
        self.hop = max(round(sample_rate_hz / FRAMES_PER_SECOND), 1)
        self.n_fft = max(2 * round(WINDOW_S * sample_rate_hz / 2), 2 * self.hop)
        self.bands = max(min(BANDS, BANDS * sample_rate_hz // 8000), 1)
        self.codebooks: list[Tensor] = []  # (K, bands) of each stage

    def label(self, rate: float) -> str:
        """The method and its measured rate in kbit/s, all channels together; `rate` is in bit/s."""
        return f"log-mel k-means {rate / 1000:.1f} kbit/s"

    def fit(self, samples: Iterator[Tensor]) -> None:
        """The codebook of every stage, from what the stages before it leave.

        Raises:
            UserError: there is not one frame; torchaudio is not installed.
        """
        filters = self._filters()
        left = _thinned((self._frames(sample, filters) for sample in samples), FIT_FRAMES)
        if not len(left):
            raise UserError("the training samples hold no sound to fit k-means on: all of them are empty")
        self.codebooks = []
        for _ in range(self.stages):
            codebook, _ = kmeans(left, K)
            self.codebooks.append(codebook)
            left = left - codebook[nearest_code(left, codebook).long()]

    def reconstruct(self, samples: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """Samples (C, T), and log2(K) bits for every code of every frame and channel."""
        joined = _joined(samples)
        if not joined.shape[1]:
            return [sample.clone() for sample in samples], 0.0
        if not self.codebooks:
            raise ValueError(f"{self.name}: call fit(samples) first: there are no codebooks yet")
        filters = self._filters()
        frames = self._frames(joined, filters)
        mels = self._quantized(frames).reshape(len(joined), -1, self.bands).mT.exp()
        magnitudes = torch.stack([least_squares(filters, each) for each in mels])
        back = needed("torchaudio").functional.griffinlim(
            magnitudes,
            torch.hann_window(self.n_fft),
            self.n_fft,
            self.hop,
            self.n_fft,
            power=1.0,
            n_iter=GRIFFIN_LIM_STEPS,
            momentum=GRIFFIN_LIM_MOMENTUM,
            length=max(joined.shape[1], self.n_fft),
            rand_init=False,  # phases start at zero: the same every time, and as good
        )
        return _parted(back.clamp(-1, 1), samples), len(frames) * self.stages * math.log2(K)

    def _filters(self) -> Tensor:
        """(n_fft / 2 + 1, bands): triangles of height 1 on the HTK mel scale."""
        bank = needed("torchaudio").functional.melscale_fbanks
        return bank(self.n_fft // 2 + 1, 0.0, self.sample_rate_hz / 2, self.bands, self.sample_rate_hz)

    def _frames(self, sample: Tensor, filters: Tensor) -> Tensor:
        """(C, T) -> (frames of every channel, bands). A sample shorter than a window has zeros after it."""
        if not sample.shape[1]:
            return sample.new_zeros(0, self.bands)
        padded = torch.nn.functional.pad(sample, (0, max(self.n_fft - sample.shape[1], 0)))
        window = torch.hann_window(self.n_fft)
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=window, return_complex=True)
        return (filters.T @ spectrum.abs()).clamp(min=QUIETEST).log().mT.reshape(-1, self.bands)

    def _quantized(self, frames: Tensor) -> Tensor:
        left, quantized = frames, torch.zeros_like(frames)
        for codebook in self.codebooks:
            chosen = codebook[nearest_code(left, codebook).long()]
            left, quantized = left - chosen, quantized + chosen
        return quantized


def least_squares(filters: Tensor, bands: Tensor) -> Tensor:
    """Magnitudes (F, frames), none below zero, with filters.T @ magnitudes near to `bands` (M, frames).

    By the multiplicative steps of Lee and Seung 2000, "Algorithms for non-negative matrix factorization", which stay
    positive; a frequency that no filter sees gets nothing.

    Args:
        filters: (F, M), none below zero.
    """
    wanted = filters @ bands
    both = filters @ filters.T
    magnitudes = wanted / both.sum(dim=1, keepdim=True).clamp(min=1e-8)
    for _ in range(NNLS_STEPS):
        magnitudes = magnitudes * wanted / (both @ magnitudes + 1e-10)
    return magnitudes


def _thinned(parts: Iterator[Tensor], most: int) -> Tensor:
    """Rows of all parts (n, D), at most so many: where there are more, every second, every fourth, ... of them."""
    kept: list[Tensor] = []
    count, offset, step = 0, 0, 1
    for part in parts:
        rows = part[-offset % step :: step]
        offset += len(part)
        kept.append(rows.clone() if step > 1 else rows)  # a view would keep all of it
        count += len(rows)
        while count > most:
            together = torch.cat(kept)[::2].clone()
            kept, count, step = [together], len(together), 2 * step
    return torch.cat(kept) if kept else torch.zeros(0, 1)


def _joined(samples: Sequence[Tensor]) -> Tensor:
    """Samples (C, T) end to end, float32."""
    return torch.cat([sample.float() for sample in samples], dim=1) if samples else torch.zeros(1, 0)


def _parted(joined: Tensor, samples: Sequence[Tensor]) -> list[Tensor]:
    """What was joined, cut back into samples of their own lengths."""
    lengths = [sample.shape[1] for sample in samples]
    return [part.contiguous() for part in joined[:, : sum(lengths)].split(lengths, dim=1)]
