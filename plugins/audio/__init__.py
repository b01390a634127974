"""Sound: a line of codes for WAV, FLAC, Ogg Vorbis, Opus and MP3 files, for folders, lists and archives of them."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import vqmm
from vqmm.contracts.sample import Sample
from vqmm.nn import prime_factors
from vqmm.plugins.audio import files
from vqmm.plugins.audio.extra import NEEDS
from vqmm.utils.errors import Remark, UserError

if TYPE_CHECKING:
    from vqmm.plugins.audio.waveform import Style


OPTIONS_OF = {  # options that only one kind of network has
    "window": "spectral",
    "activation": "waveform",
    "weight_norm": "waveform",
    "bottleneck": "waveform",
    "attention": None,  # which the core's own networks have, and neither of these
}


@vqmm.hookimpl
def register_modalities(register) -> None:  # type: ignore[no-untyped-def]
    """Offer the modality `audio`."""
    register(Audio)


class Audio(vqmm.Modality):
    """Sound of one or two channels. Samples are int16 (C, T) as read, floats in [-1, 1] in a batch.

    Two kinds of networks: `spectral` sees short-time spectra and gives them back, and is the one for small budgets;
    `waveform` is made of strided convolutions, as those of SoundStream, EnCodec and DAC are.
    """

    name = "audio"
    rank = 1
    levels: ClassVar[int] = 65_536
    needs: ClassVar[Mapping[str, str]] = NEEDS

    class Options(vqmm.Modality.Options):
        """How files are read and views are cut, the kind and size of the networks, and the weights of the losses."""

        added: ClassVar[frozenset[str]] = frozenset({"speed"})
        # what is read, and how
        sample_rate_hz: int = Field(16_000, ge=1_000, le=192_000, description="files are resampled to this rate")
        channels: Literal[1, 2] = Field(1, description="mono or stereo")
        mix: bool = Field(True, description="bring files of another number of channels to this one; or refuse them")
        loudness: Literal["as is", "peak", "loudness"] = Field(
            "as is", description="bring each file to a peak of 0.9, or to -23 LUFS"
        )
        label: str | None = Field(None, description="regular expression: its first group in a file's key is its label")
        test: str | None = Field(None, description="regular expression: files whose key it finds are the test split")
        seconds: float = Field(1.0, gt=0, description="length of a training view; shorter files are taken whole")
        speed: float = Field(0.0, ge=0, le=0.5, description="share that views are faster or slower by, at most")
        longest_seconds: float = Field(30.0, gt=0, description="of an evaluation's view of a longer file")
        # networks
        network: Literal["spectral", "waveform"] = Field("spectral", description="what the networks are made of")
        causal: bool = Field(False, description="nothing depends on what comes later, so sound can be streamed")
        stride: int | tuple[int, ...] = Field(
            (2, 4, 5, 4), description="samples a code spans: a number, or one for each level, whose product it is"
        )
        width: int = Field(128, ge=8, description="channels of the networks at their coarsest level")
        blocks: int = Field(4, ge=0, description="residual blocks: spectral, in each network; waveform, at each level")
        window: int = Field(4, ge=2, le=16, description="spectral: codes that a frame spans")
        activation: Literal["elu", "snake"] = Field("elu", description="waveform: what stands between convolutions")
        weight_norm: bool = Field(True, description="waveform: a length and a direction for each weight")
        bottleneck: Literal["none", "lstm", "attention"] = Field(
            "none", description="waveform: what stands where the line is shortest"
        )
        # losses
        waveform_weight: float = Field(1.5, ge=0, description="of the squared error, over the sound's power")
        mel_weight: float = Field(3.0, ge=0, description="of the difference of log-mel spectra, at five resolutions")
        envelope_weight: float = Field(1.0, ge=0, description="of how badly third-octave envelopes correlate")

    options: Options

    def __init__(self, options: Options | None = None):
        super().__init__(options)
        o = self.options
        self.channels = o.channels
        self.reading = files.SoundReading(o.sample_rate_hz, o.channels, o.mix, o.loudness, o.label, o.test)
        if o.waveform_weight + o.mel_weight + o.envelope_weight == 0:
            raise UserError("modality: waveform_weight, mel_weight, envelope_weight are all 0: nothing to learn from")
        if round(o.seconds * o.sample_rate_hz) < self.hop:
            raise UserError(
                f"modality.seconds: {o.seconds:g} s are {round(o.seconds * o.sample_rate_hz)} samples, a code spans "
                f"{self.hop} (stride): take {self.hop / o.sample_rate_hz:g} s or more"
            )
        self._refuse_foreign_options()
        if o.causal and o.bottleneck == "attention":
            raise UserError("modality.bottleneck: attention looks ahead, a causal network does not: take lstm or none")

    def _refuse_foreign_options(self) -> None:
        """An option that the chosen networks do not have would do nothing."""
        fields = self.Options.model_fields
        for name, network in OPTIONS_OF.items():
            if network != self.options.network and getattr(self.options, name) != fields[name].default:
                instead = f", or take modality.network={network}" if network else ": take modality.bottleneck=attention"
                raise UserError(
                    f"modality.{name}: the {self.options.network} networks have no such option: leave it out{instead}"
                )

    def check_strides(self) -> None:
        """Any stride will do: a spectrum's hop need not be a power of two."""
        stride = self.options.stride
        if min((stride,) if isinstance(stride, int) else (*stride, 1)) < 1 or stride == ():
            raise UserError(f"modality.stride: {stride} must be a number, at least 1, or one for each level")

    @property
    def hop(self) -> int:
        """Samples that a code spans."""
        stride = self.options.stride
        return stride if isinstance(stride, int) else prod(stride)

    @property
    def strides(self) -> tuple[int, ...]:
        """One number, the samples per code: (hop,)."""
        return (self.hop,)

    @property
    def levels_of_stride(self) -> tuple[int, ...]:
        """The stride of each level of the waveform networks; one number is split into primes, small ones first."""
        stride = self.options.stride
        return tuple(prime_factors(stride) if isinstance(stride, int) else stride)

    # From disk and back

    def check_samples(self, samples: Iterator[Tensor]) -> None:
        """A remark where every sound is shorter than a training view."""
        length = round(self.options.seconds * self.options.sample_rate_hz)
        longest = 0
        for sample in samples:
            longest = max(longest, sample.shape[1])
            if longest >= length:
                return
        warnings.warn(
            f"modality.seconds: a training view is {self.options.seconds:g} s, and the longest of all sounds "
            f"{longest / self.options.sample_rate_hz:.3g} s: each is taken whole, and padded beside longer ones",
            Remark,
            stacklevel=2,
        )

    def samples(self, path: Path) -> Iterator[Sample]:
        """Every sound of a file, folder, archive or CSV, unread: int16 (C, T) at `sample_rate_hz`.

        Raises:
            UserError: there is none; `label` or `test` matches no key, while data to be trained on are read.
        """
        return files.sound_samples(path, replace(self.reading, insist=not self.trained))

    def write(self, sample: Tensor, path: Path) -> Path:
        """A WAV file of 16 bits."""
        return files.write_sound(sample, path, self.options.sample_rate_hz)

    def as_written(self, sample: Tensor) -> Tensor:
        """float32 (C, T), rounded to 16 bits and clamped as in a WAV file; a `UserError` for NaN or infinity."""
        return files.as_written(sample)

    def crop(self, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        """A random stretch of `seconds`, at a random speed where asked for; for evaluation the beginning."""
        sample = sample if generator is None else self._at_some_speed(sample, generator)
        seconds = self.options.longest_seconds if generator is None else self.options.seconds
        length = round(seconds * self.options.sample_rate_hz)
        spare = max(sample.shape[1] - length, 0)
        start = 0 if generator is None else int(torch.randint(spare + 1, (), generator=generator))
        return sample[:, start : start + length]

    augments = True

    def augment(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """At a speed of up to `speed` more or less; and later by less than a code, so that frames fall elsewhere."""
        late = int(torch.randint(self.hop, (), generator=generator))
        return nn.functional.pad(self._at_some_speed(sample, generator), (late, 0))

    def _at_some_speed(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        from vqmm.plugins.audio.resampling import at_speed

        most = round(100 * self.options.speed)
        if not most or not sample.numel():
            return sample
        return at_speed(sample, 100 + int(torch.randint(-most, most + 1, (), generator=generator)))

    def collate(
        self, samples: Sequence[Tensor], keys: Sequence[str], labels: Sequence[int] | None = None
    ) -> vqmm.Batch:
        """Float samples are taken as they are, int16 ones brought to [-1, 1)."""
        return super().collate([s if s.is_floating_point() else s.float() / 32_768 for s in samples], keys, labels)

    # Networks

    def build_encoder(self, dim: int) -> nn.Module:
        """x (B, C, T) -> z (B, dim, T / hop): a `SpectralEncoder` or a `WaveformEncoder`, as `network` says.

        Raises:
            UserError: spectral, and torchaudio is not installed.
        """
        from vqmm.plugins.audio.spectral import SpectralEncoder
        from vqmm.plugins.audio.waveform import WaveformEncoder

        o = self.options
        if o.network == "waveform":
            return WaveformEncoder(self.channels, dim, self.levels_of_stride, o.width, o.blocks, self._style)
        return SpectralEncoder(
            self.channels,
            dim,
            self.hop,
            o.sample_rate_hz,
            window=o.window,
            width=o.width,
            blocks=o.blocks,
            causal=o.causal,
        )

    def build_decoder(self, dim: int) -> nn.Module:
        """vectors (B, dim, N) -> (B, C, N * hop): a `SpectralDecoder` or a `WaveformDecoder`, as `network` says."""
        from vqmm.plugins.audio.spectral import SpectralDecoder
        from vqmm.plugins.audio.waveform import WaveformDecoder

        o = self.options
        if o.network == "waveform":
            return WaveformDecoder(self.channels, dim, self.levels_of_stride, o.width, o.blocks, self._style)
        return SpectralDecoder(
            self.channels, dim, self.hop, window=o.window, width=o.width, blocks=o.blocks, causal=o.causal
        )

    @property
    def _style(self) -> "Style":
        from vqmm.plugins.audio.waveform import Style

        o = self.options
        return Style(o.causal, o.activation, o.weight_norm, o.bottleneck)

    def reconstruction_loss(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weighted sum of `vqmm.plugins.audio.losses`."""
        from vqmm.plugins.audio.losses import sound_loss

        o = self.options
        return sound_loss(
            output,
            target,
            mask,
            o.sample_rate_hz,
            waveform=o.waveform_weight,
            mel=o.mel_weight,
            envelope=o.envelope_weight,
        )

    def postprocess(self, output: Tensor) -> Tensor:
        """float32 (B, C, T), clamped to [-1, 1]."""
        return output.float().clamp(-1, 1)

    def output_activation(self, output: Tensor) -> Tensor:
        """tanh of the output, in [-1, 1]."""
        return output.tanh()

    # Objects of their own

    def evaluation(self) -> vqmm.Evaluation:
        """An `AudioEvaluation`: perceptual metrics, rates per second, players, Opus to compare with."""
        from vqmm.plugins.audio.evaluation import AudioEvaluation

        return AudioEvaluation(self.options.sample_rate_hz, self.options.longest_seconds)
