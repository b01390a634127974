"""What is done to a codebook, once, before it is searched: centring, norms, and codes that may not win."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.finite import finite_rows


class Prepared(NamedTuple):
    """Codebooks as the search reads them: score = (x - shift) . code + bias, the highest score wins."""

    code_KD: Tensor  # float32, contiguous; centred (euclidean) or normalised (cosine); 0 where a code is not finite
    bias_K: Tensor  # float32; -|code|^2 / 2 (euclidean) or 0; -inf where a code is not finite
    shift_GD: Tensor | None  # float32; subtracted from every vector of a group; None: nothing is
    sizes: tuple[int, ...]  # rows of each of the G codebooks, one after the other

    @property
    def groups(self) -> list["Prepared"]:
        """Each codebook by itself; views, nothing is copied."""
        shifts = [None] * len(self.sizes) if self.shift_GD is None else self.shift_GD.split(1)
        parts = zip(self.code_KD.split(self.sizes), self.bias_K.split(self.sizes), shifts, self.sizes, strict=True)
        return [Prepared(code_KD, bias_K, shift_1D, (size,)) for code_KD, bias_K, shift_1D, size in parts]


def normalise(x_ND: Tensor) -> Tensor:
    """Vectors divided by their length, (..., D) float32. A zero vector stays zero; a not finite one becomes NaN.

    The largest entry is divided out first, so that no square overflows or vanishes.
    """
    x_ND = x_ND.float()
    largest_N1 = torch.linalg.vector_norm(x_ND, float("inf"), dim=-1, keepdim=True)
    x_ND = x_ND / torch.where(largest_N1 != 0, largest_N1, 1.0)
    length_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
    return x_ND / torch.where(length_N1 != 0, length_N1, 1.0)


def centre(code_KD: Tensor, finite_K1: Tensor | None) -> Tensor:
    """The mean of each codebook, (..., K, D) -> (..., D), rounded to a power of two no larger than its widest range.

    The rounding keeps integer-valued inputs integer (a codebook of integers has a range of at least 1), so
    distances that were exact stay exact and ties stay ties; yet what is left of the mean is at most half the range.
    """
    if finite_K1 is None:
        mean_D, range_D = code_KD.mean(-2), code_KD.amax(-2) - code_KD.amin(-2)
    else:
        count = finite_K1.sum(-2).clamp_min(1)
        mean_D = torch.where(finite_K1, code_KD, 0.0).sum(-2) / count
        inf = float("inf")
        range_D = torch.where(finite_K1, code_KD, -inf).amax(-2) - torch.where(finite_K1, code_KD, inf).amin(-2)
    _, exponent = torch.frexp(range_D.amax(-1, keepdim=True))
    # 2^(exponent - 1), written bit by bit: a power function may miss it by a unit in the last place
    step = ((exponent.to(torch.int32) + 126).clamp(1, 254) * 2**23).view(torch.float32)
    shift_D = torch.round(mean_D / step) * step
    return torch.where(torch.isfinite(shift_D), shift_D, 0.0)


def prepare(code_KD: Tensor, metric: str, sizes: Sequence[int] | None = None) -> Prepared:
    """Float32, centred or normalised, with its bias. No host synchronisation on a GPU.

    Args:
        code_KD: codebooks one after the other, (K, D), any floating type, any strides.
        metric: as in nearest_code.
        sizes: rows of each codebook; None: one codebook of K rows.

    Raises:
        ValueError: no code of a codebook is finite (on the CPU, where looking costs nothing).
    """
    sizes = (code_KD.shape[0],) if sizes is None else tuple(sizes)
    code_KD = code_KD.float()
    finite_K: Tensor | None = finite_rows(code_KD)
    if code_KD.device.type == "cpu" and finite_K is not None:
        if finite_K.all():
            finite_K = None
        elif not all(part_K.any() for part_K in finite_K.split(sizes)):
            which = f"the {len(code_KD)} codes" if len(sizes) == 1 else f"the codes of one codebook (sizes {sizes})"
            raise ValueError(
                f"nearest_code: none of {which} in code_KD is finite; restore the codebook from a checkpoint, or lower "
                "the learning rate that broke it."
            )
    shift_GD = None
    if metric == "euclidean":
        shift_GD = shifts(code_KD, finite_K, sizes)
        code_KD = subtract_shifts(code_KD, shift_GD, sizes)
    elif metric == "cosine":
        code_KD = normalise(code_KD)
    if finite_K is not None:
        code_KD = torch.where(finite_K[:, None], code_KD, 0.0)
    bias_K = code_KD.square().sum(1).mul_(-0.5) if metric == "euclidean" else code_KD.new_zeros(code_KD.shape[0])
    if finite_K is not None:
        bias_K = torch.where(finite_K, bias_K, float("-inf"))
    return Prepared(code_KD.contiguous(), bias_K, shift_GD, sizes)


def shifts(code_KD: Tensor, finite_K: Tensor | None, sizes: Sequence[int]) -> Tensor:
    """The centre of each codebook, (G, D)."""
    finite_K1 = None if finite_K is None else finite_K[:, None]
    if len(set(sizes)) == 1:  # the usual case, in as many launches as for one codebook
        code_GKD = code_KD.reshape(len(sizes), sizes[0], -1)
        return centre(code_GKD, None if finite_K1 is None else finite_K1.reshape(len(sizes), sizes[0], 1))
    finites = [None] * len(sizes) if finite_K1 is None else finite_K1.split(list(sizes))
    parts = zip(code_KD.split(list(sizes)), finites, strict=True)
    return torch.stack([centre(part_KD, part_K1) for part_KD, part_K1 in parts])


def subtract_shifts(code_KD: Tensor, shift_GD: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each codebook less its own row of shift (G, D): (K, D)."""
    if len(set(sizes)) == 1:
        return (code_KD.reshape(len(sizes), sizes[0], -1) - shift_GD[:, None]).flatten(0, 1)
    return torch.cat([part_KD - shift_D for part_KD, shift_D in zip(code_KD.split(list(sizes)), shift_GD, strict=True)])


def arrange(x_ND: Tensor, metric: str, shift_D: Tensor | None, *, out: Tensor | None = None) -> Tensor:
    """Vectors as the search reads them, (N, D) float32: centred by the same shift, or normalised."""
    x_ND = x_ND.float()
    if shift_D is not None:
        return torch.sub(x_ND, shift_D, out=out)
    if metric == "cosine":
        x_ND = normalise(x_ND)
    return x_ND if out is None else out.copy_(x_ND)
