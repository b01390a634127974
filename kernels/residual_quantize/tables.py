"""Which tile and product the kernel of all stages takes.

Chosen without a measurement: the largest tiles that neither spill nor pass the chip's shared memory; the tests compile
every row. Where no row is for a width, stage by stage is the better way: products of exact's kind leave no room for a
tile worth having, and certified's second look at few vectors needs a search of its own. On chip there is none: what
certified finds is searched exactly at once.
"""

from typing import NamedTuple

from vqmm.kernels.nearest_code.tables import EXACT_DOTS
from vqmm.kernels.tables import Tables

DOTS = (*EXACT_DOTS, "tf32")


class Config(NamedTuple):
    """A row of a table: for widths up to max_width, a tile of vectors by codes, and how it is multiplied."""

    max_width: int
    precision: str
    block_n: int
    block_k: int
    warps: int
    stages: int
    dot: str  # see scan
    parked: bool = False  # see quantize_kernel
    measured: bool = False
    below: str = ""


def wrong(row: Config) -> str | None:
    """What makes a row wrong, beside what does for all kernels."""
    if row.dot not in DOTS:
        return f"dot is {row.dot!r}; it can be {', '.join(DOTS)}"
    if row.precision != "fast" and row.dot not in EXACT_DOTS:
        return f"dot is {row.dot!r}, which is not as good as float32; {row.precision} can have {', '.join(EXACT_DOTS)}"
    return None


TABLES = Tables("residual_quantize", Config, wrong=wrong)
