"""Kernel tests run in one thread, on fresh memory that is never lucky."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch


def poison(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype == torch.bool:
        return tensor
    return tensor.fill_(float("nan") if tensor.is_floating_point() else -1)


@pytest.fixture(autouse=True)
def new_memory_is_never_lucky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers start as -1 and floats as NaN, so an output that nothing wrote cannot pass."""

    def patch(owner: object, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: poison(real(*args, **kwargs)))

    patch(torch, "empty")
    patch(torch, "empty_like")
    patch(torch.Tensor, "new_empty")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def the_interpreter_prepares_once_a_launch() -> None:
    """Triton's interpreter puts its own functions in the place of the language's, and does so anew in every call of a
    function inside a kernel, where they are in place already: two fifths of its time. Once a launch is enough."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        return
    from triton.runtime import interpreter

    if not (hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "GridExecutor")):
        return  # another Triton: slower, and as right
    prepare, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    languages = (interpreter.tl, interpreter.tl.core)
    done: set[frozenset[int]] = set()

    def prepare_once(fn: Any) -> Any:
        seen = frozenset(id(value) for value in fn.__globals__.values() if any(value is each for each in languages))
        if seen in done:
            return None
        done.add(seen)
        return prepare(fn)

    def launch_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return launch(self, *args, **kwargs)
        finally:
            done.clear()  # they are out of place again

    interpreter._patch_lang = prepare_once
    interpreter.GridExecutor.__call__ = launch_once


@pytest.fixture(autouse=True)
def products_do_not_depend_on_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies with NumPy, whose float32 sums on some processors depend on where in the matrix a
    column stands; a tensor core's do not. In float64, rounded once, equal columns are equal again."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    real = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if not {a.data.dtype, b.data.dtype} <= {np.dtype(np.float16), np.dtype(np.float32)}:
            return real(self, a, b, d, *rest)
        product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)).astype(d.data.dtype)
        return TensorHandle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
