"""Which tile and product each kernel of codebook_softmax takes.

Without wgmma each warp holds the whole second operand of a product, and "tf32x3" holds it twice: hence the narrow tiles
of GPUs other than Hopper. Every row is compiled by the tests: no spills, and less shared memory than the chip has.
"""

from typing import NamedTuple

from vqmm.kernels.tables import Tables

KERNELS = ("forward", "usage", "backward_x", "backward_code")
DOTS = {"exact": "tf32x3", "fast": "tf32"}  # by precision


class Config(NamedTuple):
    """A row of a table: for a kernel and widths up to max_width, a tile of vectors by codes.

    Forward and backward_x keep their vectors on chip, usage and backward_code their codes.
    """

    kernel: str
    max_width: int
    precision: str
    block_n: int
    block_k: int
    warps: int
    stages: int
    dot: str  # of tl.dot: its input precision
    measured: bool = False
    below: str = ""


def wrong(row: Config) -> str | None:
    """What makes a row wrong, beside what does for all kernels."""
    if row.kernel not in KERNELS:
        return f"kernel is {row.kernel!r}; it can be {', '.join(KERNELS)}"
    if row.dot != DOTS.get(row.precision):
        each = ", ".join(f"{dot} for {precision}" for precision, dot in DOTS.items())
        return f"dot is {row.dot!r} for {row.precision}; it can be {each}"
    return None


TABLES = Tables("codebook_softmax", Config, wrong=wrong)
