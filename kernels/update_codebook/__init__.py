"""Move a codebook towards the vectors that chose it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.nearest_code import path_for
from vqmm.kernels.update_codebook.plain import update_torch_
from vqmm.kernels.update_codebook.reference import update_codebook_reference

__all__ = ["update_codebook_", "CodebookUpdate", "update_codebook_reference"]


class CodebookUpdate(NamedTuple):
    """What update_codebook_ saw on the way."""

    dead_K: Tensor  # bool (K,): used less than dead_below times its codebook's uniform share, by the EMA
    perplexity: Tensor  # float32 () or, with sizes, (G,): of this batch's counts, 1 to K; 0 for an empty batch


def check_update(masters: dict[str, Tensor], counts_K: Tensor, sums_KD: Tensor, decay: float | Tensor) -> None:
    """Refuse masters that are not float32 (TypeError), shapes or devices that differ, and a decay outside 0 to 1."""
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
    if isinstance(decay, Tensor):
        checks.check_rank("update_codebook_", 0, decay=decay)
        checks.check_float("update_codebook_", decay=decay)
        checks.check_device("update_codebook_", code_KD=code_KD, decay=decay)
    elif not 0.0 <= decay <= 1.0:
        raise ValueError(f"update_codebook_: decay is {decay}; it can be 0 (only this batch) to 1 (nothing moves).")


@torch.library.custom_op("vqmm::update_codebook", mutates_args=("code_KD", "ema_count_K", "ema_sum_KD"))
def update_op_(
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
    """dead bool (K,) and perplexity float32 (G,), on the path of the device; the first three are written. No checks."""
    batch, options = (counts_K, sums_KD, decay), (epsilon, dead_below, normalise, sizes)
    arguments = (code_KD, ema_count_K, ema_sum_KD, *batch, *options)
    if path_for(code_KD.device) == "triton":
        from vqmm.kernels.update_codebook.fused import fits, update_triton_

        if fits(code_KD, ema_count_K, ema_sum_KD):
            return update_triton_(*arguments)
    return update_torch_(*arguments)


@update_op_.register_fake
def _(
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
    return code_KD.new_empty(code_KD.shape[0], dtype=torch.bool), code_KD.new_empty(len(sizes))


@torch.no_grad()
def update_codebook_(
    code_KD: Tensor,
    ema_count_K: Tensor,
    ema_sum_KD: Tensor,
    counts_K: Tensor,
    sums_KD: Tensor,
    *,
    decay: float | Tensor,
    epsilon: float = 1e-5,
    dead_below: float = 0.0,
    normalise: bool = False,
    sizes: Sequence[int] | None = None,
) -> CodebookUpdate:
    """One EMA step of a codebook, in place, from what code_sums gave. No host synchronisation.

    ema = decay ema + (1 - decay) batch, for counts and sums; then, with n the sum of the EMA counts,
    code = ema_sum / ((ema_count + epsilon) / (n + K epsilon) n). With sizes, each codebook by itself.

    Args:
        code_KD: the codebook, float32 (K, D), written.
        ema_count_K: float32 (K,), written. Start it consistent with ema_sum_KD: ones, when that starts as the codebook.
        ema_sum_KD: float32 (K, D), written.
        counts_K: this batch's (this step's, all processes') counts, (K,).
        sums_KD: this batch's sums, (K, D).
        decay: 0 to 1, the share that stays; 0.99 is usual. A schedule under torch.compile or in a CUDA graph gives it
            as a tensor () on the codebook's device (float64, or 1 - decay is a rounded one), which on a GPU is not
            checked.
        epsilon: Laplace smoothing, in vectors: a code with no vectors is divided by a little more than its count.
        dead_below: a code is dead when its EMA count is under this share of the mean EMA count, 0 (none) to 1.
        normalise: give every code length 1, for a codebook searched by cosine.
        sizes: the rows of each of G codebooks that lie one after the other in code_KD; their sum is K.

    Returns:
        CodebookUpdate. A codebook whose counts are all zero does not move. A code whose EMA count is 0 stays where it
        is. perplexity has shape (), with sizes (G,).

    Raises:
        TypeError: a master (code, EMA count, EMA sum) is not float32.
        ValueError: shapes or devices differ, no code, sizes that do not make K, or decay is not in 0 to 1.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1, smoothed as in Sonnet's VectorQuantizerEMA.
    """
    masters = {"code_KD": code_KD, "ema_count_K": ema_count_K, "ema_sum_KD": ema_sum_KD}
    check_update(masters, counts_K, sums_KD, decay)
    K = code_KD.shape[0]
    if sizes is not None:
        checks.check_sizes("update_codebook_", sizes, K)
    if isinstance(decay, Tensor):
        decay = decay.double()
    else:
        decay = torch.full((), decay, dtype=torch.float64, device=code_KD.device)
    options = (decay, epsilon, dead_below, normalise, [K] if sizes is None else list(sizes))
    dead_K, perplexity_G = update_op_(*(m.detach() for m in masters.values()), counts_K, sums_KD, *options)
    return CodebookUpdate(dead_K, perplexity_G[0] if sizes is None else perplexity_G)
