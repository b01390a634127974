"""A codebook from data: Lloyd's iterations."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.nearest_code import nearest_code
from vqmm.quantizers.revival import revive_


def kmeans(x_ND: Tensor, K: int, iterations: int = 12, normalise: bool = False) -> tuple[Tensor, Tensor]:
    """K means of x and how many vectors each stands for: (K, D) float32 and (K,) float32.

    The start is a fixed draw of the vectors, with repetition when there are fewer than K, so the same x gives the same
    codebook. A mean that lost all its vectors takes part of a busy one's (`revival`). Vectors that are not finite are
    left out.

    Raises:
        ValueError: no vector of x is finite.
    """
    given = len(x_ND)
    x_ND = x_ND[x_ND.isfinite().all(dim=1)].float()
    if not len(x_ND):
        raise ValueError(f"kmeans: none of the {given} vectors is finite: there is nothing to start {K} codes from")
    generator = torch.Generator().manual_seed(0)
    picked = torch.cat([torch.randperm(len(x_ND), generator=generator) for _ in range(-(-K // len(x_ND)))])[:K]
    code_KD = x_ND[picked.to(x_ND.device)].clone()
    metric = "cosine" if normalise else "euclidean"
    for step in range(iterations):
        index_N = nearest_code(x_ND, code_KD, metric=metric)
        counts, sums = code_sums(x_ND, index_N, K)
        weight = counts.float()
        code_KD = torch.where(weight[:, None] > 0, sums / weight.clamp(min=1)[:, None], code_KD)
        if step < iterations - 1:
            spread = (x_ND - code_KD[index_N.long()]).square().mean().sqrt()
            revive_(code_KD, weight, sums, counts == 0, spread, torch.tensor(step, device=x_ND.device))
        if normalise:
            code_KD = F.normalize(code_KD, dim=-1)
    return code_KD, weight
