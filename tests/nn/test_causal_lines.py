"""Layers of a line that change its rate, and networks of them that step as one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vqmm.nn.causal import CausalConv, CausalStack, CausalUpsample

CLOSE = dict(atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
@pytest.mark.parametrize("time", [1, 7])
def test_it_is_a_transposed_convolution_cut_at_the_right(stride, time):
    torch.manual_seed(0)
    layer = CausalUpsample(3, 4, stride)
    before, now = layer.conv.weight.unflatten(0, (4, stride)).permute(3, 2, 0, 1)  # each (inputs, outputs, stride)
    bias = layer.conv.bias.view(1, 4, stride).repeat(1, 1, time)
    x = torch.randn(2, 3, time)
    full = F.conv_transpose1d(x, torch.cat([now, before], dim=2), stride=stride)  # (time + 1) * stride outputs
    torch.testing.assert_close(layer(x), full[:, :, : time * stride] + bias, **CLOSE)


def test_upsampling_in_steps_is_the_whole():
    layer = CausalUpsample(3, 4, 5)
    x = torch.randn(2, 3, 9)
    state, parts = layer.start(2), []
    for part in x.split([1, 1, 4, 3], dim=2):
        y, state = layer.step(part, None, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=2), layer(x), **CLOSE)


def test_a_stack_steps_with_its_pointwise_layers_and_its_mask():
    torch.manual_seed(0)
    stack = CausalStack([CausalConv(1, 1, 4, 4, stride=2), nn.ELU(), CausalConv(1, 4, 4, 3), CausalUpsample(4, 2, 2)])
    x = torch.randn(2, 1, 20)
    mask = torch.arange(20) < torch.tensor([[20], [11]])
    x[1, :, 11:] = float("nan")
    state, parts = stack.start(2), []
    for first, end in ((0, 2), (2, 12), (12, 20)):
        y, state = stack.step(x[:, :, first:end], None, state, mask[:, first:end])
        parts.append(y)
    whole = stack(x, mask)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, **CLOSE)
    alone = stack(torch.where(mask, x[:, 0], 0)[1:, None, :12], mask[1:, :12])
    torch.testing.assert_close(whole[1:, :, :12], alone, **CLOSE)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="stride 0"):
        CausalUpsample(1, 1, 0)
    stack = CausalStack([CausalConv(1, 1, 1)])
    with pytest.raises(ValueError, match="position 3: a stack just goes on"):
        stack.step(torch.zeros(1, 1, 1), 3, stack.start(1))
