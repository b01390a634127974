"""What is measured: shapes that tokenizers in use have, and the operands made for them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """N vectors, a codebook of K codes for each of Q stages, D dimensions."""

    name: str
    n: int
    k: int
    d: int
    q: int = 1

    @property
    def sizes(self) -> list[int]:
        """The codebook size of each stage."""
        return [self.k] * self.q

    @property
    def flops(self) -> float:
        """Of the products alone, forward."""
        return 2.0 * self.n * self.k * self.d * self.q


SHAPES = (
    Shape("image-narrow", 65_536, 16_384, 8),  # low-dimensional codes
    Shape("image-wide", 65_536, 16_384, 256),
    Shape("image-huge", 16_384, 262_144, 64),  # a huge codebook
    Shape("vqvae", 65_536, 512, 64),
    Shape("audio-encodec", 48_000, 1_024, 128, 8),
    Shape("audio-dac", 48_000, 1_024, 8, 9),
    Shape("audio-mimi", 12_800, 2_048, 256, 32),
    Shape("text", 65_536, 4_096, 64),
    Shape("streaming", 16, 2_048, 256, 8),
)
CPU_SHAPES = (  # small enough for every competitor on one thread
    Shape("cpu-vqvae", 16_384, 512, 64),
    Shape("cpu-middle", 65_536, 1_024, 64),
    Shape("cpu-wide", 16_384, 8_192, 256),
    Shape("cpu-narrow", 16_384, 16_384, 8),
)
NAMED = {shape.name: shape for shape in (*SHAPES, *CPU_SHAPES)}


class Operands(NamedTuple):
    """What every contender is given."""

    x_ND: Tensor  # float32
    code_KD: Tensor  # float32 (Q K, D): the stages' codebooks one after the other
    grad_ND: Tensor  # float32: the gradient of the quantized vectors
    shape: Shape

    def first(self, n: int) -> "Operands":
        """The first n vectors, the same codebooks."""
        return Operands(self.x_ND[:n], self.code_KD, self.grad_ND[:n], self.shape._replace(n=n))

    @property
    def books(self) -> Sequence[Tensor]:
        """The codebook (K, D) of each stage, as views of `code_KD`."""
        return self.code_KD.split(self.shape.k)


def operands(shape: Shape, device: torch.device | str, seed: int = 0) -> Operands:
    """Vectors that lie about their codes as an encoder's do, each stage's codebook finer than the one before."""
    generator = torch.Generator().manual_seed(seed)
    scale_Q = 0.6 ** torch.arange(shape.q)
    code_QKD = torch.randn(shape.q, shape.k, shape.d, generator=generator) * scale_Q[:, None, None]
    pick_QN = torch.randint(shape.k, (shape.q, shape.n), generator=generator)
    x_ND = 0.3 * float(scale_Q[-1]) * torch.randn(shape.n, shape.d, generator=generator)
    for code_KD, pick_N in zip(code_QKD, pick_QN, strict=True):
        x_ND += code_KD[pick_N]
    grad_ND = torch.randn(shape.n, shape.d, generator=generator)
    return Operands(x_ND.to(device), code_QKD.flatten(0, 1).to(device), grad_ND.to(device), shape)
