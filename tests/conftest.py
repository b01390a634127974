"""What every test needs."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two threads on two busy cores can be ten times slower than one


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data: `VQMM_DATA`, else `../shared/data` beside the project."""
    folder = Path(os.environ.get("VQMM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real data: set VQMM_DATA to its folder")
    return folder
