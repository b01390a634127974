"""How sounds are evaluated, compared and shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

import vqmm

if TYPE_CHECKING:
    from vqmm.contracts.baseline import Baseline
    from vqmm.contracts.labels import LabelClassifier
    from vqmm.contracts.metric import Metric
    from vqmm.plugins.audio.label_classifier import SoundFeatures


class AudioEvaluation(vqmm.Evaluation):
    """Of sounds (C, T) in [-1, 1].

    Args:
        longest_seconds: of an evaluation's view of a longer file.
    """

    main_metric: ClassVar[str] = "mel_distance"
    rate_unit: ClassVar[str] = "second"

    def __init__(self, sample_rate_hz: int, longest_seconds: float):
        self.sample_rate_hz, self.longest_seconds = sample_rate_hz, longest_seconds

    @property
    def view(self) -> str:
        """What an evaluation uses, in words: whole files, cut to the first `longest_seconds`."""
        return f"whole files, of longer ones the first {self.longest_seconds:g} s"

    def metrics(self) -> "dict[str, Metric]":
        """MSE, NMSE, SI-SDR (dB), STOI, mel and STFT distance; PESQ where it is installed, at 8 or 16 kHz.

        Raises:
            UserError: pystoi or torchaudio is not installed.
        """
        from vqmm.plugins.audio.metrics import sound_metrics

        return sound_metrics(self.sample_rate_hz)

    def size_in_units(self, sample: Tensor) -> float:
        """Seconds of a sample (C, T)."""
        return sample.shape[1] / self.sample_rate_hz

    def show(self, *rows: Sequence[Tensor], names: Sequence[str] | None = None) -> str:
        """Players, waveforms and spectrograms: HTML."""
        from vqmm.plugins.audio.show import show_sound

        return show_sound(rows, self.sample_rate_hz, names)

    def label_classifier(self) -> "LabelClassifier":
        """A `SoundLabelClassifier`, on log-mel spectrograms; a `UserError` where torchaudio is not installed."""
        from vqmm.plugins.audio.label_classifier import SoundLabelClassifier

        return SoundLabelClassifier(self.sample_rate_hz)

    def features(self) -> "SoundFeatures":
        """Statistics of log-mel bands."""
        from vqmm.plugins.audio.label_classifier import SoundFeatures

        return SoundFeatures(self.sample_rate_hz)

    def baselines(self) -> "Sequence[Baseline]":
        """Opus, and residual k-means on log-mel frames."""
        from vqmm.plugins.audio.baselines import sound_baselines

        return sound_baselines(self.sample_rate_hz)
