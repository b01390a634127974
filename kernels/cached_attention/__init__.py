"""Attention of one query a sequence and head to a cache of keys and values: what a step of a transformer needs.

Why a loop of our own on a CPU: torch's attention calls two matrix products for every sequence and head, which for one
query takes two to four times as long as reading keys and values does.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vqmm.kernels.cached_attention.cpu import attend_cpu, loop_for

__all__ = ["cached_attention", "cached_attention_reference"]

THREADS = 2  # of torch: with more its own attention, which uses them all, is as fast
SMALL = 2**18  # multiplications that are not worth a second thread


def cached_attention(query_BHS: Tensor, cache_B2HLS: Tensor, filled: int) -> Tensor:
    """softmax(K q / sqrt(S)) V of each sequence and head (Vaswani et al. 2017, arXiv 1706.03762, equation 1).

    Without gradients. With the compiled loop a sequence's result does not depend, to the bit, on those beside it.

    Args:
        query_BHS: (B, heads, size).
        cache_B2HLS: (B, 2, heads, length, size), keys and values; what lies past the first `filled` is not read.
        filled: from 1 to length.

    Returns:
        (B, heads, size).

    Raises:
        ValueError: shapes that do not fit one another, or no key.
    """
    batch, heads, size = query_BHS.shape
    length = cache_B2HLS.shape[3]
    if cache_B2HLS.shape != (batch, 2, heads, length, size) or not 1 <= filled <= length:
        raise ValueError(
            f"cached_attention: a query {tuple(query_BHS.shape)}, a cache {tuple(cache_B2HLS.shape)} and filled "
            f"{filled}: (B, H, S), (B, 2, H, L, S) and 1 to L are needed"
        )
    loop = loop_for(query_BHS, cache_B2HLS)
    few = torch.get_num_threads() <= THREADS or 2 * batch * heads * filled * size <= SMALL
    if loop is not None and few:
        return attend_cpu(query_BHS, cache_B2HLS, filled, loop)
    key, value = cache_B2HLS.narrow(3, 0, filled).unbind(1)
    return F.scaled_dot_product_attention(query_BHS.unsqueeze(2), key, value).squeeze(2)


def cached_attention_reference(query_BHS: Tensor, cache_B2HLS: Tensor, filled: int) -> Tensor:
    """What cached_attention means, in float64."""
    key, value = cache_B2HLS[:, :, :, :filled].double().unbind(1)
    score = (key @ query_BHS.double().unsqueeze(-1)).squeeze(-1) / math.sqrt(query_BHS.shape[-1])
    return (score.softmax(-1).unsqueeze(-2) @ value).squeeze(-2)
