"""What the tests of residual_quantize share."""

import torch
from torch import Tensor

from vqmm.kernels.residual_quantize import ResidualQuantized

SIZES = (11, 5, 8)  # unequal


def case(
    generator: torch.Generator, n: int = 40, width: int = 6, sizes: tuple[int, ...] = SIZES
) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, width, generator=generator)
    return x.requires_grad_(), torch.randn(sum(sizes), width, generator=generator).requires_grad_()


def per_vector(generator: torch.Generator, n: int, q: int) -> Tensor:
    return torch.randint(1, q + 1, (n,), generator=generator)


def weighted(quantized: ResidualQuantized) -> Tensor:
    """A scalar in which every output has its own weight."""
    outputs = (quantized.vectors_ND, quantized.error_NQ, quantized.code_error_NQ)
    return sum((o * torch.arange(o.numel()).add(i).sin().view(o.shape)).sum() for i, o in enumerate(outputs))
