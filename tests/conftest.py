"""What every test needs."""

import os
from importlib.util import find_spec
from pathlib import Path

# Before NumPy and SciPy load it: its threads, waiting for each other over matrices of 2 x 2, take a busy machine twenty
# times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch

if not torch.cuda.is_available():
    # Triton chooses its interpreter when it is first imported, and any test may be the one that imports it. With a GPU
    # the kernels are compiled and run there.
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)  # two threads on two busy cores can be ten times slower than one


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("neighbour"):
        name = mark.kwargs["name"]
        if find_spec(name) is None:
            pytest.skip(f'{name} is not installed: pip install -e ".[{name}]" -c constraints/newest.txt')


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data: `VQMM_DATA`, else `../shared/data` beside the project."""
    folder = Path(os.environ.get("VQMM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real data: set VQMM_DATA to its folder")
    return folder
