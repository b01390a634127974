"""Move a codebook towards the vectors that chose it."""

from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.nearest_code.prepare import normalise as normalised
from vqmm.kernels.update_codebook.reference import update_codebook_reference

__all__ = ["update_codebook_", "CodebookUpdate", "update_codebook_reference"]


class CodebookUpdate(NamedTuple):
    """What update_codebook_ saw on the way."""

    dead_K: Tensor  # bool (K,): used less than dead_below times the uniform share, by the EMA
    perplexity: Tensor  # float32 (): of this batch's counts, 1 to K; 0 for an empty batch


def check_update(masters: dict[str, Tensor], counts_K: Tensor, sums_KD: Tensor, decay: float) -> None:
    for name, tensor in masters.items():
        if tensor.dtype != torch.float32:
            raise TypeError(
                f"update_codebook_: {name} is {tensor.dtype}; keep it torch.float32, or a small step rounds to nothing."
            )
    code_KD = masters["code_KD"]
    checks.check_rank("update_codebook_", 2, code_KD=code_KD)
    K = code_KD.shape[0]
    shapes = {
        "ema_count_K": (K,),
        "ema_sum_KD": tuple(code_KD.shape),
        "counts_K": (K,),
        "sums_KD": tuple(code_KD.shape),
    }
    for name, tensor in {**masters, "counts_K": counts_K, "sums_KD": sums_KD}.items():
        if name in shapes and tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"update_codebook_: {name} has shape {checks.shape_of(tensor)}; with code_KD "
                f"{checks.shape_of(code_KD)} it needs {shapes[name]}."
            )
    checks.check_device("update_codebook_", **masters, counts_K=counts_K, sums_KD=sums_KD)
    if K == 0:
        raise ValueError(f"update_codebook_: code_KD has shape {checks.shape_of(code_KD)}; it needs at least 1 code.")
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"update_codebook_: decay is {decay}; it can be 0 (only this batch) to 1 (nothing moves).")


@torch.no_grad()
def update_codebook_(
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
) -> CodebookUpdate:
    """One EMA step of a codebook, in place, from what code_sums gave. No host synchronisation.

    ema = decay ema + (1 - decay) batch, for counts and sums; then, with n the sum of the EMA counts,
    code = ema_sum / ((ema_count + epsilon) / (n + K epsilon) n).

    Args:
        code_KD: the codebook, float32 (K, D), written.
        ema_count_K: float32 (K,), written. Start it consistent with ema_sum_KD: ones, when that starts as the codebook.
        ema_sum_KD: float32 (K, D), written.
        counts_K: this batch's (this step's, all processes') counts, (K,).
        sums_KD: this batch's sums, (K, D).
        decay: 0 to 1, the share that stays; 0.99 is usual.
        epsilon: Laplace smoothing, in vectors: a code with no vectors is divided by a little more than its count.
        dead_below: a code is dead when its EMA count is under this share of the mean EMA count, 0 (none) to 1.
        normalise: give every code length 1, for a codebook searched by cosine.

    Returns:
        CodebookUpdate. When counts_K is all zero nothing moves. A code whose EMA count is 0 stays where it is.

    Raises:
        TypeError: a master (code, EMA count, EMA sum) is not float32.
        ValueError: shapes or devices differ, no code, or decay is not in 0 to 1.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1, smoothed as in Sonnet's VectorQuantizerEMA.
    """
    masters = {"code_KD": code_KD, "ema_count_K": ema_count_K, "ema_sum_KD": ema_sum_KD}
    check_update(masters, counts_K, sums_KD, decay)
    total = counts_K.sum()
    some = total > 0
    counts_now_K, K = counts_K.float(), code_KD.shape[0]
    ema_count_K.copy_(torch.where(some, decay * ema_count_K + (1 - decay) * counts_now_K, ema_count_K))
    ema_sum_KD.copy_(torch.where(some, decay * ema_sum_KD + (1 - decay) * sums_KD.float(), ema_sum_KD))
    n = ema_count_K.sum()
    smooth_K = (ema_count_K + epsilon) / (n + K * epsilon) * n
    new_KD = ema_sum_KD / smooth_K[:, None]
    if normalise:
        new_KD = normalised(new_KD)
    code_KD.copy_(torch.where((some & (ema_count_K > 0))[:, None], new_KD, code_KD))
    share_K = counts_now_K / total.clamp_min(1).float()
    perplexity = torch.where(some, torch.exp(-torch.special.xlogy(share_K, share_K).sum()), 0.0)
    return CodebookUpdate(ema_count_K < dead_below * ema_count_K.mean(), perplexity)
