"""What every test needs."""

import os
from collections.abc import Iterator
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

# Tried with the oldest set of versions besides what is marked so: kernels, which a change of torch, Triton or numpy is
# most likely to break; without a GPU in Triton's interpreter.
OLDEST = ("test_nearest_code.py", "test_nearest_code_triton.py", "test_vector_quantize.py", "test_cached_attention.py")
OLDEST += ("test_vector_quantize_paths.py", "test_update_codebook.py", "test_codebook_softmax.py")
OLDEST += ("test_residual_quantize.py", "test_residual_operators.py")


# Few tests that take long: begun last, as they are by their number, one of two processes would wait for the other.
FIRST = ("test_demo.py", "test_processes.py", "test_quantizer_benchmark.py", "test_long_signals.py", "test_lanes.py")
FIRST += ("test_class_priors.py", "test_audio_continuation.py", "test_adversarial_processes.py", "test_encode.py")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist: files with the most tests first
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    for item in items:
        if item.path.parent.name == "kernels" and item.path.name in OLDEST:
            item.add_marker(pytest.mark.oldest)


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


@pytest.fixture(scope="session", autouse=True)
def _tiny_trainings_draw_no_page() -> Iterator[None]:
    """Unless a test asks for `pages`."""
    from tests.processes import empty_page
    from vqmm.commands import train

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "write_page", empty_page)
        yield


@pytest.fixture(scope="module")
def pages() -> Iterator[None]:
    """Trainings in this module end with the page that a user gets."""
    from vqmm.commands import train
    from vqmm.pages.page import write_page

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "write_page", write_page)
        yield
