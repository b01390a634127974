"""What nearest_code means: the truth in float64, and the best that plain torch does in float32."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vqmm.kernels.nearest_code.plain import search_torch
from vqmm.kernels.nearest_code.prepare import prepare


def squared_distance_reference(x_ND: Tensor, code_KD: Tensor) -> Tensor:
    """Squared Euclidean distances, (N, K) float64, as the direct sum of (x - c)^2; inf where a code is not finite."""
    x_ND, code_KD = x_ND.double(), code_KD.double()
    columns = [(x_ND - code_D).square().sum(1) for code_D in code_KD]
    distance_NK = torch.stack(columns, 1)
    return torch.where(torch.isfinite(code_KD).all(1), distance_NK, float("inf"))


def similarity_reference(x_ND: Tensor, code_KD: Tensor, metric: str) -> Tensor:
    """What the nearest code has most of, (N, K) float64: minus distance, cosine or dot; -inf: the code cannot win."""
    if metric == "euclidean":
        return -squared_distance_reference(x_ND, code_KD)
    usable_K = torch.isfinite(code_KD).all(1)
    x_ND, code_KD = x_ND.double(), torch.where(usable_K[:, None], code_KD.double(), 0.0)
    if metric == "cosine":
        x_ND, code_KD = (v / torch.where(v.norm(dim=1) > 0, v.norm(dim=1), 1.0)[:, None] for v in (x_ND, code_KD))
    return torch.where(usable_K, x_ND @ code_KD.T, float("-inf"))


def nearest_code_reference(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    mask_N: Tensor | None = None,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """The truth, unhurried: float64, every distance written out. Same rules as nearest_code, on any device."""
    if sizes is not None:
        masks = [None] * len(sizes) if mask_N is None else mask_N
        parts = zip(x_ND, code_KD.split(list(sizes)), masks, strict=True)
        return torch.stack([nearest_code_reference(x, code, metric=metric, mask_N=mask) for x, code, mask in parts])
    similarity_NK = similarity_reference(x_ND, code_KD, metric)
    best_N1 = similarity_NK.amax(1, keepdim=True)
    number_K = torch.arange(code_KD.shape[0], device=code_KD.device)
    index_N = torch.where(similarity_NK == best_N1, number_K, code_KD.shape[0]).amin(1)  # the lowest among the best
    keep_N = torch.isfinite(x_ND).all(1) & (mask_N if mask_N is not None else True)
    return torch.where(keep_N, index_N, 0).int()


def nearest_code_baseline(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    mask_N: Tensor | None = None,
    sizes: Sequence[int] | None = None,
    chunk_bytes: int = 64 * 2**20,
) -> Tensor:
    """The best plain torch: one product with half norms and one argmax, in chunks of N that hold chunk_bytes of scores.

    Reads N D + K D, writes N K scores and reads them back. The path of devices that have no kernel of their own.
    """
    prepared = prepare(code_KD, metric, sizes)
    index_GN, _ = search_torch(x_ND if sizes is not None else x_ND[None], prepared, metric, False, chunk_bytes)
    index_N = index_GN[0] if sizes is None else index_GN
    return index_N if mask_N is None else torch.where(mask_N, index_N, 0)
