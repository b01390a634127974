"""What update_codebook_ means: the truth in float64, nothing in place."""

from collections.abc import Sequence

import torch
from torch import Tensor


def update_codebook_reference(
    code_KD: Tensor,
    ema_count_K: Tensor,
    ema_sum_KD: Tensor,
    counts_K: Tensor,
    sums_KD: Tensor,
    *,
    decay: float,
    epsilon: float = 1e-5,
    dead_below: float = 0.0,
    normalise: bool = False,
    sizes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(code, ema_count, ema_sum, dead, perplexity), float64, one code at a time, each codebook by itself."""
    if sizes is not None:
        books = [
            update_codebook_reference(
                code, count, total, *batch, decay=decay, epsilon=epsilon, dead_below=dead_below, normalise=normalise
            )
            for code, count, total, *batch in zip(
                *(t.split(list(sizes)) for t in (code_KD, ema_count_K, ema_sum_KD, counts_K, sums_KD)), strict=True
            )
        ]
        codes, counts, totals, dead, perplexities = zip(*books, strict=True)
        return torch.cat(codes), torch.cat(counts), torch.cat(totals), torch.cat(dead), torch.stack(perplexities)
    code_KD, ema_count_K, ema_sum_KD = code_KD.double(), ema_count_K.double(), ema_sum_KD.double()
    K, total = code_KD.shape[0], counts_K.sum().item()
    if total > 0:
        ema_count_K = decay * ema_count_K + (1 - decay) * counts_K
        ema_sum_KD = decay * ema_sum_KD + (1 - decay) * sums_KD
        n = ema_count_K.sum()
        code_KD = code_KD.clone()
        for k in range(K):
            if ema_count_K[k] > 0:
                code_KD[k] = ema_sum_KD[k] / ((ema_count_K[k] + epsilon) / (n + K * epsilon) * n)
                if normalise and code_KD[k].norm() > 0:
                    code_KD[k] /= code_KD[k].norm()
    dead_K = ema_count_K < dead_below * ema_count_K.mean()
    share_K = counts_K.double() / max(total, 1)
    perplexity = torch.exp(-torch.special.xlogy(share_K, share_K).sum()) if total else torch.zeros(()).double()
    return code_KD, ema_count_K, ema_sum_KD, dead_K, perplexity
