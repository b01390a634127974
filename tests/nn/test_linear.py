"""Linear maps through oneDNN: those of torch, in another order."""

import pytest
import torch
from torch.nn import functional as F

from vqmm.nn import linear
from vqmm.nn.linear import Linear, laid_out

torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (1, 5), (0, 5), (2, 0, 5)], ids=str)
@pytest.mark.parametrize("onednn", [True, False])
def test_a_map_and_its_gradients_are_those_of_torch(shape, onednn, monkeypatch):
    if not onednn:
        monkeypatch.setattr(linear, "_has_onednn", lambda x: False)
    made = Linear(5, 11)
    x = torch.randn(shape, requires_grad=True)
    found = made(x)
    pulls = torch.autograd.grad(found.cos().sum(), (x, made.weight))
    right = F.linear(x, made.weight)
    expected = torch.autograd.grad(right.cos().sum(), (x, made.weight))
    assert torch.allclose(found, right, atol=1e-5)
    assert all(map(lambda one, other: torch.allclose(one, other, atol=1e-5), pulls, expected))


def test_a_transposed_input_and_one_gradient_alone():
    made = Linear(5, 4)
    x = torch.randn(5, 6).t().requires_grad_()
    (pull,) = torch.autograd.grad(made(x).sum(), made.weight)
    assert torch.allclose(pull, x.sum(dim=0).expand(4, 5), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(made(x), F.linear(x, made.weight), atol=1e-5)
    made.weight.requires_grad_(False)
    (pull,) = torch.autograd.grad(made(x).sum(), x)
    assert torch.allclose(pull, made.weight.sum(dim=0).expand(6, 5), atol=1e-5)


def test_autocast_and_other_types_go_the_usual_way():
    made = Linear(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made(torch.randn(3, 5)).dtype == torch.bfloat16
    assert made.double()(torch.randn(3, 5).double()).dtype == torch.float64


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_laid_out_gives_the_same_products(rows, dtype):
    weight, x = torch.randn(11, 5).to(dtype), torch.randn(rows, 5).to(dtype)
    for planned in (rows, 16):
        product, more = laid_out(weight, planned), torch.randn(rows, 11).to(dtype)
        before = more.clone()
        assert torch.allclose(product(x, None), F.linear(x, weight), atol=1e-5)
        assert torch.allclose(product(x, more), more + F.linear(x, weight), atol=1e-5) and torch.equal(more, before)
