"""How residual_quantize is fast on a GPU: one kernel that goes through all stages with the residual on chip.

Stage by stage the residual is read and written Q times; here x is read once and only indices and errors are written.
The vectors are then looked up from the indices by the kernel that is also residual_lookup's, so both are equal to the
bit by construction. Backward recomputes the residuals on chip in the same way.

Where that is not for the shape (see fits), stage by stage, two launches each, through nearest_code's search.

Codebooks are at fixed rows: where each stage's begins is part of the compiled kernel, so no table travels to the GPU.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from vqmm.kernels.nearest_code.fused import packed, processors_of
from vqmm.kernels.residual_quantize.kernels import lookup_kernel, pull_kernel, quantize_kernel, step_kernel
from vqmm.kernels.residual_quantize.staged import Books, Search
from vqmm.kernels.residual_quantize.tables import TABLES, Config
from vqmm.kernels.tables import capability_of

LOOKUP = (64, 64, 4)  # vectors and dimensions of a tile, warps: nothing but loads and additions
STEP = (16, 128, 4)  # the same, where one program takes whole vectors
COLUMNS = 64  # of a parked residual, at a time
FEW_CODES = 2**17  # numbers of a codebook that one processor goes through in less time than a launch or two take


def config_for(device: torch.device, width: int, precision: str) -> Config | None:
    """What all stages in one kernel take; None where the table has no row for the width."""
    return TABLES.find(capability_of(device), max_width=width, precision=precision)


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
    config = config_for(device, width, precision)
    if config is None:
        return False
    if n is None or k is None or k * width <= FEW_CODES:
        return True
    return 8 * triton.cdiv(n, config.block_n) >= processors_of(device)


def explain(device: torch.device, width: int, precision: str) -> str:
    """What the fused kernel does for a width, in one line."""
    config = config_for(device, width, precision)
    assert config is not None, "fits() was asked before"
    return (
        f"triton, one kernel for all stages: tiles of {config.block_n} vectors by {config.block_k} codes, "
        f"{config.dot} products, {config.warps} warps"
    )


def quantize_triton(
    x_ND: Tensor, keep_N: Tensor, books: Books, stages_N: Tensor | None, precision: str, config: Config | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(vectors_ND float32, index_NQ int32, error_NQ float32). Runs on CUDA, or in Triton's interpreter."""
    (n, width), q = x_ND.shape, len(books.books)
    index_NQ = torch.empty(n, q, dtype=torch.int32, device=x_ND.device)
    error_NQ = torch.empty(n, q, dtype=torch.float32, device=x_ND.device)
    vectors_ND = torch.empty(n, width, dtype=torch.float32, device=x_ND.device)
    wide, prepared = padded_width(width), books.prepared()
    config = config or config_for(x_ND.device, width, precision)
    assert config is not None, "fits() was asked before"
    spare = -width % 4 and -width % 16  # without whole runs of 16 bytes every number would have a load of its own
    if n:
        with torch.cuda.device_of(x_ND):
            code, _ = packed(widened(prepared.code_KD, spare), config.dot)
            shift_GD = None if prepared.shift_GD is None else widened(prepared.shift_GD, spare).contiguous()
            parked_ND = None
            if config.parked:  # in the memory of the vectors, which are known after it
                parked_ND = torch.empty(n, width + spare, device=x_ND.device) if spare else vectors_ND
            quantize_kernel[(triton.cdiv(n, config.block_n),)](
                widened(x_ND, spare).contiguous(),
                keep_N,
                None if stages_N is None else stages_N.contiguous(),
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
                D=width + spare,
                BLOCK_N=config.block_n,
                BLOCK_K=config.block_k,
                BLOCK_D=wide,
                BLOCK_C=min(wide, COLUMNS),
                DOT=config.dot,
                num_warps=config.warps,
                num_stages=config.stages,
            )
    lookup_triton(index_NQ, books.code_KD, books.firsts, out=vectors_ND)
    return vectors_ND, index_NQ, error_NQ


def quantize_stepwise(
    x_ND: Tensor, keep_N: Tensor, books: Books, stages_N: Tensor | None, search: Search
) -> tuple[Tensor, Tensor, Tensor]:
    """As quantize_triton, in two launches a stage: a search that splits the codebook over the GPU, and a step."""
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
                None if stages_N is None else stages_N.contiguous(),
                books.code_KD,
                index_NQ,
                error_NQ,
                n,
                first,
                stage,
                q,
                D=width,
                BLOCK_N=block_n,
                BLOCK_D=block_d,
                num_warps=warps,
            )
    return lookup_triton(index_NQ, books.code_KD, books.firsts), index_NQ, error_NQ


def lookup_triton(index_NQ: Tensor, code_KD: Tensor, offsets: Sequence[int], *, out: Tensor | None = None) -> Tensor:
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


def pull_triton(
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
