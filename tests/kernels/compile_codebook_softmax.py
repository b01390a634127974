"""The kernels of codebook_softmax in every configuration; a script of compile_all."""

from typing import Any

from tests.kernels.compiling import Figures, Job, compiled
from vqmm.kernels.codebook_softmax import kernels
from vqmm.kernels.codebook_softmax.fused import options
from vqmm.kernels.codebook_softmax.kernels import Noise, Pulls
from vqmm.kernels.codebook_softmax.tables import KERNELS, TABLES

NOISE = Noise("*i32", "*i32", "*fp32")
NO_PULLS = Pulls("*fp32", None, None, None, None)
TYPES = {
    "keep_ptr": "*u8",
    "noise": NOISE,
    "pulls": Pulls("*fp32", "*fp32", "*fp32", "*fp32", "*fp32"),
    **dict.fromkeys(("target_ptr", "index_ptr"), "*i32"),
    **dict.fromkeys(("N", "K", "WIDTH", "SHARE"), "i32"),
}
# Every output and gradient, and noise, is the most that a kernel ever holds; these are the least, by name.
WITHOUT: dict[str, Any] = {"noise": None, "target_ptr": None, "cross_ptr": None, "pulls": NO_PULLS}
LEAST = {
    "forward": ("forward", WITHOUT | {"vectors_ptr": None}),
    "usage": ("usage", WITHOUT),
    "backward_code": ("backward_code", WITHOUT),
    "backward_x": ("backward_x", WITHOUT),
    "backward_x, of usage": ("backward_x", WITHOUT | {"pulls": NO_PULLS._replace(usage="*fp32"), "grad_ptr": None}),
}


def built(number: int, capability: int, changed: Figures) -> Figures:
    """The kernel of a row of a table."""
    config = TABLES.rows(divmod(capability, 10))[number]
    kernel = getattr(kernels, f"{config.kernel}_kernel")
    given = options(config, config.max_width)
    constants = {name: given.pop(name) for name in ("D", "BLOCK_N", "BLOCK_K", "PRODUCT")}
    types = dict.fromkeys(kernel.arg_names, "*fp32") | TYPES | changed
    figures = compiled(kernel, types, constants, capability, **given)
    return {
        "kernel": config.kernel,
        "capability": capability,
        "width": config.max_width,
        "precision": config.precision,
        "tile": [config.block_n, config.block_k],
        "shared": figures["shared"],
        "registers": figures["registers"],
        "spilled": figures["spilled"],
        "tensor_core": [pair for pair in figures["tensor_core"] if pair[1] == "tf32"],
    }


def jobs() -> list[Job]:
    rows = TABLES.rows((9, 0))
    first = {name: next(i for i, row in enumerate(rows) if row.kernel == name) for name in KERNELS}
    least = [Job((name,), 16, (first[kernel], 90, changed)) for name, (kernel, changed) in LEAST.items()]
    return least + [
        Job((capability,), row.max_width, (i, capability, {}), frozenset({(capability, row.kernel), row.precision}), 3)
        for capability in (80, 90)
        for i, row in enumerate(TABLES.rows(divmod(capability, 10)))
    ]


def run(job: Job) -> Figures:
    return built(*job.given)
