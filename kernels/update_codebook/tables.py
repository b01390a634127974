"""Which tile update_codebook takes."""

from typing import NamedTuple

from vqmm.kernels.tables import Tables


class Config(NamedTuple):
    """A row of a table: for widths up to max_width, a tile of codes by coordinates, and the warps that hold it."""

    max_width: int
    block_k: int
    block_d: int
    warps: int
    measured: bool = False
    below: str = ""


TABLES = Tables("update_codebook", Config, least=1)
