"""The kernels of nearest_code: every row of every table, for each kind of launch that changes what its inner
loop holds; a script of compile_all."""

import itertools
from collections import defaultdict
from typing import Any, NamedTuple
from unittest import mock

import torch

from tests.kernels.compiling import Figures, Job, compiled, compiling_only
from vqmm.kernels.nearest_code import fused, kernels
from vqmm.kernels.nearest_code.fused import block_g
from vqmm.kernels.nearest_code.kernels import Codebooks, Doubt, Gather, Parts, Rows
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.nearest_code.scan import pack_kernel
from vqmm.kernels.nearest_code.tables import TABLES, Config
from vqmm.kernels.tables import ANY

# Tables, the GPUs they are compiled for, and the shared memory of the least of those they serve, in KiB.
FILES = (("sm_90.json", 90, 227), ("default.json", 80, 99))
SCALARS = {"N": "i32", "programs": "i32", "stride_g": "i32", "stride_n": "i32"}
COMPACT = {"doubt_ptr": "*i8", "order_ptr": "*i32", "rows_ptr": "*i32", "N": "i32"}
PACK = {"code_ptr": "*fp32", "size_ptr": "*fp32", "K": "i32"}
ROWS = Rows("*i32", "*i32")
GATHER = Gather("*fp32", "*fp32", "*fp32")
DOUBT = Doubt("*fp32", "*i8")


class Launch(NamedTuple):
    """What a search is asked for. The vectors of those with margins are compared by their cosine, not shifted, and
    strided; there the codebooks begin anywhere."""

    margin: bool
    keep: str | None = None
    rows: Rows | None = None
    gather: Gather | None = None
    doubt: Doubt | None = None
    split: bool = False

    def arguments(self, code: str = "*fp32") -> dict[str, Any]:
        """The types of what is no constant of search_kernel, merge_kernel and gather_kernel."""
        more = "*fp32" if self.margin else None
        return {
            "x_ptr": "*fp32",
            "keep_ptr": self.keep,
            "first_ptr": "*i32",
            "codebooks": Codebooks(code, "*fp32", None if self.margin else "*fp32", "*i32"),
            "rows": self.rows,
            "index_ptr": "*i32",
            "margin_ptr": more,
            "gather": self.gather,
            "doubt": self.doubt,
            "parts": Parts("*fp32", "*i32", more, more) if self.split else Parts(),
            **SCALARS,
            "stride_d": "i32" if self.margin else None,
        }


QUANTIZE = Launch(margin=False, keep="*i1", gather=GATHER)
MARGIN = Launch(margin=True)
CERTIFY = Launch(margin=False, doubt=DOUBT)
CERTIFY_MARGIN = Launch(margin=True, doubt=DOUBT)
SPLIT_MARGIN = Launch(margin=True, split=True)
AGAIN = Launch(margin=False, rows=ROWS, split=True)
AGAIN_MARGIN = Launch(margin=True, rows=ROWS, split=True)


def launches_of(row: Config) -> dict[str, Launch]:
    """What a row is launched for, the heaviest of each kind."""
    if row.precision == "certified" and row.dot in ("high", "tf32"):
        return {"certify": CERTIFY, "certify, margin": CERTIFY_MARGIN}
    if row.precision == "exact":
        return {"quantize": QUANTIZE, "again, split": AGAIN, "again, split, margin": AGAIN_MARGIN}
    return {"quantize": QUANTIZE, "margin": MARGIN, "split, margin": SPLIT_MARGIN}


def made(kernel: Any, capability: int, types: Figures, constants: Figures, **options: int) -> Figures:
    made = compiled(kernel, types, constants, capability, **options)
    return {key: value for key, value in made.items() if key != "ptx"}


def search(table: str, capability: int, number: int, what: str) -> Figures:
    row, limit = TABLES.read(TABLES.folder / table)[number], next(kib for name, _, kib in FILES if name == table)
    asked, width = launches_of(row)[what], width_of(row)
    small = asked.margin or asked.doubt is not None or asked.split
    constants = {
        "D": width, "BLOCK_N": row.block_n, "BLOCK_K": row.small_k if small else row.block_k, "BLOCK_D": row.block_d,
        "BLOCK_G": block_g(width), "DOT": row.dot, "ALIGNED": not asked.margin, "COSINE": asked.margin,
    }  # fmt: skip
    types = asked.arguments("*bf16" if row.dot == "bf16" else "*fp32")
    return {
        "kernel": "search",
        "table": table,
        "dot": row.dot,
        "row": list(row),
        "flags": what,
        "capability": capability,
        "limit": limit * 1024,
        **made(kernels.search_kernel, capability, types, constants, num_warps=row.warps, num_stages=row.stages),
    }


def width_of(row: Config) -> int:
    return min(row.max_width, 1024 if row.max_width == ANY else row.max_width)


def others() -> dict[str, tuple[Any, Figures, Figures]]:
    """The kernels around the search, whose tiles no table chooses."""
    blocks = {"D": 200, "BLOCK_N": 128, "BLOCK_G": block_g(200)}
    everything = Launch(margin=True, keep="*i1", rows=ROWS, gather=GATHER, split=True).arguments()
    pack = {"D": 200, "BLOCK_K": 32, "BLOCK_G": block_g(200)}
    return {
        "merge": (kernels.merge_kernel, everything, {**blocks, "BLOCK_K": 64}),
        "gather": (kernels.gather_kernel, everything, blocks),
        "compact": (kernels.compact_kernel, COMPACT, {"BLOCK_N": 1024}),
        "pack split": (pack_kernel, {**PACK, "split_ptr": "*fp32"}, pack),
        "pack tf32": (pack_kernel, {**PACK, "split_ptr": None}, pack),
    }


def other(name: str, capability: int) -> Figures:
    kernel, types, constants = others()[name]
    warps = 8 if name in ("merge", "gather") else 4
    figures = made(kernel, capability, types, constants, num_warps=warps)
    return {"kernel": name, "capability": capability, "limit": 99 * 1024, **figures}


def variants() -> Figures:
    """How many compiled variants of each kernel there are after each of several numbers of vectors."""
    code, counted = torch.ones(512, 24), defaultdict(list)
    with compiling_only() as seen:
        for n in (257, 1, 2, 16, 1000):
            x, keep = torch.zeros(1, n, 24), torch.ones(1, n, dtype=torch.bool)
            for metric, processors in itertools.product(("euclidean", "cosine"), (1, 64)):  # whole, and in parts
                prepared = prepare(code, metric)
                with mock.patch.object(fused, "processors_of", return_value=processors):
                    fused.search_triton(x, prepared, metric, "exact", metric == "cosine")
                    fused.quantize_triton(x, code, prepared, metric, "exact", keep)
                    if processors == 1:
                        fused.quantize_triton(x, code, prepared, metric, "certified", keep)
            for name, made in seen.items():
                counted[name].append(len(made))
    return {"variants": counted}


def jobs() -> list[Job]:
    """Each distinct compilation once: tables share rows, and precisions share products."""
    seen: dict[tuple[Any, ...], Job] = {}
    for table, capability, _ in reversed(FILES):  # the least shared memory first
        for number, row in enumerate(TABLES.read(TABLES.folder / table)):
            for what, asked in launches_of(row).items() if row.dot != "torch" else ():
                same = (capability, row._replace(measured=False, precision="", max_k=0), asked)
                given, traits = (table, capability, number, what), frozenset({row.precision, row.dot, what})
                seen.setdefault(same, Job((capability,), width_of(row), given, traits, cost=3))
    small = [Job((name, c), 200, (name, c)) for c in (80, 90) for name in others()]
    return [Job(("variants",), 0, cost=9), *seen.values(), *small]


def run(job: Job) -> Figures:
    if not job.given:
        return variants()
    return other(*job.given) if len(job.given) == 2 else search(*job.given)
