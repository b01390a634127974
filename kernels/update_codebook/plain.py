"""update_codebook_ in plain torch: the CPU, where it is fast enough, and any device without Triton."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vqmm.kernels.nearest_code.prepare import normalise as normalised


def update_torch_(
    code_KD: Tensor,
    ema_count_K: Tensor,
    ema_sum_KD: Tensor,
    counts_K: Tensor,
    sums_KD: Tensor,
    decay: Tensor,
    epsilon: float,
    dead_below: float,
    normalise: bool,
    sizes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """dead bool (K,) and perplexity (G,); the first three are written."""
    if decay.device.type == "cpu" and not 0.0 <= decay <= 1.0:
        raise ValueError(
            f"update_codebook_: decay is {decay.item()}; it can be 0 (only this batch) to 1 (nothing moves)."
        )
    each = [
        update_one_(code, count, total, batch_count, batch_sum, decay, epsilon, dead_below, normalise)
        for code, count, total, batch_count, batch_sum in zip(
            *(t.split(list(sizes)) for t in (code_KD, ema_count_K, ema_sum_KD, counts_K, sums_KD)), strict=True
        )
    ]
    return torch.cat([dead for dead, _ in each]), torch.stack([perplexity for _, perplexity in each])


def update_one_(
    code_KD: Tensor,
    ema_count_K: Tensor,
    ema_sum_KD: Tensor,
    counts_K: Tensor,
    sums_KD: Tensor,
    decay: Tensor,
    epsilon: float,
    dead_below: float,
    normalise: bool,
) -> tuple[Tensor, Tensor]:
    """One codebook."""
    total = counts_K.sum()
    some = total > 0
    counts_now_K, K = counts_K.float(), code_KD.shape[0]
    step = torch.where(some, 1 - decay, 0.0).float()
    ema_count_K.lerp_(counts_now_K, step)
    ema_sum_KD.lerp_(sums_KD.float(), step)
    n = ema_count_K.sum()
    smooth_K = (ema_count_K + epsilon) / (n + K * epsilon) * n
    moves_K = some & (ema_count_K > 0)
    if moves_K.device.type == "cpu" and not normalise and moves_K.all():  # in place: the usual case, in one pass
        torch.div(ema_sum_KD, smooth_K[:, None], out=code_KD)
    else:
        new_KD = ema_sum_KD / smooth_K[:, None]
        code_KD.copy_(torch.where(moves_K[:, None], normalised(new_KD) if normalise else new_KD, code_KD))
    share_K = counts_now_K / total.clamp_min(1).float()
    perplexity = torch.where(some, torch.exp(-torch.special.xlogy(share_K, share_K).sum()), 0.0)
    return ema_count_K < dead_below * ema_count_K.mean(), perplexity
