"""Compile every configuration of codebook_softmax for GPUs that need not be there, and print what came out as JSON.

A script of its own, because Triton's interpreter (which the other tests use) and its compiler cannot share a process.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vqmm.kernels.codebook_softmax import fused, walks
from vqmm.kernels.codebook_softmax.fused import Tiles, tiles_for

SIGNATURE = {
    "keep_ptr": "*u8",
    "rate_ptr": "*fp32",
    **dict.fromkeys(("target_ptr", "row_ptr", "column_ptr", "index_ptr"), "*i32"),
    **dict.fromkeys(("N", "K", "WIDTH", "SHARE"), "i32"),
}
FLAGS = ("GRAD", "NOISE", "TARGET", "VECTORS", "ENTROPY", "CROSS", "USAGE")

LEAST = [(name, ()) for name in Tiles._fields if name != "backward_x"] + [
    ("backward_x", ("GRAD",)),
    ("backward_x", ("USAGE",)),
]


def spilled(ptx: str, capability: int) -> int:
    """Bytes that ptxas spills, stores and loads."""
    arch = f"sm_{capability}a" if capability == 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={arch}", str(source), "-o", f"{folder}/out"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))


def built(name: str, width: int, capability: int, precision: str, asked: Sequence[str] = FLAGS) -> dict[str, object]:
    """One kernel with the outputs and gradients asked for: all of them, and noise, is the most that it ever holds."""
    kernel, tile = getattr(walks, f"{name}_kernel"), getattr(tiles_for(width, precision, divmod(capability, 10)), name)
    values = {"D": width, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, "PRODUCT": fused.PRODUCTS[precision]}
    values |= {flag: flag in asked for flag in FLAGS}
    constants = {argument: values[argument] for argument in kernel.arg_names if argument in values}
    signature = {a: "constexpr" if a in constants else SIGNATURE.get(a, "*fp32") for a in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if a.endswith("_ptr")}
    done = triton.compile(
        ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": fused.WARPS, "num_stages": fused.STAGES},
    )
    ptx = done.asm["ptx"]
    return {
        "kernel": name,
        "capability": capability,
        "width": width,
        "precision": precision,
        "tile": list(tile),
        "shared": done.metadata.shared,
        "spilled": spilled(ptx, capability),
        "tensor_core": sorted(set(re.findall(r"(wgmma\.mma_async|mma\.sync)\S*(tf32)", ptx))),
    }


if __name__ == "__main__":
    wanted = [
        (name, width, capability, precision)
        for capability, table in ((80, fused.OTHERS), (90, fused.HOPPER))
        for precision in table
        for width in table[precision]
        for name in Tiles._fields
    ]
    least = [(name, 16, 90, "exact", asked) for name, asked in LEAST]
    json.dump([built(*w) for w in (*least, *wanted)], sys.stdout)
