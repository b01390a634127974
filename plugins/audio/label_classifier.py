"""What names sounds: a classifier that a reconstruction or a generated sound has to convince."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vqmm.evaluation.classifier import STEPS, PlaneClassifier
from vqmm.plugins.audio.spectral import mel_bank

WINDOW_S, HOP_S = 0.032, 0.008
BANDS = 40
FRAMES = 32  # that each sound is brought to, long or short
SILENCE_DB = 40.0  # below its loudest frame: so much is cut off before and after a sound
DEPTH_DB = 60.0  # and so far down from its loudest point a spectrogram is seen


class SoundLabelClassifier:
    """Labels sounds (C, T), floats in [-1, 1], of any length: `LabelClassifier` of the core.

    It sees the log-mel spectrogram of the channels' mean, silence before and after left out, relative to its loudest
    point, brought to 32 frames: neither loudness nor length tells it anything.

    Raises:
        UserError: torchaudio is not installed.
    """

    rule = (
        f"{PlaneClassifier.said}, on log-mel spectrograms of {BANDS} bands and {FRAMES} frames; level, length and "
        "silence around a sound left out"
    )

    def __init__(self, sample_rate_hz: int, steps: int = STEPS):
        self._length, self._hop = (max(round(seconds * sample_rate_hz), 2) for seconds in (WINDOW_S, HOP_S))
        self._bank = mel_bank(self._length, min(BANDS, self._length // 4), sample_rate_hz)
        self._classifier = PlaneClassifier(steps)

    def fit(self, samples: Sequence[Tensor], labels: Sequence[int]) -> None:
        """Learn from sounds and their labels; the same ones give the same classifier. A `UserError` for one label."""
        self._classifier.fit(self._planes(samples), labels)

    def predict(self, samples: Sequence[Tensor]) -> list[int]:
        """The likeliest label of each."""
        return self._classifier.predict(self._planes(samples)) if samples else []

    def _planes(self, samples: Sequence[Tensor]) -> Tensor:
        """float32 (N, 1, bands, FRAMES)."""
        planes = [self._plane(torch.nan_to_num(sample.detach().float().cpu()).mean(dim=0)) for sample in samples]
        return torch.stack(planes)[:, None] if planes else torch.zeros(0, 1, self._bank.shape[1], FRAMES)

    def _plane(self, x: Tensor) -> Tensor:
        """(T,) -> (bands, FRAMES), 0 to 1; of silence all 0."""
        x = F.pad(x, (0, max(self._length - len(x), 0)))
        frames = x.unfold(0, self._length, self._hop) * torch.hann_window(self._length)
        power = torch.fft.rfft(frames).abs().square() @ self._bank  # (frames, bands)
        loud = power.sum(dim=1)
        if not loud.max() > 0:
            return torch.zeros(self._bank.shape[1], FRAMES)
        heard = (loud >= loud.max() * 10 ** (-SILENCE_DB / 10)).nonzero()[:, 0]
        power = power[int(heard[0]) : int(heard[-1]) + 1]
        level = 10 * (power / power.max()).clamp(min=10 ** (-DEPTH_DB / 10)).log10()
        return F.adaptive_avg_pool1d(1 + level.T / DEPTH_DB, FRAMES)


class SoundFeatures:
    """What sets of sounds are compared by: of each log-mel band the mean and the deviation over time.

    Nothing is learnt. The bands are those that `SoundLabelClassifier` sees: relative to a sound's loudest point,
    silence around it left out.
    """

    def __init__(self, sample_rate_hz: int):
        self._classifier = SoundLabelClassifier(sample_rate_hz)

    @property
    def rule(self) -> str:
        """The features in words, for the rules of the distances between sets."""
        return f"features: mean and deviation over time of {BANDS} log-mel bands; level and silence around it left out"

    def features(self, samples: Sequence[Tensor]) -> Tensor:
        """Sounds (C, T), of any lengths -> (N, 2 bands)."""
        planes = self._classifier._planes(samples)[:, 0]
        return torch.cat([planes.mean(dim=2), planes.std(dim=2)], dim=1)
