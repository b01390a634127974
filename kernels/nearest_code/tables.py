"""Which tile, product and pipeline a search takes."""

import functools
import warnings
from typing import NamedTuple

from vqmm.kernels.tables import ANY, Tables, power_of_two

EXACT_DOTS = ("split", "tf32x3", "fma")  # as good as float32
DOTS = (*EXACT_DOTS, "high", "tf32", "bf16", "torch")


class Config(NamedTuple):
    """A row of a table: for widths up to max_width and codebooks up to max_k, what runs."""

    max_width: int
    max_k: int
    precision: str
    block_n: int
    block_k: int  # of a search of all codes at once, without margins
    block_d: int  # at least the width: vectors stay on chip; less: they are read again for every tile of codes
    warps: int
    stages: int
    dot: str  # see scan; "torch": a plain product and an argmax, which hold chunks of scores
    small_k: int  # block_k of any other: margins are half as much again in registers
    measured: bool = False
    below: str = ""


def wrong(row: Config) -> str | None:
    """What makes a row of a search wrong, beside what does for all kernels."""
    if row.dot not in DOTS:
        return f"dot is {row.dot!r}; it can be {', '.join(DOTS)}"
    if row.precision == "exact" and row.dot not in (*EXACT_DOTS, "torch"):
        return f"dot is {row.dot!r}, which is not as good as float32; exact can have {', '.join(EXACT_DOTS)}"
    if row.precision == "certified" and row.dot == "bf16":
        return "dot is 'bf16'; certified needs a product whose rounding is known for each vector: tf32 or high"
    if not power_of_two(row.small_k, 16):
        return f"small_k is {row.small_k}; it is a power of two, 16 or more"
    return None


TABLES = Tables("nearest_code", Config, wrong=wrong)


def config_for(width: int, k: int, precision: str, capability: tuple[int, int]) -> Config:
    """What a search of K codes of D dimensions takes on a GPU of a compute capability such as (9, 0).

    A row of the table with block_d below the width serves every width; block_d shrinks to the width where that is less.
    """
    if capability != (8, 0) and not TABLES.file_for(capability).exists():
        say_no_table(capability)
    row = TABLES.find(capability, max_width=width, max_k=k, precision=precision)
    if row is None:
        raise ValueError(
            f"nearest_code: the table of compute capability {capability} has no row for width {width}, K {k}, "
            f"{precision}; its last rows must have max_width and max_k {ANY}."
        )
    return row._replace(block_d=min(row.block_d, max(16, 1 << (width - 1).bit_length())))


@functools.lru_cache
def say_no_table(capability: tuple[int, int]) -> None:
    """Warn, once, that a GPU takes the tiles that fit every GPU."""
    warnings.warn(
        f"vqmm has no table for GPUs of compute capability {capability[0]}.{capability[1]}; it takes tiles that fit "
        "every GPU from 8.0 on. To measure a table of your own: python -m vqmm.benchmarks.tune_kernels, on this GPU.",
        stacklevel=3,
    )


def supported(capability: tuple[int, int]) -> bool:
    """Whether the Triton kernels run on a GPU; one that is too old takes plain torch, said once."""
    if capability >= (8, 0):
        return True
    say_too_old(capability)
    return False


@functools.lru_cache
def say_too_old(capability: tuple[int, int]) -> None:
    """Warn, once, that a GPU has no kernels."""
    warnings.warn(
        f"vqmm: this GPU has compute capability {capability[0]}.{capability[1]}; the fused kernels need 8.0 or more, "
        "so searches take plain torch.",
        stacklevel=3,
    )


def parts_of(tiles: int, groups: int, k: int, block_k: int, processors: int) -> int:
    """Into how many parts each tile's codes are split, so that a few vectors use the whole GPU."""
    return max(1, min(2 * processors // groups // max(tiles, 1), k // (2 * block_k)))
