"""The kernels of code_sums and update_codebook_ at several widths; a script of compile_all."""

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import triton
from triton.runtime.jit import JITFunction

from tests.kernels.compiling import AbsentGPU, Job, Told, compiled
from vqmm.kernels.code_sums import fused as sums
from vqmm.kernels.update_codebook import fused as update

WIDTHS = (1, 8, 17, 64, 256, 1024)
SIZES = (1024, 100, 4096)


def built(kernel: Any, types: dict[str, str], constants: Told, warps: int, capability: int) -> Told:
    """types: of the arguments that are not constants; pointers are taken to be aligned, as torch's memory is."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    assert set(types) | set(constants) == set(signature)
    found = compiled(kernel, signature, constants, capability, num_warps=warps)
    ptx = found.pop("ptx")
    return {
        "kernel": kernel.fn.__name__,
        "width": constants.get("D"),
        "packed": constants.get("PACKED"),
        "capability": capability,
        "wide_loads": len(re.findall(r"ld\.global\S*\.v[24]\.", ptx)),
        "atomics": len(re.findall(r"\b(?:atom|red)\.", ptx)),
        **found,
    }


def configurations(width: int) -> Iterator[tuple[Any, dict[str, str], Told, int]]:
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


def totals(capability: int) -> Told:
    types = {"count_ptr": "*i64", "ema_ptr": "*fp32", "decay_ptr": "*fp64", "total_ptr": "*fp32"}
    return built(update.totals_kernel, types, {"SIZES": SIZES, "BLOCK": update.TOTALS}, 4, capability)


def variants() -> Told:
    """How many compiled variants of each kernel there are after each of several numbers of vectors."""
    seen: dict[str, set[int]] = defaultdict(set)
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        seen[self.fn.__name__].add(id(run(self, *args, grid=grid, warmup=True, **kwargs)))

    triton.runtime.driver.set_active(AbsentGPU())
    counted = defaultdict(list)
    K, width = sum(SIZES[:2]), 24
    masters = [torch.ones(K, width), torch.ones(K), torch.ones(K, width), torch.ones(K).long(), torch.ones(K, width)]
    with (
        mock.patch.object(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext()),
        mock.patch.object(JITFunction, "run", compile_only),
    ):
        for n in (257, 1, 2, 16, 1000, 4096):
            index = torch.zeros(2, n, dtype=torch.int32)
            across = torch.zeros(2, width, n).mT if n > 1 else torch.zeros(2, 1, 48)[..., ::2]
            for x in (torch.zeros(2, n, width), across):
                sums.sums_by_items(x, index, index == 0, SIZES[:2], True)
            update.update_fused_(*masters, torch.tensor(1 / n).double(), 1e-5, 0.0, True, SIZES[:2])
            for name, made in seen.items():
                counted[name].append(len(made))
    return {"variants": counted}


def jobs() -> list[Job]:
    found = [Job(("variants",), 0, cost=9)]
    for capability in (80, 90):
        found.append(Job((capability, "totals"), 0, (capability,)))
        for width in WIDTHS:
            for number, (kernel, _, constants, _) in enumerate(configurations(width)):
                kind = (capability, kernel.fn.__name__, constants.get("PACKED"))
                found.append(Job(kind, width, (capability, width, number)))
    return found


def run(job: Job) -> Told:
    if not job.given:
        return variants()
    if len(job.given) == 1:
        return totals(*job.given)
    capability, width, number = job.given
    return built(*list(configurations(width))[number], capability)
