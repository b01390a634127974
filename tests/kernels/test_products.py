"""Products of float32 on a CPU: what torch was told of them does not reach ours, and is as it was afterwards."""

import threading
from collections.abc import Iterator

import pytest
import torch
from kernel_cases import search

from vqmm.kernels.nearest_code.plain import search_in_tiles
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.products import full_float32


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture(params=["medium", "high", "highest"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield setting()
    torch.set_float32_matmul_precision(before)


def test_float32_inside_and_what_was_told_outside(precision):
    with full_float32():
        assert setting() == "ieee"
        with full_float32():
            assert setting() == "ieee"
        assert setting() == "ieee"
    assert setting() == precision
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert setting() == precision


def test_threads_that_overlap(precision):
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_float32():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with full_float32():
        thread.start()
        assert entered.wait(10)
    assert setting() == "ieee"  # the other is still inside
    leave.set()
    thread.join()
    assert setting() == precision


@pytest.mark.parametrize("path", ["addmm", "baddbmm"])
def test_plain_searches_multiply_in_float32(path, precision, generator, monkeypatch):
    x, code = torch.randn(40, 8, generator=generator), torch.randn(20, 8, generator=generator)
    seen, multiply = [], getattr(torch, path)
    monkeypatch.setattr(torch, path, lambda *args, **more: (seen.append(setting()), multiply(*args, **more))[1])
    if path == "addmm":
        search("torch", x, code)
    else:
        search_in_tiles(x, prepare(code, "euclidean"), "euclidean", torch.empty(40, dtype=torch.int32), None)
    assert seen and set(seen) == {"ieee"} and setting() == precision
