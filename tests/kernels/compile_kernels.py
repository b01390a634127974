"""Compile every configuration of the Triton kernels for GPUs that need not be there, and print what came out as JSON.

A script of its own, because Triton's interpreter (which the other tests use) and its compiler cannot share a process.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vqmm.kernels.nearest_code.fused import config_for, nearest_code_kernel, padded_width

POINTERS = {"x_ptr": "*fp32", "code_ptr": "*fp32", "bias_ptr": "*fp32", "index_ptr": "*i32"}
WIDTHS = (1, 16, 17, 33, 65, 100, 129, 200, 256, 257, 513, 1024)


def spilled(ptx: str, capability: int) -> int:
    """Bytes that ptxas spills, stores and loads."""
    arch = f"sm_{capability}a" if capability == 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={arch}", str(source), "-o", f"{folder}/out"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))


def built(width: int, capability: int) -> dict[str, object]:
    config = config_for(width, divmod(capability, 10))
    blocks = {"D": width, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "BLOCK_D": config.block_d}
    signature = {**POINTERS, "N": "i32", "K": "i32", **dict.fromkeys(blocks, "constexpr")}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(POINTERS))}
    kernel = triton.compile(
        ASTSource(nearest_code_kernel, signature=signature, constexprs=blocks, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": config.warps, "num_stages": config.stages},
    )
    ptx = kernel.asm["ptx"]
    return {
        "capability": capability,
        "width": width,
        "config": list(config),
        "shared": kernel.metadata.shared,
        "spilled": spilled(ptx, capability),
        "tensor_core": sorted(set(re.findall(r"(wgmma\.mma_async|mma\.sync)\S*(tf32)", ptx))),
    }


if __name__ == "__main__":
    widths = sorted({padded_width(width) for width in WIDTHS})
    json.dump([built(width, capability) for capability in (80, 90) for width in widths], sys.stdout)
