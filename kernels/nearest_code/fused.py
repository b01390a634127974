"""How nearest_code is fast on a GPU: Triton kernels that never write a score.

Plain torch writes N K scores and reads them back; this reads N D + K D (the codes once for each tile of vectors, from
L2) and writes N indices, or the vectors themselves. The inner loop after the product is one compare and two selects.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from vqmm.kernels.nearest_code import launch
from vqmm.kernels.nearest_code.prepare import Prepared
from vqmm.kernels.nearest_code.scan import pack_kernel
from vqmm.kernels.nearest_code.tables import EXACT_DOTS, Config, config_for, parts_of, supported

__all__ = ["search_triton", "quantize_triton", "packed", "explain", "supported", "config_for"]

BLOCK_PACK = 32
BLOCK_COMPACT = 1024


class Found(NamedTuple):
    """What a search leaves; empty where it was not asked for."""

    index_GN: Tensor
    margin_GN: Tensor
    vectors_GND: Tensor
    error_GN: Tensor


class Task(NamedTuple):
    """One search, as its launches share it."""

    x_GND: Tensor
    prepared: Prepared
    first_G: Tensor  # int32 (G + 1,)
    found: Found
    cosine: bool
    keep_GN: Tensor | None
    master_KD: Tensor | None  # the codes to gather; None: no vectors

    @property
    def strides(self) -> dict[str, Any]:
        """A stride that the number of vectors decides is no compile-time matter: one vector has the stride of two."""
        n, width = self.x_GND.shape[1:]
        group, row, far = self.x_GND.stride()
        return {
            "stride_g": group,
            "stride_n": row if n > 1 else width,
            "stride_far": far,
            "DENSE": far == 1 or width == 1,
        }


class Second(NamedTuple):
    """A search of a selection: of each group g the vectors rows[g, :count[g]]."""

    rows_GN: Tensor
    count_G: Tensor


def capability_of(device: torch.device) -> tuple[int, int]:
    """Of the GPU; the interpreter works as the largest there is a table for."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


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


def packed(code_KD: Tensor, dot: str) -> tuple[Tensor, Tensor]:
    """The codebook as scan reads it for a product, and sizes (2, K) float32: |c|, and what one TF32 product drops of c.

    "split" and "high": (K, 2 D) float32, the high part of each row and then the low part; "bf16": (K, D) bfloat16; else
    code_KD as it is. The second is empty for "bf16".
    """
    k, width = code_KD.shape
    if dot == "bf16":
        # the interpreter cannot multiply bfloat16, and rounds as it reads
        return (code_KD.bfloat16() if code_KD.is_cuda else code_KD), code_KD.new_empty(0)
    dot = "split" if dot == "high" else dot
    out = torch.empty(k, 2 * width, device=code_KD.device) if dot == "split" else code_KD
    size_2K = torch.empty(2, k, device=code_KD.device)
    pack_kernel[(triton.cdiv(k, BLOCK_PACK),)](
        code_KD, out, size_2K, k, D=width, BLOCK_K=BLOCK_PACK, BLOCK_G=block_g(width), DOT=dot
    )
    return out, size_2K


def block_g(width: int) -> int:
    """Columns taken at a time where nothing is multiplied."""
    return min(32, max(16, triton.next_power_of_2(width)))


def limits(size_2K: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(G, 2): the longest code of each codebook, and the most that is dropped of one."""
    if len(set(sizes)) == 1:
        return size_2K.view(2, len(sizes), sizes[0]).amax(2).T.contiguous()
    return torch.stack([part.amax(1) for part in size_2K.split(list(sizes), dim=1)])


def search_launch(
    task: Task,
    code: Tensor,
    config: Config,
    *,
    margin: bool,
    gather: bool,
    second: Second | None = None,
    certify: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Search all vectors, or those of `second`; certify: the limits, and int8 (G, N) to mark what is in doubt."""
    (groups, n, width), device, sizes = task.x_GND.shape, task.x_GND.device, task.prepared.sizes
    tiles, k = triton.cdiv(n, config.block_n), max(sizes)
    programs = max(1, 2 * processors_of(device) // groups)
    least = 1 if second else tiles  # how few there may be
    split = certify is None and parts_of(least, groups, k, config.small_k, processors_of(device)) > 1
    if margin or certify is not None or split:
        config = config._replace(block_k=config.small_k)
    grid = max(tiles, programs) if split else tiles
    slots = grid * config.block_n
    part_best, part_index, part_second = (
        torch.empty(groups * slots if wanted else 0, dtype=dtype, device=device)
        for wanted, dtype in ((split, torch.float32), (split, torch.int32), (split and margin, torch.float32))
    )
    common: dict[str, Any] = {
        "x_ptr": task.x_GND,
        "first_ptr": task.first_G,
        "rows_ptr": second.rows_GN if second else task.first_G,
        "count_ptr": second.count_G if second else task.first_G,
        "keep_ptr": task.first_G if task.keep_GN is None else task.keep_GN,
        "master_ptr": task.master_KD if gather else task.first_G,
        "index_ptr": task.found.index_GN,
        "margin_ptr": task.found.margin_GN,
        "vectors_ptr": task.found.vectors_GND,
        "error_ptr": task.found.error_GN,
        "part_best_ptr": part_best,
        "part_index_ptr": part_index,
        "part_second_ptr": part_second,
        "N": n,
        "programs": programs,
        "slots": slots,
        "D": width,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "BLOCK_G": block_g(width),
        "COSINE": task.cosine,
        "ROWS": second is not None,
        "KEPT": task.keep_GN is not None,
        "MARGIN": margin,
        "GATHER": gather,
        **task.strides,
    }
    aligned = all(sum(sizes[:g]) % 16 == 0 for g in range(groups))
    launch.search_kernel[(grid, groups)](
        code_ptr=code,
        bias_ptr=task.prepared.bias_K,
        shift_ptr=task.first_G if task.prepared.shift_GD is None else task.prepared.shift_GD,
        limit_ptr=certify[0] if certify else task.first_G,
        doubt_ptr=certify[1] if certify else task.first_G,
        BLOCK_D=config.block_d,
        DOT=config.dot,
        ALIGNED=aligned,
        SHIFTED=task.prepared.shift_GD is not None,
        SPLIT=split,
        CERTIFY=certify is not None,
        num_warps=config.warps,
        num_stages=config.stages,
        **common,
    )
    if split:
        launch.merge_kernel[(tiles, groups)](**common, num_warps=8)


def certified_launch(task: Task, exact: Config, fast: Config, *, margin: bool) -> None:
    """A fast search of all vectors, then an exact one of those in doubt: how many is known to the GPU alone."""
    groups, n, _ = task.x_GND.shape
    code, size_2K = packed(task.prepared.code_KD, fast.dot)
    doubt_GN = torch.empty(groups, n, dtype=torch.int8, device=task.x_GND.device)
    limit_G2 = limits(size_2K, task.prepared.sizes)
    search_launch(task, code, fast, margin=margin, gather=False, certify=(limit_G2, doubt_GN))
    order_GN = doubt_GN.cumsum(1, dtype=torch.int32)
    rows_GN = torch.empty_like(order_GN)
    launch.compact_kernel[(triton.cdiv(n, BLOCK_COMPACT), groups)](
        doubt_GN, order_GN, rows_GN, n, BLOCK_N=BLOCK_COMPACT
    )
    if exact.dot != "split" or fast.dot != "high":  # else the parts are there
        code, _ = packed(task.prepared.code_KD, exact.dot) if exact.dot == "split" else (task.prepared.code_KD, None)
    second = Second(rows_GN, order_GN[:, -1].contiguous())
    search_launch(task, code, exact, margin=margin, gather=False, second=second)
    if task.master_KD is not None:
        width = task.x_GND.shape[2]
        launch.gather_kernel[(triton.cdiv(n, exact.block_n), groups)](
            task.x_GND, task.first_G, task.first_G if task.keep_GN is None else task.keep_GN, task.master_KD,
            task.found.index_GN, task.found.vectors_GND, task.found.error_GN, n, D=width, BLOCK_N=exact.block_n,
            BLOCK_G=block_g(width), KEPT=task.keep_GN is not None, **task.strides,
            num_warps=8,
        )  # fmt: skip


def plain(task: Task, metric: str, margin: bool) -> Found:
    """The unfused path, where a table says that it measured faster."""
    from vqmm.kernels.nearest_code.reference import search_baseline

    index_GN, margin_GN = search_baseline(task.x_GND, task.prepared, metric, margin)
    if task.keep_GN is not None:
        index_GN = torch.where(task.keep_GN, index_GN, 0)
    if task.master_KD is None:
        return task.found._replace(index_GN=index_GN, margin_GN=margin_GN)
    x_GND = task.x_GND.float()
    vectors_GND = task.master_KD[index_GN + task.first_G[:-1, None]]
    counts_GN = ((x_GND - x_GND).sum(2) == 0) & (True if task.keep_GN is None else task.keep_GN)
    error_GN = torch.where(counts_GN, (x_GND - vectors_GND).square().sum(2), 0.0)
    return Found(index_GN, margin_GN, vectors_GND, error_GN)


def search(
    x_GND: Tensor,
    prepared: Prepared,
    metric: str,
    precision: str,
    *,
    margin: bool = False,
    master_KD: Tensor | None = None,
    keep_GN: Tensor | None = None,
) -> Found:
    (groups, n, width), device = x_GND.shape, x_GND.device
    gather = master_KD is not None
    found = Found(
        torch.empty(groups, n, dtype=torch.int32, device=device),
        torch.empty((groups, n) if margin else 0, device=device),
        torch.empty((groups, n, width) if gather else 0, device=device),
        torch.empty((groups, n) if gather else 0, device=device),
    )
    if n == 0:
        return found
    keep_GN = None if keep_GN is None else keep_GN.contiguous()
    master_KD = None if master_KD is None else master_KD.float().contiguous()
    first_G = starts(prepared.sizes, device)
    task = Task(x_GND, prepared, first_G, found, metric == "cosine", keep_GN, master_KD)
    with torch.cuda.device_of(x_GND):
        config, exact = chosen(groups, n, max(prepared.sizes), width, precision, device)
        if config.dot == "unfused":
            return plain(task, metric, margin)
        if exact is not None:
            certified_launch(task, exact, config, margin=margin)
        else:
            code = prepared.code_KD
            if config.dot in ("split", "bf16"):
                code, _ = packed(code, config.dot)
            search_launch(task, code, config, margin=margin, gather=gather)
    return found


def chosen(
    groups: int, n: int, k: int, width: int, precision: str, device: torch.device
) -> tuple[Config, Config | None]:
    """The configuration of the search and, where it is searched again what is in doubt, that of the exact one."""
    return choose(groups, n, k, width, precision, capability_of(device), processors_of(device))


def choose(
    groups: int, n: int, k: int, width: int, precision: str, capability: tuple[int, int], processors: int
) -> tuple[Config, Config | None]:
    config = config_for(width, k, precision, capability)
    if precision != "certified" or config.dot in (*EXACT_DOTS, "unfused"):
        return config, None
    exact = config_for(width, k, "exact", capability)
    if exact.dot == "unfused" or parts_of(-(-n // exact.block_n), groups, k, exact.small_k, processors) > 1:
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
    found = search(x_GND, prepared, metric, precision, margin=margin)
    return found.index_GN, found.margin_GN


def quantize_triton(
    x_GND: Tensor, code_KD: Tensor, prepared: Prepared, metric: str, precision: str, keep_GN: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As search_triton, with the codes themselves: (index (G, N), vectors (G, N, D), error (G, N)).

    vectors are rows of code_KD to the bit; error is |x - c|^2 as the direct sum, float32. Vectors that keep_GN (bool)
    leaves out have index 0 and error 0; those with a NaN or Inf too.
    """
    found = search(x_GND, prepared, metric, precision, master_KD=code_KD, keep_GN=keep_GN)
    return found.index_GN, found.vectors_GND, found.error_GN


def explain(n: int, k: int, width: int, precision: str, capability: tuple[int, int], processors: int = 132) -> str:
    """Which kernel, tile and split a search takes, in one line."""
    config, exact = choose(1, n, k, width, precision, capability, processors)
    if config.dot == "unfused":
        return f"unfused, {precision}: a plain product and an argmax, in chunks (measured faster here)"
    parts = 1 if exact else parts_of(-(-n // config.block_n), 1, k, config.small_k, processors)
    what = "vectors stay on chip" if config.block_d >= width else f"D taken {config.block_d} at a time"
    again = f"; in doubt searched again by {exact.dot}" if exact else ""
    return (
        f"triton, {precision}: {config.dot} products, tiles of {config.block_n} x {config.block_k}, {what}, "
        f"{config.warps} warps, {config.stages} stages, codes in {parts} part(s){again}; "
        f"{'measured' if config.measured else 'not measured'} on this kind of GPU"
    )
