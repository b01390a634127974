"""The Triton kernels of residual_quantize in every configuration; a script of compile_all."""

from typing import Any

import torch
import triton

from tests.kernels.compiling import AbsentGPU, Job, Told, compiled
from vqmm.kernels.residual_quantize.fused import AMPERE, COLUMNS, HOPPER, LOOKUP, STEP, Config
from vqmm.kernels.residual_quantize.launch import lookup_kernel, pull_kernel, step_kernel, walk_kernel

TYPES = {"keep_ptr": "*i1", "used_ptr": "*i64", "index_ptr": "*i32", "N": "i32", "index_row": "i32"}
TYPES |= {"found_ptr": "*i32", "first": "i32", "q": "i32", "Q": "i32"}
STACK = {"FIRST": (0, 1024, 1536), "SIZE": (1024, 512, 512), "BOOK": (0, 1, 2)}
EQUAL = {"FIRST": (0, 1024, 2048), "SIZE": (1024, 1024, 1024), "BOOK": (0, 1, 2)}  # the compiler sees: no tail
SMALL = {
    "lookup": (lookup_kernel, LOOKUP, {"FIRST": STACK["FIRST"]}),
    "pull": (pull_kernel, LOOKUP, {"FIRST": STACK["FIRST"]}),
    "step": (step_kernel, STEP, {"USED": True}),
}


def built(kernel: Any, constants: Told, capability: int, warps: int, stages: int) -> Told:
    signature = {a: "constexpr" if a in constants else TYPES.get(a, "*fp32") for a in kernel.arg_names}
    found = compiled(kernel, signature, constants, capability, num_warps=warps, num_stages=stages)
    del found["ptx"]
    return {"kernel": kernel.__name__, "capability": capability, **found}


def walk(width: int, config: Config, capability: int, used: bool, stack: Told) -> Told:
    block_d = max(16, triton.next_power_of_2(width))
    blocks = {
        "D": width,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "BLOCK_D": block_d,
        "DOT": config.dot,
    }
    blocks["BLOCK_C"] = min(block_d, COLUMNS)
    constants = {**stack, "USED": used, "SHIFTED": True, "PARKED": config.parked, **blocks}
    found = built(walk_kernel, constants, capability, config.warps, config.stages)
    return {"width": width, "config": list(config), "used": used, **found}


def small(name: str, width: int, capability: int) -> Told:
    kernel, (block_n, block_d, warps), constants = SMALL[name]
    return built(kernel, {**constants, "D": width, "BLOCK_N": block_n, "BLOCK_D": block_d}, capability, warps, 3)


def variants() -> Told:
    """How many kernels the launches of several batch sizes compile; nothing is run."""
    triton.runtime.driver.set_active(AbsentGPU())
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
    return {"variants": [len(kernel.device_caches[0][0]) for kernel in (walk_kernel, step_kernel)]}


def jobs() -> list[Job]:
    found = [Job(("variants",), 0, cost=5)]
    for capability, tables in ((80, AMPERE), (90, HOPPER)):
        for name, table in tables.items():
            for width, config in table.items():
                if name == "certified" and config == tables["exact"].get(width):
                    continue  # compiled already
                for what, narrower in (("used", 0), ("widened", 4), ("equal", 0)):  # 4: no power of two
                    given = (capability, name, width, what, width - narrower)
                    traits = frozenset({what, config.dot, config.parked})
                    found.append(Job((capability,), width, given, traits, cost=4))
        found += [
            Job((capability, name), width, (capability, name, width)) for name in SMALL for width in (8, 100, 512)
        ]
    return found


def run(job: Job) -> Told:
    if not job.given:
        return variants()
    if len(job.given) == 3:
        capability, name, width = job.given
        return small(name, width, capability)
    capability, precision, row, what, width = job.given
    config = (HOPPER if capability == 90 else AMPERE)[precision][row]
    return walk(width, config, capability, used=what == "used", stack=EQUAL if what == "equal" else STACK)
