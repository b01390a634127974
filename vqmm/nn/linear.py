"""Linear maps without a bias, through oneDNN on a CPU.

There torch multiplies float32 matrices with MKL, which on an AMD EPYC reaches less than half of what oneDNN does: 87
against 190 GFLOP/s for two thousand rows, 47 against 87 for 16 (one thread, torch 2.11). The operators here are those
that torch.compile puts in the place of `F.linear`; the sums are the same, in another order.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Product = Callable[[Tensor, Tensor | None], Tensor]  # x (N, inputs), and (N, outputs) to be added -> (N, outputs)


class Linear(nn.Module):
    """x (..., inputs) @ weight.T -> (..., outputs), weight (outputs, inputs)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs).normal_(std=inputs**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., inputs) @ weight.T -> (..., outputs), with gradients of first order."""
    usual = not (_has_onednn(x) and _has_onednn(weight)) or torch.is_autocast_enabled("cpu")
    if usual or not x.numel():
        return F.linear(x, weight)
    multiply = _Product.apply if torch.is_grad_enabled() else _multiply
    product: Tensor = multiply(x.reshape(-1, x.shape[-1]), weight)
    return product.view(*x.shape[:-1], len(weight))


def laid_out(weight: Tensor, rows: int) -> Product:
    """x @ weight.T (plus what is given beside x) for x of so many rows, without gradients: the weight is laid out once,
    for many products. A single row is multiplied fastest by the transposed weight."""
    if not _has_onednn(weight):
        return lambda x, more: F.linear(x, weight) if more is None else more + F.linear(x, weight)
    if rows == 1:
        turned = weight.t().contiguous()
        return lambda x, more: torch.mm(x, turned) if more is None else torch.addmm(more, x, turned)
    alone, added = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._linear_pointwise.binary
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x, more: (
        alone(x, packed, None, "none", [], "") if more is None else added(x, more, packed, None, "add")
    )


def _has_onednn(x: Tensor) -> bool:
    usual = x.device.type == "cpu" and x.dtype == torch.float32
    there = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    return usual and there and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # no part of torch's public interface


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T"""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x = _multiply(pull, weight.t()) if ctx.needs_input_grad[0] else None
        to_weight = _multiply(pull.t(), x.t()) if ctx.needs_input_grad[1] else None
        return to_x, to_weight
