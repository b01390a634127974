"""A line of samples for tests of streams and pieces: int16 in .npy files, networks on the waveform, few weights."""

import resource
from collections.abc import Iterator
from functools import partial
from math import prod
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

import vqmm
from vqmm.contracts.options import PartOptions
from vqmm.decoders.direct import DirectDecoder
from vqmm.plugins.audio.waveform import Style, WaveformDecoder, WaveformEncoder
from vqmm.quantizers.residual import ResidualQuantizer
from vqmm.tokenizer.tokenizer import Tokenizer

DIM = 8


class Line(vqmm.Modality):
    name = "line"
    rank = 1

    class Options(PartOptions):
        channels: int = 1
        strides: tuple[int, ...] = (3, 4)
        width: int = 16
        blocks: int = 2
        causal: bool = True
        activation: str = "snake"
        bottleneck: str = "none"

    def __init__(self, options: BaseModel | None = None):
        self.options: Any = options or self.Options()
        self.channels = self.options.channels

    @property
    def strides(self) -> tuple[int, ...]:
        return (prod(self.options.strides),)

    def build_encoder(self, dim: int) -> nn.Module:
        return self._network(WaveformEncoder, dim)

    def build_decoder(self, dim: int) -> nn.Module:
        return self._network(WaveformDecoder, dim)

    def _network(self, kind: Any, dim: int) -> nn.Module:
        o = self.options
        style = Style(o.causal, o.activation, bottleneck=o.bottleneck)
        return kind(self.channels, dim, o.strides, o.width, o.blocks, style)

    def samples(self, path: Path) -> Iterator[vqmm.Sample]:
        for file in sorted(path.glob("*.npy")) if path.is_dir() else [path]:
            yield vqmm.Sample(file.name, partial(self._read, file))

    def _read(self, file: Path) -> Tensor:
        return torch.from_numpy(np.load(file))

    def write(self, sample: Tensor, path: Path) -> Path:
        file = path.with_name(path.name + ".npy")
        np.save(file, sample.numpy())
        return file

    def collate(self, samples, keys, labels=None) -> vqmm.Batch:
        return super().collate([s if s.is_floating_point() else s.float() / 32768 for s in samples], keys, labels)

    def postprocess(self, output: Tensor) -> Tensor:
        return output.float().clamp(-1, 1)


@vqmm.hookimpl
def register_modalities(register) -> None:
    register(Line)


def line_tokenizer(stages: int = 3, labels=(), modality=None, dropout: float = 0.0, **options: Any) -> Tokenizer:
    """Untrained networks around a residual quantizer whose codes come from their latents, so that all are used."""
    torch.manual_seed(0)
    modality = modality or Line(Line.Options(**options))
    chosen = ResidualQuantizer.Options(dim=DIM, codebook_size=32, stages=stages, dropout=dropout)
    quantizer = ResidualQuantizer(chosen, 1)
    tokenizer = Tokenizer(modality, quantizer, DirectDecoder(modality, DIM), labels, conditional=bool(labels))
    with torch.no_grad():
        quantizer.initialise(tokenizer.latents(modality.collate([noise(6000, modality.channels)], ["0"]))[0])
    return tokenizer.eval()


def noise(length: int, channels: int = 1, seed: int = 1) -> Tensor:
    """Noise under a swell, in [-1, 1]: no two moments are alike."""
    wave = torch.rand(channels, length, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return wave * (0.55 + 0.4 * torch.sin(torch.arange(length) / 97))


def exceptions(found: Tensor, expected: Tensor) -> float:
    """The share of codes that differ. One in a thousand may: two codes equally near but for rounding."""
    assert found.shape == expected.shape, f"{tuple(found.shape)}, not {tuple(expected.shape)}"
    return float((found != expected).float().mean()) if expected.numel() else 0.0


def peaks_of_memory(causal: bool, wanted: SimpleQueue) -> None:
    """In a process of its own: the most MiB it took until one minute, then ten, were encoded and decoded."""
    from vqmm.tokenizer.long_signals import decode_long, encode_long

    torch.set_num_threads(1)
    tokenizer = line_tokenizer(causal=causal, strides=(2, 4, 10), width=64)
    for minutes in (1, 10):
        samples = (torch.rand(1, 8000 * 60 * minutes) * 65535 - 32768).to(torch.int16)
        codes = encode_long(tokenizer, tokenizer.modality.collate([samples], ["one"]))
        (again,) = decode_long(tokenizer, codes)
        assert again.shape == samples.shape
        wanted.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
