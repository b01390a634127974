"""Which tile vector_quantize takes."""

from typing import NamedTuple

from vqmm.kernels.tables import Tables


class Config(NamedTuple):
    """A row of a table: for widths up to max_width, a tile of vectors by coordinates, and the warps that hold it."""

    max_width: int
    block_n: int
    block_d: int
    warps: int
    measured: bool = False
    below: str = ""


TABLES = Tables("vector_quantize", Config, least=1)
