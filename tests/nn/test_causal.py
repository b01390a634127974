"""Layers that never look ahead, and step by step say what they say at once."""

import math

import pytest
import torch

from tests.covering import pairs
from vqmm.nn.causal import CausalAttention, CausalConv, GatedBlock

EXTENTS = {1: (13,), 2: (5, 7), 3: (3, 5, 4)}
CLOSE = dict(atol=1e-5, rtol=1e-5)
RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


def sees(function, shape):
    """bool (positions out, positions in), True where an output depends on an input."""
    x = torch.randn(1, *shape, requires_grad=True)
    y = function(x).flatten(2)
    rows = [
        torch.autograd.grad(y[..., p].sum(), x, retain_graph=True)[0].flatten(2).abs().sum(dim=(0, 1)) > 0
        for p in range(y.shape[2])
    ]
    return torch.stack(rows)


def stepped(layer, x, *others, chunk=1):
    """The layer called a chunk after the other, over x and others (B, ..., *extent); tensors joined again."""
    state, parts = layer.start(len(x), x.shape[2:]), []
    lines = [None if each is None else each.flatten(each.ndim - x.ndim + 2) for each in (x, *others)]
    for position in range(0, lines[0].shape[-1], chunk):
        now, *rest = (None if each is None else each[..., position : position + chunk] for each in lines)
        y, state = layer.step(now, position, state, *rest)
        parts.append(y if isinstance(y, tuple) else (y,))
    return [torch.cat(each, dim=2).unflatten(2, x.shape[2:]) for each in zip(*parts, strict=True)]


def box_mask(extent, *sizes):
    mask = torch.zeros(len(sizes), *extent, dtype=torch.bool)
    for own, size in zip(mask, sizes, strict=True):
        own[tuple(slice(0, n) for n in size)] = True
    return mask


@pytest.mark.parametrize("mask", ["A", "B"])
@RANKS
def test_a_convolution_sees_its_past_and_nothing_else(rank, mask):
    torch.manual_seed(0)
    extent, dilation = EXTENTS[rank], 2
    layer = CausalConv(rank, 2, 3, 3, dilation=dilation, mask=mask)
    found = sees(layer, (2, *extent))
    places = torch.cartesian_prod(*map(torch.arange, extent)).view(-1, rank)
    gap = places.unsqueeze(1) - places.unsqueeze(0)  # output minus input
    first = 1 if mask == "A" and rank == 1 else 0
    gap[..., 0] -= first
    near = (gap % dilation == 0).all(-1) & (gap.abs() <= (2 * dilation if rank == 1 else dilation)).all(-1)
    order = torch.arange(len(places))
    before = order.unsqueeze(1) - first >= order if mask == "B" or rank == 1 else order.unsqueeze(1) > order
    assert torch.equal(found, near & before)


def test_a_convolution_by_hand():
    layer = CausalConv(1, 1, 1, 2, dilation=2)
    x = torch.tensor([[[1.0, 2, 3, 4]]])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[10.0, 1.0]]]))
        layer.bias.zero_()
        assert layer(x).tolist() == [[[1, 2, 13, 24]]]
        square = CausalConv(2, 1, 1, 3, mask="A")
        square.weight.copy_(torch.tensor([[[1.0, 10, 100, 1000]]]))  # three above, one to the left
        square.bias.zero_()
        assert square(torch.tensor([[[[1.0, 2], [3, 4]]]])).tolist() == [[[[0, 1000], [210, 3021]]]]


@pairs(rank=[1, 2, 3], kind=[("A", 3, 1), ("B", 5, 1), ("B", 3, 2), ("A", 3, 3)], batch=[0, 1, 3])
def test_stepping_a_convolution_is_the_whole(rank, kind, batch):
    mask, kernel, dilation = kind
    torch.manual_seed(0)
    layer = CausalConv(rank, 2, 3, kernel, dilation=dilation, mask=mask)
    x = torch.randn(batch, 2, *EXTENTS[rank])
    for chunk in (1, 4):
        torch.testing.assert_close(stepped(layer, x, chunk=chunk)[0], layer(x), **CLOSE)


@pytest.mark.parametrize(
    ("stride", "dilation", "kernel", "mask"), [(1, 3, 3, "B"), (2, 1, 4, "B"), (4, 2, 3, "B"), (1, 2, 2, "A")]
)
def test_a_stream_in_chunks_of_any_length_is_the_whole(stride, dilation, kernel, mask):
    torch.manual_seed(0)
    layer = CausalConv(1, 2, 3, kernel, dilation=dilation, stride=stride, mask=mask)
    x = torch.randn(2, 2, 60 * stride)
    state, parts = layer.start(2), []
    length = state.values.shape
    for part in x.split([n * stride for n in (1, 7, 0, 30, 1, 1, 20)], dim=2):
        y, state = layer.step(part, None, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=2), layer(x), **CLOSE)
    assert layer(x).shape == (2, 3, 60)
    assert state.values.shape == length == (2, (kernel - 1) * dilation + 1 + (mask == "A"), 2)
    assert layer(x[..., : 5 * stride + stride - 1]).shape == (2, 3, 5)


def test_a_strided_convolution_gives_an_output_when_its_last_input_is_there():
    found = sees(CausalConv(1, 1, 1, 4, stride=2), (1, 6))
    assert found.int().tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]


@RANKS
def test_positions_left_out_count_as_zeros(rank):
    torch.manual_seed(0)
    extent = EXTENTS[rank]
    there = torch.rand(extent) < 0.4
    x = torch.where(there, torch.randn(1, 2, *extent), 0)
    for mask in ("A", "B"):
        layer = CausalConv(rank, 2, 3, 3, dilation=2, mask=mask)
        whole, state = layer(x).flatten(2), layer.start(1, extent)
        for position in there.flatten().nonzero().flatten().tolist():
            y, state = layer.step(x.flatten(2)[..., position : position + 1], position, state)
            torch.testing.assert_close(y, whole[..., position : position + 1], **CLOSE)


@RANKS
def test_mask_a_can_be_asked_before_the_position_is_known(rank):
    torch.manual_seed(0)
    layer = CausalConv(rank, 1, 2, 3, mask="A")
    x = torch.randn(2, 1, *EXTENTS[rank])
    state, line = layer.start(2, x.shape[2:]), x.flatten(2)
    for position in range(line.shape[2]):
        at = slice(position, position + 1)
        torch.testing.assert_close(layer.look(position, state), layer(x).flatten(2)[..., at], **CLOSE)
        layer.remember(line[..., at], position, state)


@pairs(rank=[1, 2, 3], window=[None, 1, 2, 3, 100], strict=[False, True])
def test_attention_sees_its_past_within_the_window(rank, window, strict):
    torch.manual_seed(0)
    extent = EXTENTS[rank]
    count, inner = math.prod(extent), math.prod(extent[1:])
    layer = CausalAttention(rank, 4, heads=2, size=6, memory=3, strict=strict, window=window)
    query = torch.randn(1, 4, *extent)
    order = torch.arange(count)
    before = order.unsqueeze(1) > order if strict else order.unsqueeze(1) >= order
    near = order.unsqueeze(1) // inner - order // inner < (window or count)
    assert torch.equal(sees(lambda memory: layer(query, None, memory), (3, *extent)), before & near)


@pairs(rank=[1, 2, 3], window=[None, 2], strict=[False, True], masked=[False, True])
def test_stepping_attention_is_the_whole(rank, window, strict, masked):
    torch.manual_seed(0)
    extent = EXTENTS[rank]
    layer = CausalAttention(rank, 4, heads=2, size=6, strict=strict, window=window)
    for batch in (0, 1, 2):
        x = torch.randn(batch, 4, *extent)
        mask = box_mask(extent, *[extent, (2,) * rank][:batch]) if masked else None
        whole = layer(x, mask)
        for chunk in (1, 5):
            torch.testing.assert_close(stepped(layer, x, mask, chunk=chunk)[0], whole, **CLOSE)


@pytest.mark.parametrize("strict", [False, True])
def test_attention_with_a_memory_is_told_of_it_by_the_caller(strict):
    torch.manual_seed(0)
    layer = CausalAttention(2, 4, heads=1, size=8, memory=3, strict=strict, window=2)
    x, memory = torch.randn(2, 4, 3, 5), torch.randn(2, 3, 3, 5)
    whole, state = layer(x, None, memory).flatten(2), layer.start(2, (3, 5))
    assert strict == bool((layer(x, None, memory)[..., 0, 0] == layer.out.bias).all()), "nothing before the first"
    for position in range(15):
        at = slice(position, position + 1)
        if not strict:
            layer.remember(memory.flatten(2)[..., at], position, state)
        y, state = layer.step(x.flatten(2)[..., at], position, state)
        torch.testing.assert_close(y, whole[..., at], **CLOSE)
        if strict:
            layer.remember(memory.flatten(2)[..., at], position, state)


@RANKS
def test_stepping_a_block_is_the_whole(rank):
    torch.manual_seed(0)
    extent = EXTENTS[rank]
    layer = GatedBlock(rank, 6, 3, dilation=2, condition=4, skip=5, hidden=3).eval()
    for batch in (0, 1, 2):
        x, condition = torch.randn(batch, 6, *extent), torch.randn(batch, 4, *extent)
        mask = box_mask(extent, *[extent, (2,) * rank][:batch])
        whole = layer(x, condition, mask)
        assert [each.shape[1] for each in whole] == [6, 5]
        for chunk in (1, 5):
            for part, expected in zip(stepped(layer, x, condition, mask, chunk=chunk), whole, strict=True):
                torch.testing.assert_close(part, expected, **CLOSE)
    assert layer(x, condition)[1].isfinite().all()
    assert GatedBlock(rank, 6)(x)[1].shape[1] == 0, "no condition, no skip"


@RANKS
def test_a_sample_is_the_same_alone_and_beside_a_longer_one(rank):
    """Whatever lies in the padding, NaN too, gradients included."""
    torch.manual_seed(0)
    extent, small = EXTENTS[rank], (2,) * rank
    block = GatedBlock(rank, 4, condition=2, skip=4)
    attention = CausalAttention(rank, 4, heads=1, size=4, window=2)
    x, condition = torch.randn(2, 4, *extent), torch.randn(2, 2, *extent)
    mask = box_mask(extent, small, extent)
    x[~mask.unsqueeze(1).expand_as(x)] = float("nan")
    x.requires_grad_()

    def run(x, condition, mask):
        h, skip = block(x, condition, mask)
        return skip + attention(h, mask)

    box = (slice(0, 1), slice(None), *(slice(0, n) for n in small))
    alone = run(x[box], condition[box], None)
    beside = run(x, condition, mask)[box]
    torch.testing.assert_close(beside, alone, **CLOSE)
    (pull,) = torch.autograd.grad(beside.sum(), block.out.weight, retain_graph=True)
    assert pull.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(rank=4), "rank is 1, 2 or 3"),
        (dict(rank=2, mask="C"), "mask 'A' or 'B'"),
        (dict(rank=2, kernel=4), "a kernel of 4 at rank 2: must be odd"),
        (dict(rank=3, kernel=1, mask="A"), "with mask 'A' at least 3"),
        (dict(rank=2, stride=2), "stride 2 with rank 2"),
        (dict(rank=1, kernel=3, stride=4), "a kernel that spans 3"),
    ],
)
def test_a_convolution_that_cannot_be(wrong, said):
    with pytest.raises(ValueError, match=said):
        CausalConv(**{"inputs": 1, "outputs": 1, **wrong})


def test_steps_that_cannot_be():
    with pytest.raises(ValueError, match="the size is even"):
        CausalAttention(2, 4, size=3)
    line = CausalConv(1, 1, 1, 4, stride=2)
    with pytest.raises(ValueError, match="3 positions does not divide by the stride 2"):
        line.step(torch.zeros(1, 1, 3), None, line.start(1))
    square = CausalConv(2, 1, 1)
    with pytest.raises(ValueError, match=r"an extent of \(3,\) for a layer of rank 2"):
        square.start(1, (3,))
    state = square.start(1, (3, 3))
    square.step(torch.zeros(1, 1, 1), 4, state)
    with pytest.raises(ValueError, match="only goes forward"):
        square.step(torch.zeros(1, 1, 1), 4, state)
    with pytest.raises(ValueError, match="needs a position"):
        square.step(torch.zeros(1, 1, 1), None, state)
