"""What every layer over a grid may need that does not mix its positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.nn.network import Layer, Span


def blank(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, C, *extent) with zeros where mask (B, *extent) is False, whatever stood there."""
    return x if mask is None else torch.where(mask.unsqueeze(1), x, 0)


class Pointwise(nn.Linear, Layer):
    """A linear map of the channels of each position: (B, inputs, *extent) -> (B, outputs, *extent)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, *extent) -> (B, outputs, *extent)."""
        if x.shape[2:].numel() == 1:  # one step of sampling: a matrix product has less overhead
            return F.linear(x.flatten(1), self.weight, self.bias).view(len(x), self.out_features, *x.shape[2:])
        return F.conv1d(x.flatten(2), self.weight.unsqueeze(-1), self.bias).view(
            len(x), self.out_features, *x.shape[2:]
        )

    def seen(self, outputs: Span, axis: int = 0) -> Span:
        """The same positions: each depends on itself alone."""
        return outputs
