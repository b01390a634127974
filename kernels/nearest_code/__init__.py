"""The nearest code of every vector."""

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.nearest_code.cpu import nearest_code_cpu
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.nearest_code.reference import nearest_code_baseline, nearest_code_reference

__all__ = ["nearest_code", "path_for", "nearest_code_reference", "nearest_code_baseline"]

PRECISIONS = ("exact",)


def path_for(device: torch.device | str) -> str:
    """Which way nearest_code goes on a device: "cpu" (tiles in cache), "triton" (the fused kernel) or "torch"."""
    kind = torch.device(device).type
    if kind == "cpu":
        return "cpu"
    if kind != "cuda":
        return "torch"
    try:
        import triton  # noqa: F401
    except ImportError:  # Triton is made for Linux only
        return "torch"
    return "triton"


@torch.no_grad()
def nearest_code(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    precision: str = "exact",
    mask_N: Tensor | None = None,
) -> Tensor:
    """Index of the nearest code for every vector. Never holds N x K numbers.

    Args:
        x_ND: vectors, shape (N, D), any floating type, any strides; computed in float32. N may be 0.
        code_KD: the codebook, shape (K, D), any floating type, same device. K and D at least 1.
        metric: "euclidean" (least squared distance), "cosine" (both sides normalised in float32, then the largest dot
            product; every code is as near as the next to a zero vector) or "dot" (the largest dot product).
        precision: "exact". With x' and c' the two after the shift below, u = 2^-24 and C = max |c'|, the true squared
            distance of the chosen code exceeds the best by at most 4 (D + 16) u (|x'| C + C^2); for "dot" the true
            product falls short of the best by at most 2 (D + 16) u |x'| C, for "cosine" the true cosine by at most
            4 (D + 16) u. Inputs of integers, as long as sums stay below 2^24, give the true nearest code.
        mask_N: bool (N,), True where a vector counts.

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
    checks.check_codebook("nearest_code", x_ND, code_KD)
    checks.check_mask("nearest_code", mask_N, x_ND.shape[0])
    checks.check_device("nearest_code", x_ND=x_ND, code_KD=code_KD, mask_N=mask_N)
    checks.check_choice("nearest_code", "metric", metric, checks.METRICS)
    checks.check_choice("nearest_code", "precision", precision, PRECISIONS)
    path = path_for(x_ND.device)
    with torch.autocast(x_ND.device.type, enabled=False):  # it would round the products to bfloat16
        if path == "torch":
            return nearest_code_baseline(x_ND, code_KD, metric=metric, mask_N=mask_N)
        prepared = prepare(code_KD, metric)
        if path == "cpu":
            index_N = nearest_code_cpu(x_ND, prepared, metric)
        else:
            from vqmm.kernels.nearest_code.fused import nearest_code_fused

            index_N = nearest_code_fused(x_ND, prepared, metric)
    return index_N if mask_N is None else torch.where(mask_N, index_N, 0)
