"""What codebook_softmax means: the truth in float64, the best dense float32, and the noise that every path draws."""

import torch
from torch import Tensor

from vqmm.kernels.finite import finite_rows

LOW_31 = 2**31 - 1


def mix(h: Tensor) -> Tensor:
    """Scramble 32 bits, int32 in and out: multiplications wrap, shifts are made logical by a mask.

    Source: the constants and shifts of lowbias32, found by C. Wellons' hash prospector (2018).
    """
    h = h ^ ((h >> 16) & 0xFFFF)
    h = h * 0x7FEB352D
    h ^= (h >> 15) & 0x1FFFF
    h *= 0x846CA68B - 2**32
    h ^= (h >> 16) & 0xFFFF
    return h


def hashes(seed_1: Tensor, n: int, k: int) -> tuple[Tensor, Tensor]:
    """A hash of each vector's and each code's number under a seed, int32 (N,) and (K,). A pair's is mix(row ^ column).

    Two words of key go in one after the other, so that two seeds share no row but by a chance of 2^-64.
    """
    low_1, high_1 = seed_1.to(torch.int32), (seed_1 >> 32).to(torch.int32)
    key_1 = mix(low_1 ^ 0x2545F491)
    other_1 = mix(mix(high_1 ^ 0x1B873593) + key_1)
    number_N = torch.arange(n, dtype=torch.int32, device=seed_1.device)
    number_K = torch.arange(k, dtype=torch.int32, device=seed_1.device)
    return mix(mix(number_N ^ key_1) + other_1), mix(mix(number_K ^ other_1) + key_1 + 0x3C6EF372)


def uniform(row_N: Tensor, column_K: Tensor) -> Tensor:
    """Uniform in (0, 1), (K, N) float32: 31 bits, so that small numbers, where Gumbel's long tail is, stay distinct."""
    bits_KN = mix(column_K[:, None] ^ row_N) & LOW_31
    return bits_KN.float().add_(0.5).mul_(2.0**-31).clamp_max_(1 - 2.0**-24)


def gumbel(uniform_KN: Tensor) -> Tensor:
    """Gumbel noise from uniform noise, the long tail at small numbers."""
    return uniform_KN.neg().log1p_().neg_().log_().neg_()


def unit(v_ND: Tensor) -> Tensor:
    """Vectors divided by their length, differentiable; a zero vector stays zero and gets no gradient.

    The largest entry is divided out first, so that no square overflows or vanishes.
    """
    largest_N1 = v_ND.detach().abs().amax(1, keepdim=True)
    zero_N1 = largest_N1 == 0
    v_ND = torch.where(zero_N1, 1.0, v_ND / torch.where(zero_N1, 1.0, largest_N1))
    return torch.where(zero_N1, 0.0, v_ND / torch.linalg.vector_norm(v_ND, dim=1, keepdim=True))


def softmax_of(
    similarity_NK: Tensor,
    value_KD: Tensor,
    usable_K: Tensor,
    keep_N: Tensor,
    temperature: float | Tensor,
    seed: int | Tensor | None,
    target_N: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Every output of codebook_softmax from dense similarities, by autograd's own rules."""
    n, k = similarity_NK.shape
    s_NK = similarity_NK / temperature
    if seed is not None:
        seed_1 = torch.as_tensor(seed, dtype=torch.int64, device=s_NK.device).reshape(1)
        noise_KN = gumbel(uniform(*hashes(seed_1, n, k)).to(s_NK.dtype))
        s_NK = s_NK + noise_KN.T / temperature
    s_NK = s_NK.masked_fill(~usable_K, float("-inf"))
    keep_N1 = keep_N[:, None]
    log_p_NK = torch.log_softmax(s_NK, 1)
    p_NK = torch.where(keep_N1, log_p_NK.exp(), 0.0)
    log_sum_N = torch.where(keep_N, torch.logsumexp(s_NK, 1), 0.0)
    entropy_N = -(p_NK * log_p_NK.masked_fill(~usable_K, 0.0)).sum(1)
    usage_K = p_NK.sum(0) / keep_N.sum().clamp_min(1)
    best_N1 = s_NK.amax(1, keepdim=True)
    number_K = torch.arange(k, device=s_NK.device)
    index_N = torch.where(keep_N, torch.where(s_NK == best_N1, number_K, k).amin(1), 0).int()
    cross_N = None
    if target_N is not None:
        at_N1 = torch.where(keep_N, target_N, 0).long()[:, None]
        cross_N = torch.where(keep_N, -log_p_NK.gather(1, at_N1)[:, 0], 0.0)
    return log_sum_N, entropy_N, usage_K, p_NK @ value_KD, index_N, cross_N


def codebook_softmax_reference(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    temperature: float | Tensor = 1.0,
    mask_N: Tensor | None = None,
    target_N: Tensor | None = None,
    seed: int | Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """(log_sum, entropy, usage, vectors, index, cross_entropy) in float64, every pair written out."""
    x_ND, code_KD = x_ND.double(), code_KD.double()
    keep_N, usable_K = (torch.isfinite(v.detach()).all(1) for v in (x_ND, code_KD))
    keep_N = keep_N if mask_N is None else keep_N & mask_N
    x_ND, code_KD = torch.where(keep_N[:, None], x_ND, 0.0), torch.where(usable_K[:, None], code_KD, 0.0)
    if metric == "cosine":
        x_ND, code_KD = unit(x_ND), unit(code_KD)
    squared = metric == "euclidean"
    similarity_NK = -(x_ND[:, None] - code_KD).square().sum(2) if squared else x_ND @ code_KD.T
    return softmax_of(similarity_NK, code_KD, usable_K, keep_N, temperature, seed, target_N)


def codebook_softmax_baseline(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    temperature: float | Tensor = 1.0,
    mask_N: Tensor | None = None,
    target_N: Tensor | None = None,
    seed: int | Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The best dense float32: one product with the norms added, then softmax; several N x K matrices live at once."""
    x_ND, code_KD = x_ND.float(), code_KD.float()
    keep_N, usable_K = finite_rows(x_ND.detach()), finite_rows(code_KD.detach())
    keep_N = keep_N if mask_N is None else keep_N & mask_N
    x_ND, code_KD = torch.where(keep_N[:, None], x_ND, 0.0), torch.where(usable_K[:, None], code_KD, 0.0)
    if metric == "cosine":
        x_ND, code_KD = unit(x_ND), unit(code_KD)
    if metric == "euclidean":
        norm_K, norm_N1 = code_KD.square().sum(1), x_ND.square().sum(1, keepdim=True)
        similarity_NK = torch.addmm(-norm_K, x_ND, code_KD.T, alpha=2) - norm_N1
    else:
        similarity_NK = x_ND @ code_KD.T
    return softmax_of(similarity_NK, code_KD, usable_K, keep_N, temperature, seed, target_N)
