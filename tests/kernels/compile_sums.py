"""The kernels of code_sums and update_codebook_ at several widths; a script of compile_all."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

from tests.kernels.compiling import Figures, Job, compiled, compiling_only
from vqmm.kernels.code_sums import fused as sums
from vqmm.kernels.update_codebook import fused as update

WIDTHS = (1, 8, 17, 64, 256, 1024)
SIZES = (1024, 100, 4096)
CPU = torch.device("cpu")  # which takes the tables that every GPU does


def built(kernel: Any, types: dict[str, str], constants: Figures, warps: int, capability: int) -> Figures:
    """types: of the arguments that are not constants; pointers are taken to be aligned, as torch's memory is."""
    assert set(types) | set(constants) == set(kernel.arg_names)
    figures = compiled(kernel, types, constants, capability, num_warps=warps)
    ptx = figures.pop("ptx")
    return {
        "kernel": kernel.fn.__name__,
        "width": constants.get("D"),
        "packed": constants.get("PACKED"),
        "capability": capability,
        "wide_loads": len(re.findall(r"ld\.global\S*\.v[24]\.", ptx)),
        "atomics": len(re.findall(r"\b(?:atom|red)\.", ptx)),
        **figures,
    }


def configurations(width: int) -> Iterator[tuple[Any, dict[str, str], Figures, int]]:
    config, second = sums.config_for(CPU, width), update.config_for(CPU, width)
    rows, block_d, warps = config.block_n, config.block_d, config.warps
    assert second is not None
    where = {"N": "i32", "x_g": "i32", "x_n": "i32", "x_d": "i32"}
    tile = {"D": width, "BLOCK_D": block_d}
    segments = {"sorted_ptr": "*i16", "start_ptr": "*i32", "sums_ptr": "*fp32", "partial_ptr": "*fp32", "K": "i32"}
    slots = {"x_ptr": "*bf16", "index_ptr": "*i32", "keep_ptr": "*u8", "slot_ptr": "*i16", **where}
    flags = {"PACKED": True, "ONLY_FINITE": True, "SIZES": SIZES}
    yield sums.slot_kernel, slots, {**tile, **flags, "K": sum(SIZES), "BLOCK_N": rows}, warps
    for x, packed in (("*fp32", True), ("*bf16", False)):
        types = {"x_ptr": x, "order_ptr": "*i64", **segments, **where}
        yield sums.add_kernel, types, {**tile, "PACKED": packed, "ROWS": rows, "ITEM": sums.ITEM}, warps
    yield sums.fold_kernel, segments, {**tile, "ROWS": rows, "ITEM": sums.ITEM}, warps
    pointers = ("code_ptr", "ema_count_ptr", "ema_sum_ptr", "sum_ptr", "total_ptr", "perplexity_ptr")
    types = dict.fromkeys(pointers, "*fp32")
    types |= {"count_ptr": "*i64", "decay_ptr": "*fp64", "dead_ptr": "*u8", "epsilon": "fp32", "dead_below": "fp32"}
    tile = {"D": width, "BLOCK_K": second.block_k, "BLOCK_D": second.block_d}
    yield update.update_kernel, types, {"SIZES": SIZES, "TILES": 4, "PARTS": 4, "NORMALISE": True, **tile}, second.warps


def totals(capability: int) -> Figures:
    types = {"count_ptr": "*i64", "ema_ptr": "*fp32", "decay_ptr": "*fp64", "total_ptr": "*fp32"}
    return built(update.totals_kernel, types, {"SIZES": SIZES, "BLOCK": update.TOTALS}, 4, capability)


def variants() -> Figures:
    """How many compiled variants of each kernel there are after each of several numbers of vectors."""
    K, width = sum(SIZES[:2]), 24
    masters = [torch.ones(K, width), torch.ones(K), torch.ones(K, width), torch.ones(K).long(), torch.ones(K, width)]
    counted = defaultdict(list)
    with compiling_only() as seen:
        for n in (257, 1, 2, 16, 1000, 4096):
            index = torch.zeros(2, n, dtype=torch.int32)
            across = torch.zeros(2, width, n).mT if n > 1 else torch.zeros(2, 1, 48)[..., ::2]
            for x in (torch.zeros(2, n, width), across):
                sums.sums_triton(x, index, index == 0, SIZES[:2], True)
            update.update_triton_(*masters, torch.tensor(1 / n).double(), 1e-5, 0.0, True, SIZES[:2])
            for name, made in seen.items():
                counted[name].append(len(made))
    return {"variants": counted}


def jobs() -> list[Job]:
    jobs = [Job(("variants",), 0, cost=9)]
    for capability in (80, 90):
        jobs.append(Job((capability, "totals"), 0, (capability,)))
        for width in WIDTHS:
            for number, (kernel, _, constants, _) in enumerate(configurations(width)):
                kind = (capability, kernel.fn.__name__, constants.get("PACKED"))
                jobs.append(Job(kind, width, (capability, width, number)))
    return jobs


def run(job: Job) -> Figures:
    if not job.given:
        return variants()
    if len(job.given) == 1:
        return totals(*job.given)
    capability, width, number = job.given
    return built(*list(configurations(width))[number], capability)
