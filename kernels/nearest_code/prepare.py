"""What is done to a codebook, once, before it is searched: centring, norms, and codes that may not win."""

from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.finite import finite_rows


class Prepared(NamedTuple):
    """A codebook as the search reads it: score = (x - shift) . code + bias, the highest score wins."""

    code_KD: Tensor  # float32, contiguous; centred (euclidean) or normalised (cosine); 0 where a code is not finite
    bias_K: Tensor  # float32; -|code|^2 / 2 (euclidean) or 0; -inf where a code is not finite
    shift_D: Tensor | None  # float32; subtracted from every vector; None: nothing is


def normalise(x_ND: Tensor) -> Tensor:
    """Vectors divided by their length, (N, D) float32. A zero vector stays zero; a not finite one becomes NaN.

    The largest entry is divided out first, so that no square overflows or vanishes.
    """
    x_ND = x_ND.float()
    largest_N1 = x_ND.abs().amax(1, keepdim=True) if x_ND.shape[0] else x_ND.new_zeros(0, 1)
    x_ND = x_ND / torch.where(largest_N1 > 0, largest_N1, 1.0)
    length_N1 = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True)
    return x_ND / torch.where(length_N1 > 0, length_N1, 1.0)


def centre(code_KD: Tensor, finite_K1: Tensor | None) -> Tensor:
    """The codebook's mean, (D,), rounded to a power of two no larger than the codebook's widest range.

    The rounding keeps integer-valued inputs integer (a codebook of integers has a range of at least 1), so
    distances that were exact stay exact and ties stay ties; yet what is left of the mean is at most half the range.
    """
    if finite_K1 is None:
        mean_D, range_D = code_KD.mean(0), code_KD.amax(0) - code_KD.amin(0)
    else:
        count = finite_K1.sum().clamp_min(1)
        mean_D = torch.where(finite_K1, code_KD, 0.0).sum(0) / count
        inf = float("inf")
        range_D = torch.where(finite_K1, code_KD, -inf).amax(0) - torch.where(finite_K1, code_KD, inf).amin(0)
    _, exponent = torch.frexp(range_D.amax())
    step = torch.ldexp(torch.ones_like(range_D[0]), exponent - 1)
    shift_D = torch.round(mean_D / step) * step
    return torch.where(torch.isfinite(shift_D), shift_D, 0.0)


def prepare(code_KD: Tensor, metric: str) -> Prepared:
    """Float32, centred or normalised, with its bias. No host synchronisation on a GPU.

    Raises:
        ValueError: no code is finite (on the CPU, where looking costs nothing).
    """
    code_KD = code_KD.float()
    finite_K1: Tensor | None = finite_rows(code_KD)[:, None]
    if code_KD.device.type == "cpu" and finite_K1 is not None:
        if finite_K1.all():
            finite_K1 = None
        elif not finite_K1.any():
            raise ValueError(
                f"nearest_code: none of the {code_KD.shape[0]} codes in code_KD is finite; restore the codebook "
                "from a checkpoint, or lower the learning rate that broke it."
            )
    shift_D = None
    if metric == "euclidean":
        shift_D = centre(code_KD, finite_K1)
        code_KD = code_KD - shift_D
    elif metric == "cosine":
        code_KD = normalise(code_KD)
    if finite_K1 is not None:
        code_KD = torch.where(finite_K1, code_KD, 0.0)
    bias_K = code_KD.square().sum(1).mul_(-0.5) if metric == "euclidean" else code_KD.new_zeros(code_KD.shape[0])
    if finite_K1 is not None:
        bias_K = torch.where(finite_K1[:, 0], bias_K, float("-inf"))
    return Prepared(code_KD.contiguous(), bias_K, shift_D)


def arrange(x_ND: Tensor, metric: str, shift_D: Tensor | None, *, out: Tensor | None = None) -> Tensor:
    """Vectors as the search reads them, (N, D) float32: centred by the same shift, or normalised."""
    x_ND = x_ND.float()
    if shift_D is not None:
        return torch.sub(x_ND, shift_D, out=out)
    if metric == "cosine":
        x_ND = normalise(x_ND)
    return x_ND if out is None else out.copy_(x_ND)
