"""Compile the kernels of nearest_code for GPUs that need not be there, and print what came out as JSON.

Every row of every table, with each set of flags that changes what its inner loop holds. A script of its own, because
Triton's interpreter (which the other tests use) and its compiler cannot share a process.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vqmm.kernels.nearest_code import launch
from vqmm.kernels.nearest_code.fused import block_g
from vqmm.kernels.nearest_code.scan import pack_kernel
from vqmm.kernels.nearest_code.tables import ANY, FOLDER, Config, read_table

# Tables, the GPUs they are compiled for, and the shared memory of the least of those they serve, in KiB.
TABLES = (("sm_80.json", 80, 163), ("sm_90.json", 90, 227), ("default.json", 80, 99))
SCALARS = {"N": "i32", "stride_g": "i32", "stride_n": "i32", "stride_far": "i32", "programs": "i32", "slots": "i32"}
POINTERS = {
    "x_ptr": "*fp32", "code_ptr": "*fp32", "bias_ptr": "*fp32", "shift_ptr": "*fp32", "first_ptr": "*i32",
    "limit_ptr": "*fp32", "rows_ptr": "*i32", "count_ptr": "*i32", "keep_ptr": "*i1", "master_ptr": "*fp32",
    "index_ptr": "*i32", "margin_ptr": "*fp32", "vectors_ptr": "*fp32", "error_ptr": "*fp32", "doubt_ptr": "*i8",
    "part_best_ptr": "*fp32", "part_index_ptr": "*i32", "part_second_ptr": "*fp32", "order_ptr": "*i32",
    "packed_ptr": "*fp32", "size_ptr": "*fp32",
}  # fmt: skip
OFF = dict.fromkeys(("SHIFTED", "COSINE", "ROWS", "SPLIT", "CERTIFY", "KEPT", "MARGIN", "GATHER"), False)
QUANTIZE = {**OFF, "DENSE": True, "ALIGNED": True, "SHIFTED": True, "KEPT": True, "GATHER": True}
MARGIN = {**OFF, "DENSE": False, "ALIGNED": False, "COSINE": True, "MARGIN": True}
CERTIFY = {**OFF, "DENSE": True, "ALIGNED": True, "SHIFTED": True, "CERTIFY": True}
CERTIFY_MARGIN = {**MARGIN, "CERTIFY": True}
SPLIT_MARGIN = {**MARGIN, "SPLIT": True}
AGAIN = {**OFF, "DENSE": True, "ALIGNED": True, "SHIFTED": True, "ROWS": True, "SPLIT": True}
AGAIN_MARGIN = {**MARGIN, "ROWS": True, "SPLIT": True}


def flags_of(row: Config) -> dict[str, dict[str, bool]]:
    """The sets of flags that a row is launched with, the heaviest of each kind."""
    if row.precision == "certified" and row.dot in ("high", "tf32"):
        return {"certify": CERTIFY, "certify, margin": CERTIFY_MARGIN}
    if row.precision == "exact":
        return {"quantize": QUANTIZE, "again, split": AGAIN, "again, split, margin": AGAIN_MARGIN}
    return {"quantize": QUANTIZE, "margin": MARGIN, "split, margin": SPLIT_MARGIN}


def assembled(ptx: str, capability: int) -> dict[str, int]:
    """What ptxas says: registers, and bytes spilled, stores and loads."""
    arch = f"sm_{capability}a" if capability == 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={arch}", str(source), "-o", f"{folder}/out"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = max(int(n) for n in re.findall(r"Used (\d+) registers", said))
    return {"registers": registers, "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))}


def compiled(kernel: Any, capability: int, constants: dict[str, Any], types: dict[str, str], **options: int) -> dict:
    types = {**POINTERS, **SCALARS, "K": "i32", **types, **dict.fromkeys(constants, "constexpr")}
    signature = {name: types[name] for name in kernel.arg_names}
    aligned = [i for i, name in enumerate(kernel.arg_names) if name.endswith("_ptr") or name == "stride_n"]
    made = triton.compile(
        ASTSource(
            kernel,
            signature=signature,
            constexprs={name: constants[name] for name in kernel.arg_names if name in constants},
            attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
        ),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    tensor_core = sorted(set(re.findall(r"(wgmma\.mma_async|mma\.sync)\S*?(tf32|bf16)", made.asm["ptx"])))
    return {"shared": made.metadata.shared, "tensor_core": tensor_core, **assembled(made.asm["ptx"], capability)}


def search(table: str, capability: int, number: int, what: str, x_type: str = "*fp32") -> dict[str, Any]:
    row, limit = read_table(FOLDER / table)[number], next(kib for name, _, kib in TABLES if name == table)
    flags = flags_of(row)[what]
    block_k = row.small_k if flags["MARGIN"] or flags["CERTIFY"] or flags["SPLIT"] else row.block_k
    width = min(row.max_width, 1024 if row.max_width == ANY else row.max_width)
    constants = {
        "D": width, "BLOCK_N": row.block_n, "BLOCK_K": block_k, "BLOCK_D": row.block_d, "BLOCK_G": block_g(width),
        "DOT": row.dot, **flags,
    }  # fmt: skip
    types = {"x_ptr": x_type, "code_ptr": "*bf16" if row.dot == "bf16" else "*fp32"}
    made = compiled(launch.search_kernel, capability, constants, types, num_warps=row.warps, num_stages=row.stages)
    return {
        "kernel": "search",
        "table": table,
        "dot": row.dot,
        "row": list(row),
        "flags": what,
        "capability": capability,
        "limit": limit * 1024,
        **made,
    }


def others(capability: int) -> list[dict[str, Any]]:
    """The kernels around the search, whose tiles no table chooses."""
    flags = {"DENSE": False, "KEPT": True}
    blocks = {"D": 200, "BLOCK_N": 128, "BLOCK_G": block_g(200)}
    merge = {**blocks, **flags, "BLOCK_K": 64, "COSINE": True, "ROWS": True, "MARGIN": True, "GATHER": True}
    pack = {"D": 200, "BLOCK_K": 32, "BLOCK_G": block_g(200)}
    kernels = {
        "merge": (launch.merge_kernel, merge),
        "gather": (launch.gather_kernel, {**blocks, **flags}),
        "compact": (launch.compact_kernel, {"BLOCK_N": 1024}),
        "pack split": (pack_kernel, {**pack, "DOT": "split"}),
        "pack tf32": (pack_kernel, {**pack, "DOT": "tf32"}),
    }
    return [
        {
            "kernel": name,
            "capability": capability,
            "limit": 99 * 1024,
            **compiled(kernel, capability, constants, {}, num_warps=8 if name in ("merge", "gather") else 4),
        }
        for name, (kernel, constants) in kernels.items()
    ]


def jobs() -> list[tuple[Any, ...]]:
    """Each distinct compilation once: tables share rows, and precisions share products."""
    seen: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for table, capability, _ in reversed(TABLES):  # the least shared memory first
        for number, row in enumerate(read_table(FOLDER / table)):
            for what, flags in flags_of(row).items() if row.dot != "unfused" else ():
                built = row._replace(measured=False, precision="", max_k=0)
                seen.setdefault((capability, built, *flags.values()), (table, capability, number, what))
    return list(seen.values())


def run(job: tuple[Any, ...]) -> list[dict[str, Any]]:
    return others(*job) if len(job) == 1 else [search(*job)]


if __name__ == "__main__":
    work = [*jobs(), (80,), (90,)]
    with ProcessPoolExecutor(2) as pool:
        json.dump([kernel for kernels in pool.map(run, work, chunksize=2) for kernel in kernels], sys.stdout)
