"""Small data that needs no download: `builtin:digits`."""

import os
import tempfile
from pathlib import Path

import numpy as np

from vqmm.errors import UserError, unknown

BUILTIN = "builtin:"  # how such a source is written where a path is expected


def builtin(name: str) -> Path:
    """The file of a built-in data set, made anew in a temporary folder."""
    if name != "digits":
        raise unknown("built-in data set", name, ["digits"])
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError('builtin:digits comes with scikit-learn: pip install "vqmm[demo]"') from None
    digits = load_digits()  # 1,797 handwritten digits, 8 x 8, 0 to 16 (UCI, Alpaydin and Kaynak 1998)
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    folder = Path(tempfile.gettempdir()) / f"vqmm-{os.getuid() if hasattr(os, 'getuid') else 'builtin'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "digits.npz"
    temporary = folder / f"digits.{os.getpid()}.npz"
    np.savez(temporary, x=x, y=digits.target.astype(np.uint8))
    os.replace(temporary, path)
    return path
