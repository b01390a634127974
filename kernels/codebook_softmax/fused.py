"""How codebook_softmax is fast on a GPU: Triton kernels that never write a score, forward or backward.

Four walks, each recomputing a tile of scores from the two operands: forward (each program keeps a tile of vectors and
walks the codes with an online softmax), usage, the gradient of the vectors, and the gradient of the codes (each program
keeps a tile of codes and walks a share of the vectors; the shares are added in order, so the bits are always the same).
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vqmm.kernels.codebook_softmax.cpu import Problem, Pulls, Softmax
from vqmm.kernels.codebook_softmax.reference import hashes
from vqmm.kernels.codebook_softmax.walks import (
    backward_code_kernel,
    backward_x_kernel,
    forward_kernel,
    usage_kernel,
)

PRODUCTS = {"exact": "tf32x3", "fast": "tf32"}


class Tile(NamedTuple):
    block_n: int  # vectors
    block_k: int  # codes


class Tiles(NamedTuple):
    """The tile of each walk. The first and the third keep their vectors on chip, the others their codes."""

    forward: Tile
    usage: Tile
    backward_x: Tile
    backward_code: Tile


WARPS, STAGES = 8, 2

# By padded width. Every entry is compiled by the tests: no spills, and less shared memory than the chip has. Without
# wgmma each warp holds the whole second operand of a product, and "tf32x3" holds it twice: hence the narrow tiles. Each
# fits Triton 3.6 and 3.8, which takes more registers for "tf32x3".
SMALL = Tiles(Tile(128, 64), Tile(64, 128), Tile(128, 64), Tile(32, 128))
MEDIUM = Tiles(Tile(128, 32), Tile(32, 128), Tile(128, 32), Tile(32, 128))
HOPPER = {
    "exact": {16: SMALL._replace(forward=Tile(128, 32)), 32: SMALL._replace(forward=Tile(128, 32)), 64: MEDIUM},
    "fast": {16: SMALL, 32: SMALL, 64: SMALL, 128: MEDIUM},
}
NARROW = Tiles(Tile(128, 16), Tile(16, 128), Tile(64, 16), Tile(16, 128))
OTHERS = {
    "exact": {
        16: SMALL._replace(backward_x=Tile(128, 32)),
        32: Tiles(Tile(128, 32), Tile(64, 128), Tile(64, 32), Tile(16, 128)),
        64: NARROW._replace(backward_code=Tile(32, 32)),
    },
    "fast": {16: SMALL, 32: MEDIUM, 64: MEDIUM, 128: NARROW._replace(forward=Tile(64, 16))},
}
PROGRAMS = 256  # programs that walk the vectors, about: two for every processor of a large GPU


def padded_width(width: int) -> int:
    """The width the kernels work at: a power of two that a tensor core takes."""
    return max(16, triton.next_power_of_2(width))


def tiles_for(width: int, precision: str, capability: tuple[int, int]) -> Tiles:
    """The tiles for a padded width, on a GPU of a compute capability such as (9, 0)."""
    return (HOPPER if capability[0] == 9 else OTHERS)[precision][width]


def padded(v_ND: Tensor) -> Tensor:
    width = v_ND.shape[1]
    return torch.nn.functional.pad(v_ND, (0, padded_width(width) - width)).contiguous()


def operands(problem: Problem) -> tuple[Tensor, ...]:
    """query and code, padded; bias; the hashes of vectors and codes (any tensor, unread, without a seed); the rate."""
    query_ND, code_KD, bias_K, _, target_N, seed_1, rate_1 = problem
    row_N, column_K = target_N, target_N
    if seed_1.numel():
        row_N, column_K = hashes(seed_1, query_ND.shape[0], code_KD.shape[0])
    return padded(query_ND), padded(code_KD), bias_K.contiguous(), row_N, column_K, rate_1


def shares(n: int, k: int, tile: Tile) -> tuple[int, int, int]:
    """The grid of a walk along the vectors: tiles of codes, shares of the vectors; and the vectors of a share."""
    columns = triton.cdiv(k, tile.block_k)
    steps = triton.cdiv(n, tile.block_n)
    share = triton.cdiv(steps, max(1, min(steps, PROGRAMS // columns))) * tile.block_n
    return columns, triton.cdiv(n, share), share


def chosen(query_NW: Tensor, precision: str) -> Tiles:
    capability = torch.cuda.get_device_capability(query_NW.device) if query_NW.is_cuda else (0, 0)
    return tiles_for(query_NW.shape[1], precision, capability)


def options(tile: Tile) -> dict[str, int]:
    return {"BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, "num_warps": WARPS, "num_stages": STAGES}


def forward(problem: Problem, precision: str, usage: bool, vectors: bool) -> Softmax:
    """All outputs, from at most two walks. Runs on CUDA, or in Triton's interpreter."""
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
    query_NW, code_KW, bias_K, row_N, column_K, rate_1 = operands(problem)
    walks = chosen(query_NW, precision)
    flags = {"D": query_NW.shape[1], "NOISE": bool(problem.seed_1.numel()), "PRODUCT": PRODUCTS[precision]}
    with torch.cuda.device_of(query_NW):
        forward_kernel[(triton.cdiv(n, walks.forward.block_n),)](
            query_NW,
            code_KW,
            bias_K,
            problem.keep_N.to(torch.uint8),
            problem.target_N,
            row_N,
            column_K,
            rate_1,
            out.log_sum_N,
            out.entropy_N,
            out.cross_N,
            out.vectors_ND,
            out.index_N,
            out.peak_N,
            out.rest_N,
            n,
            k,
            width,
            TARGET=bool(problem.target_N.numel()),
            VECTORS=vectors,
            **flags,
            **options(walks.forward),
        )
        if usage:
            columns, parts, share = shares(n, k, walks.usage)
            part_PK = new(parts, k)
            walk = (query_NW, code_KW, bias_K, row_N, column_K, rate_1, out.peak_N, out.rest_N, part_PK, n, k, share)
            usage_kernel[(columns, parts)](*walk, **flags, **options(walks.usage))
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
    query_NW, code_KW, bias_K, row_N, column_K, rate_1 = operands(problem)
    walks = chosen(query_NW, precision)
    flags = {
        "D": query_NW.shape[1],
        "NOISE": bool(problem.seed_1.numel()),
        "ENTROPY": bool(pulls.entropy_N.numel()),
        "CROSS": bool(pulls.cross_N.numel()),
        "USAGE": bool(pulls.usage_K.numel()),
        "VECTORS": bool(pulls.vectors_ND.numel()),
        "PRODUCT": PRODUCTS[precision],
    }
    pull_NW = padded(pulls.vectors_ND) if flags["VECTORS"] else pulls.vectors_ND
    scores = (query_NW, code_KW, bias_K, problem.target_N, row_N, column_K, rate_1, peak_N, rest_N)
    base_N = pulls.base_N.clone()  # the first walk writes it
    read = (*scores, base_N, pulls.entropy_N, pulls.cross_N, pulls.usage_K, pull_NW)
    with torch.cuda.device_of(query_NW):
        if of_query or flags["USAGE"]:  # the walk along the vectors wants the mean pull of usage that this one finds
            grid = (triton.cdiv(n, walks.backward_x.block_n),)
            backward_x_kernel[grid](*read, grad_ND, n, k, width, GRAD=of_query, **flags, **options(walks.backward_x))
        if of_code:
            columns, parts, share = shares(n, k, walks.backward_code)
            part_PKD, part_PK = new(parts, k, width), new(parts, k)
            sizes = (n, k, width, share)
            how = flags | options(walks.backward_code)
            backward_code_kernel[(columns, parts)](*read, part_PKD, part_PK, *sizes, **how)
            grad_KD, grad_K = part_PKD.sum(0), part_PK.sum(0)
    return grad_ND, grad_KD, grad_K
