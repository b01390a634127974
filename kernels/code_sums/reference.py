"""What code_sums means: the truth in float64, and the best that plain torch does."""

from collections.abc import Sequence

import torch
from torch import Tensor


def code_sums_reference(
    x_ND: Tensor, index_N: Tensor, K: int, *, mask_N: Tensor | None = None, sizes: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Counts int64 (K,) and sums float64 (K, D), by selecting the vectors that count and adding them one by one."""
    if sizes is not None:
        groups = [
            code_sums_reference(x_ND[g], index_N[g], size, mask_N=None if mask_N is None else mask_N[g])
            for g, size in enumerate(sizes)
        ]
        return torch.cat([counts for counts, _ in groups]), torch.cat([sums for _, sums in groups])
    keep_N = torch.isfinite(x_ND).all(1) & (mask_N if mask_N is not None else True)
    x_ND, index_N = x_ND[keep_N].double(), index_N[keep_N].long()
    counts_K = torch.zeros(K, dtype=torch.int64, device=x_ND.device)
    sums_KD = torch.zeros(K, x_ND.shape[1], dtype=torch.float64, device=x_ND.device)
    for k in range(K):
        counts_K[k] = (index_N == k).sum()
        sums_KD[k] = x_ND[index_N == k].sum(0)
    return counts_K, sums_KD


def code_sums_baseline(x_ND: Tensor, index_N: Tensor, K: int, *, mask_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What the libraries in use do: a one-hot matrix (N, K) and a product. What does not count is selected out."""
    keep_N = torch.isfinite(x_ND).all(1) & (mask_N if mask_N is not None else True)
    onehot_NK = torch.nn.functional.one_hot(index_N.long(), K) * keep_N[:, None]
    return onehot_NK.sum(0), onehot_NK.float().T @ torch.where(keep_N[:, None], x_ND, 0.0).float()
