"""How nearest_code is fast on a GPU: Triton kernels that never write a score.

Plain torch writes N K scores and reads them back; this reads N D + K D (the codes once for each tile of vectors, from
L2) and writes N indices, or the vectors themselves. The inner loop after the product is one compare and two selects.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from vqmm.kernels.nearest_code import kernels
from vqmm.kernels.nearest_code.kernels import Codebooks, Doubt, Gather, Parts, Rows
from vqmm.kernels.nearest_code.plain import search_torch
from vqmm.kernels.nearest_code.prepare import Prepared
from vqmm.kernels.nearest_code.scan import pack_kernel
from vqmm.kernels.nearest_code.tables import EXACT_DOTS, Config, config_for, parts_of, supported
from vqmm.kernels.tables import capability_of

__all__ = ["search_triton", "quantize_triton", "packed", "explain", "supported", "config_for"]

BLOCK_PACK = 32
BLOCK_COMPACT = 1024


class Outputs(NamedTuple):
    """What a search writes, under the names that the kernels have for it; None where it was not asked for."""

    index_ptr: Tensor  # int32 (G, N)
    margin_ptr: Tensor | None  # float32 (G, N)
    gather: Gather | None


class Task(NamedTuple):
    """One search, as its launches share it."""

    x_GND: Tensor
    prepared: Prepared
    first_G: Tensor  # int32 (G + 1,)
    outputs: Outputs
    cosine: bool
    keep_GN: Tensor | None

    @property
    def strides(self) -> dict[str, int | None]:
        """A stride that the number of vectors decides is no compile-time matter: one vector has the stride of two."""
        n, width = self.x_GND.shape[1:]
        group, row, column = self.x_GND.stride()
        return {
            "stride_g": group,
            "stride_n": row if n > 1 else width,
            "stride_d": None if column == 1 or width == 1 else column,
        }


def processors_of(device: torch.device) -> int:
    """How many programs run at once; in the interpreter as many as make small cases split."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def starts(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each codebook starts and the last one ends, int32 (G + 1,).

    Filled on the device: a copy from the host would wait for it, and cannot be part of a CUDA graph. Not kept for the
    next call, which may be on another stream, or find that this one's memory belonged to a graph.
    """
    if len(set(sizes)) == 1:
        return torch.arange(0, sum(sizes) + 1, sizes[0], dtype=torch.int32, device=device)
    first_G = torch.zeros(len(sizes) + 1, dtype=torch.int32, device=device)
    for g in range(len(sizes)):
        first_G[g + 1].fill_(sum(sizes[: g + 1]))
    return first_G


def packed(code_KD: Tensor, dot: str) -> tuple[Tensor, Tensor | None]:
    """The codebook as scan reads it for a product, and sizes (2, K) float32: |c|, and what one TF32 product drops of c.

    "split" and "high": (K, 2 D) float32, the high part of each row and then the low part; "bf16": (K, D) bfloat16,
    whose sizes are None; else code_KD as it is.
    """
    k, width = code_KD.shape
    if dot == "bf16":
        # the interpreter cannot multiply bfloat16, and rounds as it reads
        return (code_KD.bfloat16() if code_KD.is_cuda else code_KD), None
    split_KE = torch.empty(k, 2 * width, device=code_KD.device) if dot in ("split", "high") else None
    size_2K = torch.empty(2, k, device=code_KD.device)
    pack_kernel[(triton.cdiv(k, BLOCK_PACK),)](
        code_KD, split_KE, size_2K, k, D=width, BLOCK_K=BLOCK_PACK, BLOCK_G=block_g(width)
    )
    return (code_KD if split_KE is None else split_KE), size_2K


def block_g(width: int) -> int:
    """Columns taken at a time where nothing is multiplied."""
    return min(32, max(16, triton.next_power_of_2(width)))


def limits(size_2K: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(G, 2): the longest code of each codebook, and the most that is dropped of one."""
    if len(set(sizes)) == 1:
        return size_2K.view(2, len(sizes), sizes[0]).amax(2).T.contiguous()
    return torch.stack([part.amax(1) for part in size_2K.split(list(sizes), dim=1)])


def room_for_parts(task: Task, slots: int) -> Parts:
    """Memory for what a search of the codes in parts leaves."""
    margin = task.outputs.margin_ptr is not None
    room = partial(torch.empty, len(task.x_GND), slots, device=task.x_GND.device)
    return Parts(
        best=room(),
        index=room(dtype=torch.int32),
        second=room() if margin else None,
        length=room() if margin and task.cosine else None,
    )


def search_launch(
    task: Task, code: Tensor, config: Config, *, rows: Rows | None = None, doubt: Doubt | None = None
) -> None:
    """Search all vectors, or those of `rows`: in one launch or, where there are few, in parts of the codes and a merge.

    code: as packed() makes it for the configuration. doubt: marks, whose search is in one launch.
    """
    (groups, n, width), prepared, outputs = task.x_GND.shape, task.prepared, task.outputs
    processors, k = processors_of(task.x_GND.device), max(prepared.sizes)
    tiles, programs = triton.cdiv(n, config.block_n), max(1, 2 * processors // groups)
    least = 1 if rows else tiles  # how few there may be
    split = doubt is None and parts_of(least, groups, k, config.small_k, processors) > 1
    seconds = doubt is not None or outputs.margin_ptr is not None
    grid = max(tiles, programs) if split else tiles
    parts = room_for_parts(task, grid * config.block_n) if split else Parts()
    shared: dict[str, Any] = {
        "rows": rows,
        **outputs._asdict(),
        "parts": parts,
        "N": n,
        "programs": programs,
        **task.strides,
        "D": width,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.small_k if seconds or split else config.block_k,
        "BLOCK_G": block_g(width),
    }
    kernels.search_kernel[(grid, groups)](
        task.x_GND,
        task.keep_GN,
        Codebooks(code, prepared.bias_K, prepared.shift_GD, task.first_G),
        doubt=doubt,
        BLOCK_D=config.block_d,
        DOT=config.dot,
        ALIGNED=all(sum(prepared.sizes[:g]) % 16 == 0 for g in range(groups)),
        COSINE=task.cosine,
        num_warps=config.warps,
        num_stages=config.stages,
        **shared,
    )
    if split:
        kernels.merge_kernel[(tiles, groups)](task.x_GND, task.keep_GN, task.first_G, num_warps=8, **shared)


def certified_launch(task: Task, exact: Config, fast: Config) -> None:
    """A fast search of all vectors, then an exact one of those in doubt: how many is known to the GPU alone."""
    groups, n, width = task.x_GND.shape
    code, size_2K = packed(task.prepared.code_KD, fast.dot)
    assert size_2K is not None  # a table has no bfloat16 for it
    mark_GN = torch.empty(groups, n, dtype=torch.int8, device=task.x_GND.device)
    searches = task._replace(outputs=task.outputs._replace(gather=None))
    search_launch(searches, code, fast, doubt=Doubt(limits(size_2K, task.prepared.sizes), mark_GN))
    order_GN = mark_GN.cumsum(1, dtype=torch.int32)
    rows_GN = torch.empty_like(order_GN)
    kernels.compact_kernel[(triton.cdiv(n, BLOCK_COMPACT), groups)](
        mark_GN, order_GN, rows_GN, n, BLOCK_N=BLOCK_COMPACT
    )
    if exact.dot != "split" or fast.dot != "high":  # else the parts are there
        code = packed(task.prepared.code_KD, exact.dot)[0] if exact.dot == "split" else task.prepared.code_KD
    search_launch(
        searches, code, exact, rows=Rows(rows_GN, order_GN[:, -1].clone())
    )  # a view's alignment would depend on N
    if task.outputs.gather is not None:
        kernels.gather_kernel[(triton.cdiv(n, exact.block_n), groups)](
            task.x_GND, task.keep_GN, task.first_G, task.outputs.index_ptr, task.outputs.gather, n, **task.strides,
            D=width, BLOCK_N=exact.block_n, BLOCK_G=block_g(width), num_warps=8,
        )  # fmt: skip


def search_and_gather_torch(task: Task, metric: str) -> Outputs:
    """In plain torch, where a table says that it measured faster."""
    margin = task.outputs.margin_ptr is not None
    index_GN, margin_GN = search_torch(task.x_GND, task.prepared, metric, margin)
    if task.keep_GN is not None:
        index_GN = torch.where(task.keep_GN, index_GN, 0)
    gather = task.outputs.gather
    if gather is not None:
        x_GND = task.x_GND.float()
        vectors_GND = gather.master[index_GN + task.first_G[:-1, None]]
        counts_GN = ((x_GND - x_GND).sum(2) == 0) & (True if task.keep_GN is None else task.keep_GN)
        error_GN = torch.where(counts_GN, (x_GND - vectors_GND).square().sum(2), 0.0)
        gather = gather._replace(vectors=vectors_GND, error=error_GN)
    return Outputs(index_GN, margin_GN if margin else None, gather)


def search(
    x_GND: Tensor,
    prepared: Prepared,
    metric: str,
    precision: str,
    *,
    margin: bool = False,
    master_KD: Tensor | None = None,
    keep_GN: Tensor | None = None,
) -> Outputs:
    """search_triton and quantize_triton in one. master_KD: the codes to gather; keep_GN: bool, which vectors count."""
    (groups, n, width), device = x_GND.shape, x_GND.device
    gather = None
    if master_KD is not None:
        vectors_GND, error_GN = torch.empty(groups, n, width, device=device), torch.empty(groups, n, device=device)
        gather = Gather(master_KD.float().contiguous(), vectors_GND, error_GN)
    index_GN = torch.empty(groups, n, dtype=torch.int32, device=device)
    outputs = Outputs(index_GN, torch.empty(groups, n, device=device) if margin else None, gather)
    if n == 0:
        return outputs
    keep_GN = None if keep_GN is None else keep_GN.contiguous()
    task = Task(x_GND, prepared, starts(prepared.sizes, device), outputs, metric == "cosine", keep_GN)
    with torch.cuda.device_of(x_GND):
        config, exact = chosen(groups, n, max(prepared.sizes), width, precision, device)
        if config.dot == "torch":
            return search_and_gather_torch(task, metric)
        if exact is not None:
            certified_launch(task, exact, config)
        else:
            code = packed(prepared.code_KD, config.dot)[0] if config.dot in ("split", "bf16") else prepared.code_KD
            search_launch(task, code, config)
    return outputs


def chosen(
    groups: int, n: int, k: int, width: int, precision: str, device: torch.device
) -> tuple[Config, Config | None]:
    """The configuration of the search and, where it is searched again what is in doubt, that of the exact one."""
    return choose(groups, n, k, width, precision, capability_of(device), processors_of(device))


def choose(
    groups: int, n: int, k: int, width: int, precision: str, capability: tuple[int, int], processors: int
) -> tuple[Config, Config | None]:
    """As chosen, for a GPU that need not be there."""
    config = config_for(width, k, precision, capability)
    if precision != "certified" or config.dot in (*EXACT_DOTS, "torch"):
        return config, None
    exact = config_for(width, k, "exact", capability)
    if exact.dot == "torch" or parts_of(-(-n // exact.block_n), groups, k, exact.small_k, processors) > 1:
        return exact, None  # so few vectors that a second search would cost more than it saves
    return config, exact


def search_triton(
    x_GND: Tensor, prepared: Prepared, metric: str, precision: str, margin: bool
) -> tuple[Tensor, Tensor]:
    """The nearest code of every vector, on CUDA or in Triton's interpreter.

    Args:
        x_GND: (G, N, D), any floating type, any strides.
        prepared: the G codebooks.
        metric: as in nearest_code.
        precision: with C = max |c'|: "exact": each score is off by at most (D + 16) 2^-22 (|x'| C + C^2 / 2);
            "fast": that and, for the one product, 2^-9 |x'| C (TF32) or 2^-7.9 |x'| C (bfloat16), as explain() says;
            "certified": the indices of "exact".
        margin: also say how far ahead the best score is.

    Returns:
        int32 (G, N), and float32 (G, N): best score minus second best ("cosine": of unit vectors), inf with no second,
        0 for a vector with no finite score; empty without margin. After "certified" a margin that was not in doubt is
        that of the fast search.
    """
    outputs = search(x_GND, prepared, metric, precision, margin=margin)
    none = x_GND.new_empty(0, dtype=torch.float32)
    return outputs.index_ptr, none if outputs.margin_ptr is None else outputs.margin_ptr


def quantize_triton(
    x_GND: Tensor, code_KD: Tensor, prepared: Prepared, metric: str, precision: str, keep_GN: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As search_triton, with the codes themselves: (index (G, N), vectors (G, N, D), error (G, N)).

    vectors are rows of code_KD to the bit; error is |x - c|^2 as the direct sum, float32. Vectors that keep_GN (bool)
    leaves out have index 0 and error 0; those with a NaN or Inf too.
    """
    outputs = search(x_GND, prepared, metric, precision, master_KD=code_KD, keep_GN=keep_GN)
    assert outputs.gather is not None
    return outputs.index_ptr, outputs.gather.vectors, outputs.gather.error


def explain(n: int, k: int, width: int, precision: str, capability: tuple[int, int], processors: int = 132) -> str:
    """Which kernel, tile and split a search takes, in one line."""
    config, exact = choose(1, n, k, width, precision, capability, processors)
    if config.dot == "torch":
        return f"plain torch, {precision}: a product and an argmax, in chunks (measured faster here)"
    parts = 1 if exact else parts_of(-(-n // config.block_n), 1, k, config.small_k, processors)
    what = "vectors stay on chip" if config.block_d >= width else f"D taken {config.block_d} at a time"
    again = f"; in doubt searched again by {exact.dot}" if exact else ""
    return (
        f"triton, {precision}: {config.dot} products, tiles of {config.block_n} x {config.block_k}, {what}, "
        f"{config.warps} warps, {config.stages} stages, codes in {parts} part(s){again}; "
        f"{'measured' if config.measured else 'not measured'} on this kind of GPU"
    )
