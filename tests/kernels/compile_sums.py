"""Compile the kernels of code_sums and update_codebook_ for GPUs that need not be there; print what came out as JSON.

A script of its own, because Triton's interpreter (which the other tests use) and its compiler cannot share a process.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from vqmm.kernels.code_sums import fused as sums
from vqmm.kernels.code_sums import onehot
from vqmm.kernels.update_codebook import fused as update

WIDTHS = (1, 8, 17, 64, 256, 1024)
SIZES = (1024, 100, 4096)


def resources(ptx: str, capability: int) -> dict[str, int]:
    """Registers a thread, and bytes that ptxas spills, stores and loads."""
    arch = f"sm_{capability}a" if capability == 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={arch}", str(source), "-o", f"{folder}/out"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill", said)),
        "registers": max(int(n) for n in re.findall(r"Used (\d+) registers", said)),
    }


def built(
    kernel: Any, types: dict[str, str], constants: dict[str, object], warps: int, capability: int
) -> dict[str, object]:
    """types: of the arguments that are not constants; pointers are taken to be aligned, as torch's memory is."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    assert set(types) | set(constants) == set(signature)
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")}
    made = triton.compile(
        ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps},
    )
    ptx = made.asm["ptx"]
    return {
        "kernel": kernel.fn.__name__,
        "width": constants.get("D"),
        "packed": constants.get("PACKED"),
        "capability": capability,
        "shared": made.metadata.shared,
        "wide_loads": len(re.findall(r"ld\.global\S*\.v[24]\.", ptx)),
        "tensor_core": sorted(set(re.findall(r"(wgmma\.mma_async|mma\.sync)\S*(bf16)", ptx))),
        "atomics": len(re.findall(r"\b(?:atom|red)\.", ptx)),
        **resources(ptx, capability),
    }


def configurations(width: int) -> Iterator[tuple[Any, dict[str, str], dict[str, object], int]]:
    rows, block_d, warps = sums.config_for(width)
    where = {"N": "i32", "x_g": "i32", "x_n": "i32", "x_d": "i32"}
    tile = {"D": width, "BLOCK_D": block_d}
    walk = {"sorted_ptr": "*i16", "start_ptr": "*i32", "sums_ptr": "*fp32", "partial_ptr": "*fp32", "K": "i32"}
    slots = {"x_ptr": "*bf16", "index_ptr": "*i32", "keep_ptr": "*u8", "slot_ptr": "*i16", **where}
    flags = {"PACKED": True, "HAS_KEEP": True, "ONLY_FINITE": True, "SIZES": SIZES}
    yield sums.slot_kernel, slots, {**tile, **flags, "K": sum(SIZES), "BLOCK_N": rows}, warps
    for x, packed in (("*fp32", True), ("*bf16", False)):
        types = {"x_ptr": x, "order_ptr": "*i64", **walk, **where}
        yield sums.add_kernel, types, {**tile, "PACKED": packed, "ROWS": rows, "ITEM": sums.ITEM}, warps
    yield sums.fold_kernel, walk, {**tile, "ROWS": rows, "ITEM": sums.ITEM}, warps
    types = {"x_ptr": "*fp32", "slot_ptr": "*i16", "count_ptr": "*i32", "partial_ptr": "*fp32", **where}
    types |= {"M": "i32", "K": "i32", "tiles": "i32"}
    blocks = {"BLOCK_N": onehot.BLOCK_N, "BLOCK_K": onehot.BLOCK_K, "BLOCK_D": onehot.width_of_tile(width)}
    product = {"PACKED": True, "PARTS": 3, "PRODUCT": onehot.PRODUCT}
    yield onehot.onehot_kernel, types, {**product, "D": width, **blocks}, onehot.WARPS
    block_k, block_d, warps = update.tile_for(width)
    pointers = ("code_ptr", "ema_count_ptr", "ema_sum_ptr", "sum_ptr", "total_ptr", "perplexity_ptr")
    types = dict.fromkeys(pointers, "*fp32")
    types |= {"count_ptr": "*i64", "decay_ptr": "*fp64", "dead_ptr": "*u8", "epsilon": "fp32", "dead_below": "fp32"}
    yield (
        update.update_kernel,
        types,
        {"SIZES": SIZES, "TILES": 4, "PARTS": 4, "NORMALISE": True, "D": width, "BLOCK_K": block_k, "BLOCK_D": block_d},
        warps,
    )


def everything() -> Iterator[dict[str, object]]:
    totals = {"count_ptr": "*i64", "ema_ptr": "*fp32", "decay_ptr": "*fp64", "total_ptr": "*fp32"}
    for capability in (80, 90):
        yield built(update.totals_kernel, totals, {"SIZES": SIZES, "BLOCK": update.TOTALS}, 4, capability)
        for width in WIDTHS:
            for kernel, types, constants, warps in configurations(width):
                yield built(kernel, types, constants, warps, capability)


class AbsentGPU:
    """As much of a driver as it takes to compile for a GPU, through the functions that would launch."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def variants() -> dict[str, list[int]]:
    """How many compiled variants of each kernel there are after each of several numbers of vectors."""
    seen: dict[str, set[int]] = defaultdict(set)
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        seen[self.fn.__name__].add(id(run(self, *args, grid=grid, warmup=True, **kwargs)))

    triton.runtime.driver.set_active(AbsentGPU())
    torch.cuda.device_of = lambda tensor: contextlib.nullcontext()
    JITFunction.run = compile_only
    counted = defaultdict(list)
    K, width = sum(SIZES[:2]), 24
    masters = [torch.ones(K, width), torch.ones(K), torch.ones(K, width), torch.ones(K).long(), torch.ones(K, width)]
    for n in (257, 1, 2, 16, 1000, 4096):
        index = torch.zeros(2, n, dtype=torch.int32)
        for x in (torch.zeros(2, n, width), torch.zeros(2, width, n).mT if n > 1 else torch.zeros(2, 1, 48)[..., ::2]):
            for path in (sums.sums_by_items, onehot.sums_by_onehot):
                path(x, index, index == 0, SIZES[:2], True)
        update.update_fused_(*masters, torch.tensor(1 / n).double(), 1e-5, 0.0, True, SIZES[:2])
        for name, made in seen.items():
            counted[name].append(len(made))
    return counted


if __name__ == "__main__":
    json.dump({"kernels": list(everything()), "variants": variants()}, sys.stdout)
