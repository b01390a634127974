"""Small data that needs no download: `builtin:digits`."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from vqmm.errors import UserError, unknown

BUILTIN = "builtin:"  # how such a source is written where a path is expected


@cache
def builtin(name: str) -> Path:
    """The file of a built-in data set, in a temporary folder that goes when this process ends."""
    if name != "digits":
        raise unknown("built-in data set", name, ["digits"])
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError('builtin:digits comes with scikit-learn: pip install "vqmm[demo]"') from None
    digits = load_digits()  # 1,797 handwritten digits, 8 x 8, 0 to 16 (UCI, Alpaydin and Kaynak 1998)
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    folder = tempfile.mkdtemp(prefix="vqmm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "digits.npz"
    np.savez(path, x=x, y=digits.target.astype(np.uint8))
    return path
