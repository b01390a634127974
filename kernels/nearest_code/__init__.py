"""The nearest code of every vector."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.finite import finite_rows
from vqmm.kernels.nearest_code.cpu import cpu_variant, prepare_cpu, search_cpu
from vqmm.kernels.nearest_code.plain import search_torch
from vqmm.kernels.nearest_code.prepare import normalise, prepare
from vqmm.kernels.nearest_code.reference import nearest_code_baseline, nearest_code_reference

__all__ = [
    "nearest_code",
    "nearest_code_with_margin",
    "Nearest",
    "path_for",
    "explain",
    "nearest_code_reference",
    "nearest_code_baseline",
]

PRECISIONS = ("exact", "fast", "certified")


class Nearest(NamedTuple):
    """What nearest_code_with_margin gives back. Vectors that do not count have index 0, distance 0 and margin 0."""

    index_N: Tensor  # int32, as nearest_code
    distance_N: Tensor  # float32: |x - c|^2, the direct sum; "cosine": of the two normalised; "dot": -x.c
    margin_N: Tensor  # float32, at least 0: how much farther the second best code is; inf where there is no second


def path_for(device: torch.device | str) -> str:
    """Which way nearest_code goes on a device: "cpu", "triton" (the fused kernels) or "torch" (plain)."""
    device = torch.device(device)
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda":
        return "torch"
    try:
        from vqmm.kernels.nearest_code.fused import supported
    except ImportError:  # Triton is made for Linux only
        return "torch"
    return "triton" if supported(torch.cuda.get_device_capability(device)) else "torch"


def explain(n: int, k: int, width: int, *, device: torch.device | str, precision: str = "exact") -> str:
    """What runs for N vectors, K codes and D dimensions on a device, in one line."""
    path = path_for(device)
    if path == "cpu":
        return f"cpu, {cpu_variant()}: float32 in every precision"
    if path == "torch":
        return "plain torch: a product and an argmax, in chunks"
    from vqmm.kernels.nearest_code.fused import explain as explain_triton

    return explain_triton(n, k, width, precision, torch.cuda.get_device_capability(device))


@torch.library.custom_op("vqmm::nearest_code", mutates_args=())
def search(
    x_GND: Tensor, code_KD: Tensor, sizes: Sequence[int], metric: str, precision: str, margin: bool
) -> tuple[Tensor, Tensor]:
    """int32 indices (G, N) and, with margin, the difference of the two best scores (else an empty tensor)."""
    with torch.autocast(x_GND.device.type, enabled=False):  # it would round the products to bfloat16
        path = path_for(x_GND.device)
        if path == "cpu":
            return search_cpu(x_GND, prepare_cpu(code_KD, metric, sizes), metric, precision, margin)
        prepared = prepare(code_KD, metric, sizes)
        if path == "torch":
            return search_torch(x_GND, prepared, metric, margin)
        from vqmm.kernels.nearest_code.fused import search_triton

        return search_triton(x_GND, prepared, metric, precision, margin)


@search.register_fake
def _(
    x_GND: Tensor, code_KD: Tensor, sizes: Sequence[int], metric: str, precision: str, margin: bool
) -> tuple[Tensor, Tensor]:
    rows = x_GND.shape[:-1]
    return x_GND.new_empty(rows, dtype=torch.int32), x_GND.new_empty(rows if margin else 0, dtype=torch.float32)


def check_search(
    function: str,
    x_ND: Tensor,
    code_KD: Tensor,
    metric: str,
    precision: str,
    mask_N: Tensor | None,
    sizes: Sequence[int] | None,
) -> None:
    """What every function that searches refuses."""
    checks.check_codebook(function, x_ND, code_KD, sizes)
    checks.check_mask(function, mask_N, x_ND.shape[:-1])
    checks.check_device(function, x_ND=x_ND, code_KD=code_KD, mask_N=mask_N)
    checks.check_choice(function, "metric", metric, checks.METRICS)
    checks.check_choice(function, "precision", precision, PRECISIONS)


@torch.no_grad()
def nearest_code(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    precision: str = "exact",
    mask_N: Tensor | None = None,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Index of the nearest code for every vector. Never holds N x K numbers.

    Args:
        x_ND: vectors, shape (N, D), any floating type, any strides; computed in float32. N may be 0. With sizes,
            (G, N, D): group g searches codebook g.
        code_KD: the codebook, shape (K, D), any floating type, same device. K and D at least 1.
        metric: "euclidean" (least squared distance), "cosine" (both sides normalised in float32, then the largest dot
            product; every code is as near as the next to a zero vector) or "dot" (the largest dot product).
        precision: "exact", "fast" or "certified".
            "exact": with x' and c' the two after the shift below, C = max |c'| and u = 2^-24 (2^-22 on a GPU, whose
            tensor cores may cut sums off), the true squared distance of the chosen code exceeds the best by at most
            4 (D + 16) u (|x'| C + C^2); for "dot" the true product falls short of the best by at most
            2 (D + 16) u |x'| C, for "cosine" the true cosine by at most 4 (D + 16) u. Inputs of integers, as long as
            sums stay below 2^24, give the true nearest code.
            "fast", on a GPU: one tensor-core product of operands of 11 significant bits (TF32), so 2^-9 |x'| C more for
            each score; where those do not fit (D above 64 or 128), of 8 bits (bfloat16), 2^-7.9 |x'| C.
            "certified": searched fast, and every vector whose margin lies inside the bounds of both searched again
            exactly: the indices of "exact". On a CPU all three are "exact".
        mask_N: bool (N,), True where a vector counts; with sizes (G, N).
        sizes: rows of each of G codebooks that lie one after the other in code_KD. Indices count from the first row
            of their own codebook.

    Returns:
        int32 indices, shape (N,), each in [0, K). On a tie the lower index wins. 0 for a vector that is masked out, has
        a NaN or Inf, or is so large that its products overflow float32. A code with a NaN or Inf (or whose square
        overflows) never wins; if there is no other, every index is 0 on a GPU.

    Raises:
        ValueError: widths or devices differ, no code, an unknown metric or precision; on a CPU, no finite code.
        TypeError: an input is not floating, or the mask not bool.

    Euclidean: scores x'.c' - |c'|^2 / 2, without |x'|^2, which is the same for every code. x' and c' are x and c less
    the codebook's mean, rounded to a power of two: the winner is the same, and a common offset costs no precision.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), equation 1.
    """
    check_search("nearest_code", x_ND, code_KD, metric, precision, mask_N, sizes)
    grouped = x_ND[None] if sizes is None else x_ND
    index_GN, _ = search(grouped, code_KD, [len(code_KD)] if sizes is None else list(sizes), metric, precision, False)
    index_N = index_GN[0] if sizes is None else index_GN
    return index_N if mask_N is None else torch.where(mask_N, index_N, 0)


@torch.no_grad()
def nearest_code_with_margin(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    precision: str = "exact",
    mask_N: Tensor | None = None,
    sizes: Sequence[int] | None = None,
) -> Nearest:
    """As nearest_code, and how far the code is, and how much farther the second best. Never holds N x K numbers.

    Args, errors and precision: as nearest_code; a margin is the difference of two scores that are each within the
    bound of the precision.
    """
    check_search("nearest_code_with_margin", x_ND, code_KD, metric, precision, mask_N, sizes)
    sizes = None if sizes is None else list(sizes)
    grouped = x_ND[None] if sizes is None else x_ND
    index_GN, margin_GN = search(grouped, code_KD, sizes or [len(code_KD)], metric, precision, True)
    x_GND = grouped.float()
    keep_GN = finite_rows(x_GND) & (True if mask_N is None else mask_N.view(index_GN.shape))
    chosen_GND = code_KD[flat_index(index_GN, sizes)].float()
    if metric == "cosine":
        x_GND, chosen_GND = normalise(x_GND), normalise(chosen_GND)
    distance_GN = -(x_GND * chosen_GND).sum(-1) if metric == "dot" else (x_GND - chosen_GND).square().sum(-1)
    margin_GN = margin_GN if metric == "dot" else 2 * margin_GN  # |x - c|^2 has -2 x.c
    values = (torch.where(keep_GN, value, 0) for value in (index_GN, distance_GN, margin_GN))
    return Nearest(*(value[0] if sizes is None else value for value in values))


def flat_index(index_GN: Tensor, sizes: Sequence[int] | None) -> Tensor:
    """Rows of the concatenated codebooks, int64, for indices that count within each."""
    if sizes is None or len(sizes) == 1:
        return index_GN.long()
    return index_GN + first_rows(sizes, index_GN.device).view(-1, *[1] * (index_GN.dim() - 1))


def first_rows(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Where each codebook starts, int64 (G,). Made on the device: a copy from the host cannot be in a CUDA graph."""
    if len(set(sizes)) == 1:
        return torch.arange(len(sizes), device=device) * sizes[0]
    starts = (sum(sizes[:g]) for g in range(len(sizes)))
    return torch.stack([torch.full((), start, dtype=torch.int64, device=device) for start in starts])
