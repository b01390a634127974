"""How codebook_softmax is fast without a kernel of its own: chunks of vectors against all codes, in plain torch.

A chunk's scores stay near the L2 cache of a CPU, codes down and vectors across. What can ride on a matrix product does:
a column of ones beside the vectors adds the bias to a score and sums a code's gradient of it; a column of ones beside
the codes sums the exponentials.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.codebook_softmax.reference import gumbel, hashes, uniform

NEVER = -1e35  # bias of a code that may not win: any score is larger, and 0 times it is 0
ABSENT = 1e36  # peak of a vector that does not count: any score less it has an exponential of 0
CHUNK_BYTES = 2**20  # scores of a chunk: an L2 cache
CHUNK_BYTES_ELSEWHERE = 64 * 2**20
LEAST_ROWS = 16


class Problem(NamedTuple):
    """A softmax over codes of s = query . code + bias + rate * noise. Everything is finite; |query . code| <= 1e30."""

    query_ND: Tensor  # float32; 0 where a vector does not count
    code_KD: Tensor  # float32: the keys, and the values too; 0 where a code may not win
    bias_K: Tensor  # float32; NEVER where a code may not win
    keep_N: Tensor  # bool
    target_N: Tensor  # int32; empty: no cross-entropy
    seed_1: Tensor  # int64; empty: no noise
    rate_1: Tensor  # float32: 1 / temperature


class Softmax(NamedTuple):
    """What the forward gives. Empty where not asked for; 0 where a vector does not count."""

    log_sum_N: Tensor
    entropy_N: Tensor
    cross_N: Tensor
    usage_K: Tensor
    vectors_ND: Tensor
    index_N: Tensor
    peak_N: Tensor  # the largest score, ABSENT for a vector that does not count
    rest_N: Tensor  # log_sum - peak: kept apart, so that a large peak costs no precision


class Pulls(NamedTuple):
    """Gradients of the outputs. Empty: none. 0 where a vector does not count.

    ds = p (base + usage_k - sum_j p_j usage_j - entropy log p + vectors . code) - cross [k = target].
    """

    base_N: Tensor  # of log_sum and cross-entropy, less entropy * its value, less vectors . its value
    entropy_N: Tensor
    cross_N: Tensor
    usage_K: Tensor  # already divided by how many vectors count
    vectors_ND: Tensor


def with_column(v_ND: Tensor, column: Tensor | None = None) -> Tensor:
    """One more column: of ones when not given."""
    column_N1 = v_ND.new_ones(v_ND.shape[0], 1) if column is None else column[:, None]
    return torch.cat([v_ND, column_N1], 1)


def chunks(problem: Problem) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """For every chunk: its rows, its vectors with a column of ones, its scores (K, n), and a scratch of that shape."""
    n, k = problem.query_ND.shape[0], problem.code_KD.shape[0]
    size = CHUNK_BYTES if problem.code_KD.device.type == "cpu" else CHUNK_BYTES_ELSEWHERE
    rows = min(n, max(LEAST_ROWS, size // (4 * k)))
    code_KE = with_column(problem.code_KD, problem.bias_K)
    memory = problem.code_KD.new_empty(2, rows * k)
    noise = hashes(problem.seed_1, n, k) if problem.seed_1.numel() else None
    for first in range(0, n, max(1, rows)):
        at = slice(first, min(first + rows, n))
        query_nE = with_column(problem.query_ND[at])
        score_Kn, scratch_Kn = (m[: k * query_nE.shape[0]].view(k, -1) for m in memory)
        torch.mm(code_KE, query_nE.T, out=score_Kn)
        if noise is not None:
            score_Kn += gumbel(uniform(noise[0][at], noise[1])).mul_(problem.rate_1)
        yield at, query_nE, score_Kn, scratch_Kn


def highest_by_pooling(score_Kn: Tensor) -> tuple[Tensor, Tensor]:
    """The best score of every column and where, the lowest of equals: on a CPU vectorised over the columns."""
    picture = score_Kn[None, :, None].permute(0, 3, 1, 2)  # n channels, K high, 1 wide, channels last
    value, at = torch.ops.aten.max_pool2d_with_indices(picture, [score_Kn.shape[0], 1])
    return value.view(-1), at.view(-1)


def highest_by_comparing(score_Kn: Tensor) -> tuple[Tensor, Tensor]:
    """The same where max promises no order among equals."""
    best_n = score_Kn.amax(0)
    return best_n, (score_Kn == best_n).byte().argmax(0)


def aimed(problem: Problem, at: slice) -> tuple[Tensor, Tensor]:
    """Which targets of a chunk are codes of vectors that count; and the targets, int64, with 0 for the others."""
    target_n = problem.target_N[at]
    inside_n = problem.keep_N[at] & (target_n >= 0) & (target_n < problem.code_KD.shape[0])
    return inside_n, torch.where(inside_n, target_n, 0).long()


def forward(problem: Problem, usage: bool, vectors: bool) -> Softmax:
    """All outputs, chunk by chunk. The exponentials of a chunk are made once and serve every output."""
    query_ND, code_KD, _, keep_N, target_N, _, _ = problem
    (n, width), k = query_ND.shape, code_KD.shape[0]
    code_KE = with_column(code_KD)
    highest = highest_by_pooling if query_ND.device.type == "cpu" else highest_by_comparing
    entropy_N, cross_N, peak_N, rest_N = (query_ND.new_zeros(n) for _ in range(4))
    index_N = torch.zeros(n, dtype=torch.int32, device=query_ND.device)
    vectors_ND = query_ND.new_zeros((n, width) if vectors else (0,))
    usage_K = query_ND.new_zeros(k if usage else 0)
    for at, _, score_Kn, exp_Kn in chunks(problem):
        peak_N[at], index_N[at] = highest(score_Kn)
        score_Kn -= peak_N[at]
        torch.exp(score_Kn, out=exp_Kn)
        if vectors:
            sums_nE = exp_Kn.T @ code_KE
            total_n = sums_nE[:, width]
            torch.div(sums_nE[:, :width], total_n[:, None], out=vectors_ND[at])
        else:
            total_n = exp_Kn.sum(0)
        if target_N.numel():
            inside_n, target_n = aimed(problem, at)
            cross_N[at] = torch.where(inside_n, -score_Kn.gather(0, target_n[None])[0], -NEVER)
        if usage:
            usage_K.addmv_(exp_Kn, torch.where(keep_N[at], 1 / total_n, 0.0))
        rest_N[at] = total_n.log()
        torch.div(score_Kn.mul_(exp_Kn).sum(0), total_n, out=entropy_N[at])
    usage_K /= keep_N.sum().clamp_min(1)

    def kept(value: Tensor, absent: float = 0.0) -> Tensor:
        return torch.where(keep_N.view(-1, *[1] * (value.dim() - 1)), value, absent)

    return Softmax(
        log_sum_N=kept(peak_N + rest_N),
        entropy_N=kept((rest_N - entropy_N).clamp_min_(0)),
        cross_N=kept(rest_N + cross_N) if target_N.numel() else cross_N[:0],
        usage_K=usage_K,
        vectors_ND=kept(vectors_ND) if vectors else vectors_ND,
        index_N=torch.where(keep_N, index_N, 0),
        peak_N=kept(peak_N, ABSENT),
        rest_N=kept(rest_N),
    )


def backward(
    problem: Problem, peak_N: Tensor, rest_N: Tensor, pulls: Pulls, of_query: bool, of_code: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query (N, D), code (K, D) and bias (K,), chunk by chunk, added in the order of the chunks."""
    query_ND, code_KD, bias_K = problem[:3]
    width = query_ND.shape[1]
    any_never = code_KD.device.type != "cpu" or bool((bias_K == NEVER).any())
    left_KF = code_KD if pulls.vectors_ND.numel() else code_KD[:, :0]
    left_KF = with_column(with_column(left_KF, pulls.usage_K) if pulls.usage_K.numel() else left_KF)
    grad_ND = query_ND.new_zeros(query_ND.shape if of_query else (0,))
    grad_KE = code_KD.new_zeros(code_KD.shape[0] if of_code else 0, width + 1)
    for at, query_nE, score_Kn, exp_Kn in chunks(problem):
        score_Kn -= peak_N[at]
        torch.exp(score_Kn, out=exp_Kn)
        share_n = rest_N[at].neg().exp()  # p = exp * share
        base_n = pulls.base_N[at]
        right = []
        if pulls.vectors_ND.numel():
            right.append(pulls.vectors_ND[at] * share_n[:, None])
            if of_code:
                grad_KE[:, :width].addmm_(exp_Kn, right[0])
        if pulls.usage_K.numel():
            base_n = base_n - share_n * (pulls.usage_K @ exp_Kn)
            right.append(share_n[:, None])
        if pulls.entropy_N.numel():
            base_n = base_n + pulls.entropy_N[at] * rest_N[at]  # log p = score - rest
        right.append((base_n * share_n)[:, None])
        pull_Kn = left_KF @ torch.cat(right, 1).T
        if pulls.entropy_N.numel():
            if any_never:
                score_Kn.clamp_min_(-1e4)  # times a large gradient it would be infinite, and 0 times that NaN
            pull_Kn.addcmul_(score_Kn, -pulls.entropy_N[at] * share_n)
        pull_Kn *= exp_Kn
        if pulls.cross_N.numel():
            _, target_n = aimed(problem, at)
            pull_Kn[target_n, torch.arange(len(target_n), device=target_n.device)] -= pulls.cross_N[at]
        if of_query:
            torch.mm(pull_Kn.T, code_KD, out=grad_ND[at])
        if of_code:
            grad_KE.addmm_(pull_Kn, query_nE)
    if not of_code:
        return grad_ND, grad_KE.new_zeros(0), grad_KE.new_zeros(0)
    return grad_ND, grad_KE[:, :width].clone(memory_format=torch.contiguous_format), grad_KE[:, width].clone()
