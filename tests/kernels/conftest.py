"""Kernel tests run in one thread, on fresh memory that is never lucky."""

from collections.abc import Iterator

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


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
