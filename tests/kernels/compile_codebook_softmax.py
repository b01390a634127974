"""The kernels of codebook_softmax in every configuration; a script of compile_all."""

from collections.abc import Sequence

from tests.kernels.compiling import Job, Told, compiled
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


def built(name: str, width: int, capability: int, precision: str, asked: Sequence[str] = FLAGS) -> Told:
    """One kernel with the outputs and gradients asked for: all of them, and noise, is the most that it ever holds."""
    kernel, tile = getattr(walks, f"{name}_kernel"), getattr(tiles_for(width, precision, divmod(capability, 10)), name)
    values = {"D": width, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, "PRODUCT": fused.PRODUCTS[precision]}
    values |= {flag: flag in asked for flag in FLAGS}
    constants = {argument: values[argument] for argument in kernel.arg_names if argument in values}
    signature = {a: "constexpr" if a in constants else SIGNATURE.get(a, "*fp32") for a in kernel.arg_names}
    found = compiled(kernel, signature, constants, capability, num_warps=fused.WARPS, num_stages=fused.STAGES)
    return {
        "kernel": name,
        "capability": capability,
        "width": width,
        "precision": precision,
        "tile": list(tile),
        "shared": found["shared"],
        "spilled": found["spilled"],
        "tensor_core": [pair for pair in found["tensor_core"] if pair[1] == "tf32"],
    }


def jobs() -> list[Job]:
    least = [Job((name, asked), 16, (name, 16, 90, "exact", asked)) for name, asked in LEAST]
    return least + [
        Job((capability,), width, (name, width, capability, precision), frozenset({(capability, name), precision}), 3)
        for capability, table in ((80, fused.OTHERS), (90, fused.HOPPER))
        for precision in table
        for width in table[precision]
        for name in Tiles._fields
    ]


def run(job: Job) -> Told:
    return built(*job.given)
