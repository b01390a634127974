"""The kernels of nearest_code: every row of every table, with each set of flags that changes what its inner loop holds;
a script of compile_all."""

from typing import Any

from tests.kernels.compiling import Job, Told, compiled
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


def made(kernel: Any, capability: int, constants: Told, types: dict[str, str], **options: int) -> Told:
    types = {**POINTERS, **SCALARS, "K": "i32", **types, **dict.fromkeys(constants, "constexpr")}
    found = compiled(kernel, {name: types[name] for name in kernel.arg_names}, constants, capability, **options)
    return {key: value for key, value in found.items() if key != "ptx"}


def search(table: str, capability: int, number: int, what: str, x_type: str = "*fp32") -> Told:
    row, limit = read_table(FOLDER / table)[number], next(kib for name, _, kib in TABLES if name == table)
    flags = flags_of(row)[what]
    block_k = row.small_k if flags["MARGIN"] or flags["CERTIFY"] or flags["SPLIT"] else row.block_k
    width = width_of(row)
    constants = {
        "D": width, "BLOCK_N": row.block_n, "BLOCK_K": block_k, "BLOCK_D": row.block_d, "BLOCK_G": block_g(width),
        "DOT": row.dot, **flags,
    }  # fmt: skip
    types = {"x_ptr": x_type, "code_ptr": "*bf16" if row.dot == "bf16" else "*fp32"}
    found = made(launch.search_kernel, capability, constants, types, num_warps=row.warps, num_stages=row.stages)
    return {
        "kernel": "search",
        "table": table,
        "dot": row.dot,
        "row": list(row),
        "flags": what,
        "capability": capability,
        "limit": limit * 1024,
        **found,
    }


def width_of(row: Config) -> int:
    return min(row.max_width, 1024 if row.max_width == ANY else row.max_width)


def others() -> dict[str, tuple[Any, Told]]:
    """The kernels around the search, whose tiles no table chooses."""
    flags = {"DENSE": False, "KEPT": True}
    blocks = {"D": 200, "BLOCK_N": 128, "BLOCK_G": block_g(200)}
    merge = {**blocks, **flags, "BLOCK_K": 64, "COSINE": True, "ROWS": True, "MARGIN": True, "GATHER": True}
    pack = {"D": 200, "BLOCK_K": 32, "BLOCK_G": block_g(200)}
    return {
        "merge": (launch.merge_kernel, merge),
        "gather": (launch.gather_kernel, {**blocks, **flags}),
        "compact": (launch.compact_kernel, {"BLOCK_N": 1024}),
        "pack split": (pack_kernel, {**pack, "DOT": "split"}),
        "pack tf32": (pack_kernel, {**pack, "DOT": "tf32"}),
    }


def other(name: str, capability: int) -> Told:
    kernel, constants = others()[name]
    warps = 8 if name in ("merge", "gather") else 4
    found = made(kernel, capability, constants, {}, num_warps=warps)
    return {"kernel": name, "capability": capability, "limit": 99 * 1024, **found}


def jobs() -> list[Job]:
    """Each distinct compilation once: tables share rows, and precisions share products."""
    seen: dict[tuple[Any, ...], Job] = {}
    for table, capability, _ in reversed(TABLES):  # the least shared memory first
        for number, row in enumerate(read_table(FOLDER / table)):
            for what, flags in flags_of(row).items() if row.dot != "unfused" else ():
                same = (capability, row._replace(measured=False, precision="", max_k=0), *flags.values())
                given, traits = (table, capability, number, what), frozenset({row.precision, row.dot, what})
                seen.setdefault(same, Job((capability,), width_of(row), given, traits, cost=3))
    return [*seen.values(), *(Job((name, c), 200, (name, c)) for c in (80, 90) for name in others())]


def run(job: Job) -> Told:
    return other(*job.given) if len(job.given) == 2 else search(*job.given)
