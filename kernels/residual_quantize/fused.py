"""How residual_quantize is fast on a GPU: one kernel that walks all stages with the residual on chip.

Stage by stage the residual is read and written Q times; here x is read once and only indices and errors are written.
The vectors are then looked up from the indices by the kernel that is also residual_lookup's, so both are equal to the
bit by construction. Backward recomputes the residuals on chip in the same way.

Where that is not for the shape (see fits): stage by stage, two launches each, through nearest_code's search.

Codebooks are at fixed rows: where each stage's begins is part of the compiled kernel, so no table travels to the GPU.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vqmm.kernels.nearest_code.fused import capability_of, packed, processors_of
from vqmm.kernels.residual_quantize.launch import lookup_kernel, pull_kernel, step_kernel, walk_kernel
from vqmm.kernels.residual_quantize.staged import Books, Search


class Config(NamedTuple):
    """A tile of vectors by codes, how the compiler should pipeline it, and the product (see scan)."""

    block_n: int
    block_k: int
    warps: int
    stages: int
    dot: str
    parked: bool = False  # see walk_kernel
    below: tuple[int, int] = (99, 0)  # the first Triton that this row is not for


# By padded width. Chosen without a measurement: the largest tiles that neither spill nor pass the chip's shared memory;
# the tests compile every entry. Where a width is missing, stage by stage is the better way: products of exact's kind
# leave no room for a tile worth having, and certified's second look at few vectors needs a search of its own. Triton
# 3.8 takes more registers than 3.6: a row fits both, or says which it is for.
HOPPER = {
    "exact": {
        16: Config(128, 64, 8, 3, "split"),
        32: Config(128, 64, 8, 3, "split"),
        64: Config(128, 64, 8, 3, "split"),
        128: Config(128, 32, 8, 2, "split", below=(3, 8)),  # 3.8 spills with any tile
    },
    "fast": {
        16: Config(128, 64, 8, 3, "tf32"),
        32: Config(128, 64, 8, 3, "tf32"),
        64: Config(128, 64, 8, 3, "tf32"),
        128: Config(128, 32, 8, 2, "tf32"),
        256: Config(64, 64, 8, 1, "tf32", parked=True),
    },
}
# Within 99 KiB, which every GPU from 8.0 on has.
AMPERE = {
    "exact": {
        16: Config(128, 64, 8, 3, "split"),
        32: Config(128, 64, 8, 3, "split"),
        64: Config(128, 32, 8, 3, "split"),
    },
    "fast": {
        16: Config(128, 64, 8, 3, "tf32"),
        32: Config(128, 64, 8, 3, "tf32"),
        64: Config(128, 64, 8, 3, "tf32"),
        128: Config(128, 64, 8, 2, "tf32", parked=True),
        256: Config(64, 16, 8, 2, "tf32", parked=True),
    },
}
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
for table in (HOPPER, AMPERE):
    for precision, rows in table.items():
        table[precision] = {width: config for width, config in rows.items() if config.below > TRITON}
for table in (HOPPER, AMPERE):  # on chip there is no second look: what certified finds is searched exactly at once
    table["certified"] = {width: config for width, config in table["exact"].items() if width <= 64}
LOOKUP = (64, 64, 4)  # vectors and dimensions of a tile, warps: nothing but loads and additions
STEP = (16, 128, 4)  # the same, where one program takes whole vectors
COLUMNS = 64  # of a parked residual, at a time
FEW_CODES = 2**17  # numbers of a codebook that one processor walks through in less time than a launch or two take


def table_for(capability: tuple[int, int], precision: str) -> dict[int, Config]:
    """Tiles by padded width, for a GPU of a compute capability such as (9, 0)."""
    return (HOPPER if capability[0] == 9 else AMPERE)[precision]


def padded_width(width: int) -> int:
    """A power of two, and no less than a tensor core takes."""
    return max(16, triton.next_power_of_2(width))


def widened(v_ND: Tensor, spare: int) -> Tensor:
    """With so many columns of 0 more, which change no score and no error."""
    return torch.nn.functional.pad(v_ND, (0, spare)) if spare else v_ND


def fits(device: torch.device, width: int, n: int | None, k: int | None, precision: str = "exact") -> bool:
    """Whether the fused kernel is for this shape: the residual stays on chip, and there are tiles for the processors.

    Few vectors leave most of the GPU idle; large codebooks are then split over it, stage by stage.
    """
    config = table_for(capability_of(device), precision).get(padded_width(width))
    if config is None:
        return False
    if n is None or k is None or k * width <= FEW_CODES:
        return True
    return 8 * triton.cdiv(n, config.block_n) >= processors_of(device)


def explain(device: torch.device, width: int, precision: str) -> str:
    """What the fused kernel does for a width, in one line."""
    config = table_for(capability_of(device), precision)[padded_width(width)]
    return (
        f"triton, one kernel for all stages: tiles of {config.block_n} vectors by {config.block_k} codes, "
        f"{config.dot} products, {config.warps} warps"
    )


def quantize_fused(
    x_ND: Tensor, keep_N: Tensor, books: Books, stages_N: Tensor | None, precision: str, config: Config | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(vectors_ND float32, index_NQ int32, error_NQ float32). Runs on CUDA, or in Triton's interpreter."""
    (n, width), q = x_ND.shape, len(books.books)
    index_NQ = torch.empty(n, q, dtype=torch.int32, device=x_ND.device)
    error_NQ = torch.empty(n, q, dtype=torch.float32, device=x_ND.device)
    vectors_ND = torch.empty(n, width, dtype=torch.float32, device=x_ND.device)  # residuals until they are known
    wide, prepared = padded_width(width), books.prepared()
    if config is None:
        config = table_for(capability_of(x_ND.device), precision)[wide]
    spare = -width % 4 and -width % 16  # without whole runs of 16 bytes every number would have a load of its own
    if n:
        with torch.cuda.device_of(x_ND):
            code, _ = packed(widened(prepared.code_KD, spare), config.dot)
            shift_GD = prepared.bias_K if prepared.shift_GD is None else widened(prepared.shift_GD, spare).contiguous()
            parked_ND = torch.empty(n, width + spare, device=x_ND.device) if config.parked and spare else vectors_ND
            walk_kernel[(triton.cdiv(n, config.block_n),)](
                widened(x_ND, spare).contiguous(),
                keep_N,
                keep_N if stages_N is None else stages_N.contiguous(),
                widened(books.code_KD, spare),
                code,
                prepared.bias_K,
                shift_GD,
                index_NQ,
                error_NQ,
                parked_ND,
                n,
                FIRST=tuple(books.firsts),
                SIZE=tuple(books.sizes),
                BOOK=tuple(books.books),
                USED=stages_N is not None,
                SHIFTED=prepared.shift_GD is not None,
                PARKED=config.parked,
                D=width + spare,
                BLOCK_N=config.block_n,
                BLOCK_K=config.block_k,
                BLOCK_D=wide,
                BLOCK_C=min(wide, COLUMNS),
                DOT=config.dot,
                num_warps=config.warps,
                num_stages=config.stages,
            )
    lookup_fused(index_NQ, books.code_KD, books.firsts, out=vectors_ND)
    return vectors_ND, index_NQ, error_NQ


def quantize_stepwise(
    x_ND: Tensor, keep_N: Tensor, books: Books, stages_N: Tensor | None, search: Search
) -> tuple[Tensor, Tensor, Tensor]:
    """As quantize_fused, in two launches a stage: a search that splits the codebook over the GPU, and a step."""
    (n, width), q = x_ND.shape, len(books.books)
    index_NQ = torch.empty(n, q, dtype=torch.int32, device=x_ND.device)
    error_NQ = torch.empty(n, q, dtype=torch.float32, device=x_ND.device)
    residual_ND = torch.where(keep_N[:, None], x_ND, 0.0).float().contiguous()
    groups = books.prepared().groups
    block_n, block_d, warps = STEP
    for stage, (first, book) in enumerate(zip(books.firsts, books.books, strict=True)):
        if n == 0:
            break
        with torch.cuda.device_of(x_ND):
            step_kernel[(triton.cdiv(n, block_n),)](
                residual_ND,
                search(residual_ND, groups[book]),
                keep_N,
                keep_N if stages_N is None else stages_N.contiguous(),
                books.code_KD,
                index_NQ,
                error_NQ,
                n,
                first,
                stage,
                q,
                USED=stages_N is not None,
                D=width,
                BLOCK_N=block_n,
                BLOCK_D=block_d,
                num_warps=warps,
            )
    return lookup_fused(index_NQ, books.code_KD, books.firsts), index_NQ, error_NQ


def lookup_fused(index_NQ: Tensor, code_KD: Tensor, offsets: Sequence[int], *, out: Tensor | None = None) -> Tensor:
    """float32 (N, D): codes added from zero in stage order; -1 adds nothing."""
    (n, _), width = index_NQ.shape, code_KD.shape[1]
    vectors_ND = torch.empty(n, width, device=code_KD.device) if out is None else out
    block_n, block_d, warps = LOOKUP
    if n:
        index_NQ = index_NQ if index_NQ.stride(1) == 1 else index_NQ.contiguous()
        with torch.cuda.device_of(code_KD):
            lookup_kernel[(triton.cdiv(n, block_n), triton.cdiv(width, block_d))](
                index_NQ,
                code_KD.contiguous(),
                vectors_ND,
                n,
                index_NQ.stride(0),
                FIRST=tuple(offsets),
                D=width,
                BLOCK_N=block_n,
                BLOCK_D=block_d,
                num_warps=warps,
            )
    return vectors_ND


def pull_fused(
    through_ND: Tensor,
    pull_NQ: Tensor,
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    offsets: Sequence[int],
) -> Tensor:
    """The gradient of x, float32 (N, D): through + sum over stages of 2 pull (r_q - code_q)."""
    n, width = x_ND.shape
    grad_ND = torch.empty(n, width, device=x_ND.device)
    block_n, block_d, warps = LOOKUP
    if n:
        with torch.cuda.device_of(x_ND):
            pull_kernel[(triton.cdiv(n, block_n), triton.cdiv(width, block_d))](
                through_ND.contiguous(),
                pull_NQ.contiguous(),
                x_ND.contiguous(),
                code_KD.contiguous(),
                index_NQ,
                keep_N,
                grad_ND,
                n,
                index_NQ.stride(0),
                FIRST=tuple(offsets),
                D=width,
                BLOCK_N=block_n,
                BLOCK_D=block_d,
                num_warps=warps,
            )
    return grad_ND
