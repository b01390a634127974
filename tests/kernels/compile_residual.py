"""The Triton kernels of residual_quantize in every configuration; a script of compile_all."""

from typing import Any

import torch
import triton

from tests.kernels.compiling import AbsentGPU, Figures, Job, compiled
from vqmm.kernels.residual_quantize.fused import COLUMNS, LOOKUP, STEP, padded_width
from vqmm.kernels.residual_quantize.kernels import lookup_kernel, pull_kernel, quantize_kernel, step_kernel
from vqmm.kernels.residual_quantize.tables import TABLES, Config

TYPES = {"keep_ptr": "*i1", "used_ptr": "*i64", "index_ptr": "*i32", "N": "i32", "index_row": "i32"}
TYPES |= {"chosen_ptr": "*i32", "first": "i32", "q": "i32", "Q": "i32"}
STACK = {"FIRST": (0, 1024, 1536), "SIZE": (1024, 512, 512), "BOOK": (0, 1, 2)}
EQUAL = {"FIRST": (0, 1024, 2048), "SIZE": (1024, 1024, 1024), "BOOK": (0, 1, 2)}  # the compiler sees: no tail
SMALL = {
    "lookup": (lookup_kernel, LOOKUP, {"FIRST": STACK["FIRST"]}),
    "pull": (pull_kernel, LOOKUP, {"FIRST": STACK["FIRST"]}),
    "step": (step_kernel, STEP, {}),
}


def built(
    kernel: Any, constants: Figures, capability: int, warps: int, stages: int, absent: tuple[str, ...] = ()
) -> Figures:
    types = {name: None if name in absent else TYPES.get(name, "*fp32") for name in kernel.arg_names}
    figures = compiled(kernel, types, constants, capability, num_warps=warps, num_stages=stages)
    del figures["ptx"]
    return {"kernel": kernel.__name__, "capability": capability, **figures}


def quantize(width: int, config: Config, capability: int, used: bool, stack: Figures) -> Figures:
    block_d = padded_width(width)
    blocks = {
        "D": width,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "BLOCK_D": block_d,
        "BLOCK_C": min(block_d, COLUMNS),
        "DOT": config.dot,
    }
    absent = {"used_ptr": not used, "parked_ptr": not config.parked}
    left_out = tuple(name for name, out in absent.items() if out)
    figures = built(quantize_kernel, {**stack, **blocks}, capability, config.warps, config.stages, left_out)
    return {"width": width, "dot": config.dot, "config": list(config), "used": used, **figures}


def small(name: str, width: int, capability: int) -> Figures:
    kernel, (block_n, block_d, warps), constants = SMALL[name]
    return built(kernel, {**constants, "D": width, "BLOCK_N": block_n, "BLOCK_D": block_d}, capability, warps, 3)


def variants() -> Figures:
    """How many kernels the launches of several batch sizes compile; nothing is run."""
    triton.runtime.driver.set_active(AbsentGPU())
    float32, int32, boolean = torch.float32, torch.int32, torch.bool
    config = TABLES.rows((9, 0))[0]
    for n in (1, 16, 17, 48_000):
        quantized = (float32, boolean, None, *[float32] * 4, int32, float32, None)
        blocks = {"BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "BLOCK_D": 16, "BLOCK_C": 16, "DOT": config.dot}
        options = {"num_warps": config.warps, "num_stages": config.stages, "grid": (1,)}
        quantize_kernel.warmup(*quantized, n, **STACK, D=8, **blocks, **options)
        stepped = (float32, int32, boolean, None, float32, int32, float32)
        for q in range(3):
            step_kernel.warmup(*stepped, n, 16 * q, q, 3, D=8, BLOCK_N=16, BLOCK_D=16, grid=(1,))
    return {"variants": [len(kernel.device_caches[0][0]) for kernel in (quantize_kernel, step_kernel)]}


def jobs() -> list[Job]:
    jobs = [Job(("variants",), 0, cost=5)]
    for capability in (80, 90):
        seen = set()
        for number, config in enumerate(TABLES.rows(divmod(capability, 10))):
            same = config._replace(precision="", measured=False)  # "certified" is searched as "exact" is
            if same in seen:
                continue
            seen.add(same)
            for what, narrower in (("used", 0), ("widened", 4), ("equal", 0)):  # 4: no power of two
                given = (capability, number, what, config.max_width - narrower)
                traits = frozenset({what, config.dot, config.parked})
                jobs.append(Job((capability,), config.max_width, given, traits, cost=4))
        jobs += [Job((capability, name), width, (capability, name, width)) for name in SMALL for width in (8, 100, 512)]
    return jobs


def run(job: Job) -> Figures:
    if not job.given:
        return variants()
    if len(job.given) == 3:
        capability, name, width = job.given
        return small(name, width, capability)
    capability, number, what, width = job.given
    config = TABLES.rows(divmod(capability, 10))[number]
    return quantize(width, config, capability, used=what == "used", stack=EQUAL if what == "equal" else STACK)
