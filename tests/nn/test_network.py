"""What a network says of itself, and what a plain module is taken to say."""

import pytest
import torch
from torch import nn

from vqmm.nn import ConvDecoder, ConvEncoder, Layer, Network, Stack, as_network, call_masked
from vqmm.nn.causal import CausalConv, CausalStack, GatedBlock
from vqmm.nn.receptive_field import seen


class Masked(Layer):
    """Takes a mask, and gives back what it got of it."""

    takes_mask = True

    def forward(self, x, mask=None):
        return x if mask is None else torch.where(mask.unsqueeze(1), x, 7.0)


def test_a_plain_module_is_a_network_with_every_default():
    plain = nn.Sequential(nn.Conv1d(2, 3, 4, 4))
    network = as_network(plain)
    assert (network.takes_mask, network.causal, network.receptive_field, network.lookahead) == (False, False, None, 0)
    x = torch.randn(2, 2, 8)
    torch.testing.assert_close(network(x), plain(x), rtol=0, atol=0)
    assert [*network.parameters()] == [], "the weights stay where they are, under the names they have"
    assert isinstance(as_network(ConvEncoder(1, 1, 4, (4,), 8, 1, False)), ConvEncoder)


@pytest.mark.parametrize("kind", [ConvEncoder, ConvDecoder])
def test_the_networks_of_the_house_are_themselves(kind):
    network = kind(1, 1, 4, (4,), 8, 1, False)
    assert as_network(network) is network and network.takes_mask and not network.causal
    assert isinstance(network.receptive_field, int)


def test_a_mask_goes_to_those_that_take_one():
    x, mask = torch.zeros(1, 1, 4), torch.tensor([[True, True, False, False]])
    assert call_masked(Masked(), x, mask)[0, 0].tolist() == [0, 0, 7, 7]
    assert Stack([nn.Identity(), Masked()])(x, mask)[0, 0].tolist() == [0, 0, 7, 7]
    assert call_masked(nn.Identity(), x, mask) is x


def test_a_stack_steps_by_what_its_layers_say():
    stack = CausalStack([CausalConv(1, 2, 2, 3), nn.SiLU(), Masked()])
    assert [state is None for state in stack.start(1)] == [False, True, True]


def test_what_is_promised_and_missing_is_named():
    class Silent(Network):
        causal = True

    with pytest.raises(NotImplementedError, match=r"Silent needs a method start\(batch\)"):
        Silent().start(1)
    with pytest.raises(NotImplementedError, match=r"Silent needs a method step\(x, position, state, mask\)"):
        Silent().step(torch.zeros(1, 1, 1), None, None)
    with pytest.raises(TypeError, match=r"Masked needs a method seen\(outputs, axis\)"):
        seen(nn.Sequential(Masked()), (0, 0))
    with pytest.raises(TypeError, match="rank 2: only a line"):
        seen(CausalConv(2, 1, 1, 3), (0, 0))
    with pytest.raises(TypeError, match="rank 2: only a line"):
        GatedBlock(2, 4, 3).seen((0, 0))
