"""How codebook_softmax is fast on a GPU: Triton kernels that never write a score, forward or backward.

Four passes, each recomputing tiles of scores from the two operands: forward (each program keeps a tile of vectors and
goes through the codes with an online softmax), usage, the gradient of the vectors, and the gradient of the codes (each
program keeps a tile of codes and goes through a share of the vectors; the shares are added in order, so the bits are
always the same).
"""

from typing import Any

import torch
import triton
from torch import Tensor

from vqmm.kernels.codebook_softmax import kernels
from vqmm.kernels.codebook_softmax.kernels import Noise
from vqmm.kernels.codebook_softmax.plain import Problem, Pulls, Softmax
from vqmm.kernels.codebook_softmax.reference import hashes
from vqmm.kernels.codebook_softmax.tables import TABLES, Config

PROGRAMS = 256  # programs that go through the vectors, about: two for every processor of a large GPU


def padded_width(width: int) -> int:
    """The width the kernels work at: a power of two that a tensor core takes."""
    return max(16, triton.next_power_of_2(width))


def given(v: Tensor) -> Tensor | None:
    """As a kernel takes what may be absent, which torch's operators write as an empty tensor."""
    return v if v.numel() else None


def padded(v_ND: Tensor) -> Tensor:
    """Contiguous, and with columns of 0 as far as padded_width."""
    width = v_ND.shape[1]
    return torch.nn.functional.pad(v_ND, (0, padded_width(width) - width)).contiguous()


def noise_of(problem: Problem) -> Noise | None:
    """What the noise is made of; None without a seed."""
    if not problem.seed_1.numel():
        return None
    return Noise(*hashes(problem.seed_1, len(problem.query_ND), len(problem.code_KD)), problem.rate_1)


def shares(n: int, k: int, config: Config) -> tuple[int, int, int]:
    """The grid of a pass along the vectors: tiles of codes, shares of the vectors; and the vectors of a share."""
    columns = triton.cdiv(k, config.block_k)
    steps = triton.cdiv(n, config.block_n)
    share = triton.cdiv(steps, max(1, min(steps, PROGRAMS // columns))) * config.block_n
    return columns, triton.cdiv(n, share), share


def config_for(kernel: str, query_ND: Tensor, precision: str) -> Config:
    """What a kernel takes for these queries; in the interpreter the tiles that fit every GPU."""
    capability = torch.cuda.get_device_capability(query_ND.device) if query_ND.is_cuda else (8, 0)
    config = TABLES.find(capability, kernel=kernel, max_width=query_ND.shape[1], precision=precision)
    assert config is not None, "path_for() was asked before"
    return config


def options(config: Config, width: int) -> dict[str, Any]:
    """The constants of a kernel for vectors of a padded width, and how it is compiled."""
    blocks = {"D": width, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "PRODUCT": config.dot}
    return {**blocks, "num_warps": config.warps, "num_stages": config.stages}


def forward(problem: Problem, precision: str, usage: bool, vectors: bool) -> Softmax:
    """All outputs, from at most two passes. Runs on CUDA, or in Triton's interpreter."""
    (n, width), k = problem.query_ND.shape, problem.code_KD.shape[0]
    new = problem.query_ND.new_empty
    out = Softmax(
        log_sum_N=new(n),
        entropy_N=new(n),
        cross_N=new(problem.target_N.shape[0]),
        usage_K=torch.zeros_like(problem.bias_K) if usage else new(0),
        vectors_ND=new((n, width) if vectors else (0,)),
        index_N=new(n, dtype=torch.int32),
        peak_N=new(n),
        rest_N=new(n),
    )
    if n == 0:
        return out
    query_NW, code_KW, bias_K = padded(problem.query_ND), padded(problem.code_KD), problem.bias_K.contiguous()
    noise = noise_of(problem)
    with torch.cuda.device_of(query_NW):
        config = config_for("forward", problem.query_ND, precision)
        kernels.forward_kernel[(triton.cdiv(n, config.block_n),)](
            query_NW,
            code_KW,
            bias_K,
            problem.keep_N.to(torch.uint8),
            given(problem.target_N),
            noise,
            out.log_sum_N,
            out.entropy_N,
            given(out.cross_N),
            given(out.vectors_ND),
            out.index_N,
            out.peak_N,
            out.rest_N,
            n,
            k,
            width,
            **options(config, query_NW.shape[1]),
        )
        if usage:
            config = config_for("usage", problem.query_ND, precision)
            columns, parts, share = shares(n, k, config)
            part_PK = new(parts, k)
            arguments = (query_NW, code_KW, bias_K, noise, out.peak_N, out.rest_N, part_PK, n, k, share)
            kernels.usage_kernel[(columns, parts)](*arguments, **options(config, query_NW.shape[1]))
            torch.div(part_PK.sum(0), problem.keep_N.sum().clamp_min(1), out=out.usage_K)
    return out


def backward(
    problem: Problem, peak_N: Tensor, rest_N: Tensor, pulls: Pulls, precision: str, of_query: bool, of_code: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query (N, D), code (K, D) and bias (K,). Holds the codes' gradient once for each share."""
    (n, width), k = problem.query_ND.shape, problem.code_KD.shape[0]
    new = problem.query_ND.new_empty
    grad_ND, grad_KD, grad_K = new((n, width) if of_query else (0,)), new(0), new(0)
    if n == 0:
        return (grad_ND, new(k, width).zero_(), new(k).zero_()) if of_code else (grad_ND, grad_KD, grad_K)
    query_NW, code_KW, bias_K = padded(problem.query_ND), padded(problem.code_KD), problem.bias_K.contiguous()
    given_pulls = kernels.Pulls(
        base=pulls.base_N.clone(),  # the first pass writes it
        entropy=given(pulls.entropy_N),
        cross=given(pulls.cross_N),
        usage=given(pulls.usage_K),
        vectors=padded(pulls.vectors_ND) if pulls.vectors_ND.numel() else None,
    )
    target_N = problem.target_N if pulls.cross_N.numel() else None
    read = (query_NW, code_KW, bias_K, target_N, noise_of(problem), peak_N, rest_N, given_pulls)
    with torch.cuda.device_of(query_NW):
        # the pass along the vectors wants the mean pull of usage that the one along the codes finds
        if of_query or given_pulls.usage is not None:
            config = config_for("backward_x", problem.query_ND, precision)
            kernels.backward_x_kernel[(triton.cdiv(n, config.block_n),)](
                *read, grad_ND if of_query else None, n, k, width, **options(config, query_NW.shape[1])
            )
        if of_code:
            config = config_for("backward_code", problem.query_ND, precision)
            columns, parts, share = shares(n, k, config)
            part_PKD, part_PK = new(parts, k, width), new(parts, k)
            kernels.backward_code_kernel[(columns, parts)](
                *read, part_PKD, part_PK, n, k, width, share, **options(config, query_NW.shape[1])
            )
            grad_KD, grad_K = part_PKD.sum(0), part_PK.sum(0)
    return grad_ND, grad_KD, grad_K
