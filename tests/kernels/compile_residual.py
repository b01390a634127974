"""Compile every configuration of residual_quantize's Triton kernels for GPUs that need not be there; JSON comes out.

A script of its own, because Triton's interpreter (which the other tests use) and its compiler cannot share a process.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vqmm.kernels.residual_quantize.fused import AMPERE, COLUMNS, HOPPER, LOOKUP, STEP, Config
from vqmm.kernels.residual_quantize.launch import lookup_kernel, pull_kernel, step_kernel, walk_kernel

TYPES = {"keep_ptr": "*i1", "used_ptr": "*i64", "index_ptr": "*i32", "N": "i32", "index_row": "i32"}
TYPES |= {"found_ptr": "*i32", "first": "i32", "q": "i32", "Q": "i32"}
STACK = {"FIRST": (0, 1024, 1536), "SIZE": (1024, 512, 512), "BOOK": (0, 1, 2)}
EQUAL = {"FIRST": (0, 1024, 2048), "SIZE": (1024, 1024, 1024), "BOOK": (0, 1, 2)}  # the compiler sees: no tail


def spilled(ptx: str, capability: int) -> tuple[int, int]:
    """Registers that ptxas gives a thread, and bytes that it spills, stores and loads."""
    arch = f"sm_{capability}a" if capability == 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={arch}", str(source), "-o", f"{folder}/out"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = max(int(n) for n in re.findall(r"Used (\d+) registers", said))
    return registers, sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))


def built(kernel: Any, constants: dict, capability: int, warps: int, stages: int) -> dict[str, object]:
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {name: TYPES.get(name, "*fp32") for name in names}
    order = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name.endswith("_ptr")}
    made = triton.compile(
        ASTSource(kernel, signature=order, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    registers, spills = spilled(made.asm["ptx"], capability)
    return {
        "kernel": kernel.__name__,
        "capability": capability,
        "registers": registers,
        "spilled": spills,
        "shared": made.metadata.shared,
        "tensor_core": sorted(set(re.findall(r"(wgmma\.mma_async|mma\.sync)\S*?(tf32|bf16)", made.asm["ptx"]))),
    }


def walk(
    width: int, config: Config, capability: int, used: bool, shifted: bool = True, stack: dict = STACK
) -> dict[str, object]:
    block_d = max(16, triton.next_power_of_2(width))
    blocks = {
        "D": width,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "BLOCK_D": block_d,
        "DOT": config.dot,
    }
    blocks["BLOCK_C"] = min(block_d, COLUMNS)
    constants = {**stack, "USED": used, "SHIFTED": shifted, "PARKED": config.parked, **blocks}
    found = built(walk_kernel, constants, capability, config.warps, config.stages)
    return {"width": width, "config": list(config), "used": used, **found}


def all_of_them() -> Iterator[dict[str, object]]:
    for capability, tables in ((80, AMPERE), (90, HOPPER)):
        for table in tables.values():
            for width, config in table.items():
                if table is tables["certified"] and config == tables["exact"].get(width):
                    continue  # compiled already
                yield walk(width, config, capability, used=True)
                yield walk(width - 4, config, capability, used=False)  # no power of two; odd widths are widened
                yield walk(width, config, capability, used=False, stack=EQUAL)
        for width in (8, 100, 512):
            for kernel, (block_n, block_d, warps), constants in (
                (lookup_kernel, LOOKUP, {"FIRST": STACK["FIRST"]}),
                (pull_kernel, LOOKUP, {"FIRST": STACK["FIRST"]}),
                (step_kernel, STEP, {"USED": True}),
            ):
                blocks = {**constants, "D": width, "BLOCK_N": block_n, "BLOCK_D": block_d}
                yield built(kernel, blocks, capability, warps, 3)


class NoGPU:
    """What Triton asks of a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def variants() -> list[int]:
    """How many kernels the launches of several batch sizes compile; nothing is run."""
    triton.runtime.driver.set_active(NoGPU())
    float32, int32, boolean = torch.float32, torch.int32, torch.bool
    config = HOPPER["exact"][16]
    for n in (1, 16, 17, 48_000):
        walked = (float32, boolean, boolean, *[float32] * 4, int32, float32, float32)
        blocks = {"BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "BLOCK_D": 16, "BLOCK_C": 16, "DOT": config.dot}
        options = {"num_warps": config.warps, "num_stages": config.stages, "grid": (1,)}
        walk_kernel.warmup(*walked, n, **STACK, USED=False, SHIFTED=True, PARKED=False, D=8, **blocks, **options)
        stepped = (float32, int32, boolean, boolean, float32, int32, float32)
        for q in range(3):
            step_kernel.warmup(*stepped, n, 16 * q, q, 3, USED=False, D=8, BLOCK_N=16, BLOCK_D=16, grid=(1,))
    return [len(kernel.device_caches[0][0]) for kernel in (walk_kernel, step_kernel)]


if __name__ == "__main__":
    json.dump({"kernels": list(all_of_them()), "variants": variants()}, sys.stdout)
