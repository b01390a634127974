"""The promises of the quantizers without a learnt codebook: fsq, lfq, bsq."""

import itertools
import math

import pytest
import torch

from vqmm.errors import UserError
from vqmm.quantizers.scalar import (
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    SphericalQuantizer,
    binary_entropy,
)


def make(kind, **options):
    torch.manual_seed(0)
    return kind(kind.Options(**{"dim": 6, **options}))


def all_codes(quantizer):
    return torch.arange(quantizer.codebook_size)


@pytest.mark.parametrize("levels", [(2,), (3,), (8, 5, 5), (2, 3, 4), (8, 8, 8)])
def test_fsq_takes_every_level_and_no_other(levels):
    quantizer = make(FiniteScalarQuantizer, levels=levels)
    axes = [torch.linspace(-5, 5, 61) for _ in levels]
    rows = torch.cartesian_prod(*axes).reshape(-1, len(levels))
    bounded, digits = quantizer._round(rows)
    index = quantizer._join(digits)
    assert index.unique().tolist() == list(range(math.prod(levels))), "every code can be reached"
    assert torch.equal(quantizer._split(index), digits)
    values = quantizer._values(digits)
    assert values.min() == -1 and values.max() <= 1
    steps = torch.tensor([2.0 / (2 * (level // 2)) for level in levels])
    assert ((values - bounded).abs() <= 0.5 * steps + 1e-5).all(), "rounded to the nearest level"
    for d, level in enumerate(levels):
        expected = [(number - level // 2) / (level // 2) for number in range(level)]
        assert sorted(set(values[:, d].tolist())) == pytest.approx(expected)


def test_fsq_gradient_is_that_of_the_bound():
    quantizer = make(FiniteScalarQuantizer, levels=(5, 4))
    rows = torch.randn(7, 2, requires_grad=True)
    bounded, _ = quantizer._round(rows)
    (pull,) = torch.autograd.grad(bounded.sum(), rows)
    reach = torch.tensor([2.0, 2.0])
    expected = (1 - torch.tanh(rows + quantizer.shifts) ** 2) * quantizer.bounds / reach
    torch.testing.assert_close(pull, expected)


def test_fsq_is_float32_under_autocast():
    quantizer = make(FiniteScalarQuantizer, levels=(8, 8, 8)).eval()
    z = torch.randn(2, 6, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(z)
    assert found.vectors.dtype == torch.float32 and torch.equal(found.vectors, quantizer(z).vectors)


@pytest.mark.parametrize("kind", [LookupFreeQuantizer, SphericalQuantizer])
def test_codes_are_corners(kind):
    quantizer = make(kind, codebook_size=16)
    corners = quantizer._values(quantizer._split(all_codes(quantizer)))
    expected = {tuple(c) for c in itertools.product((-quantizer.side, quantizer.side), repeat=4)}
    assert {tuple(c) for c in corners.tolist()} == {tuple(torch.tensor(c).tolist()) for c in expected}
    if kind is SphericalQuantizer:
        torch.testing.assert_close(corners.norm(dim=1), torch.ones(16))
    rows = torch.randn(50, 4)
    _, digits = quantizer._round(rows)
    nearest = torch.cdist(rows, corners).argmin(1)
    assert torch.equal(quantizer._join(digits), nearest)


@pytest.mark.parametrize("kind", [LookupFreeQuantizer, SphericalQuantizer])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_entropies_are_those_of_the_softmax_over_all_codes(kind, temperature):
    """Written out: p(c | z) = softmax of -|z - c|^2 / temperature over all 2^4 corners."""
    quantizer = make(kind, codebook_size=16, temperature=temperature, count="codes", diversity=0.7, entropy=1.0)
    rows = torch.randn(30, 4)
    bounded, digits = quantizer._round(rows)
    corners = quantizer._values(quantizer._split(all_codes(quantizer)))
    keep = torch.rand(30) < 0.8
    p = (-torch.cdist(bounded.double(), corners.double()).square() / temperature).softmax(1)[keep]
    certainty = torch.special.entr(p).sum(1).mean()
    use = torch.special.entr(p.mean(0)).sum()
    found = quantizer._losses(bounded, quantizer._values(digits), keep)
    torch.testing.assert_close(found["entropy"].double(), certainty - 0.7 * use, rtol=1e-4, atol=1e-5)
    bits = make(kind, codebook_size=16, temperature=temperature, count="bits", diversity=0.7, entropy=1.0)
    assert bits._losses(bounded, quantizer._values(digits), keep)["entropy"] <= found["entropy"] + 1e-5, (
        "an upper bound of use"
    )


def test_binary_entropy():
    p = torch.tensor([0.5, 0.9, 0.01])
    torch.testing.assert_close(binary_entropy(torch.logit(p)), torch.special.entr(p) + torch.special.entr(1 - p))
    assert binary_entropy(torch.tensor([1e4, -1e4])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", [FiniteScalarQuantizer, LookupFreeQuantizer, SphericalQuantizer])
def test_what_does_not_count_has_code_0_no_loss_and_no_gradient(kind):
    quantizer = make(kind)
    z = torch.randn(2, 6, 3, 3)
    z[0, 2, 1, 1] = float("nan")
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[1, 2] = False
    found = quantizer(z.requires_grad_(), mask)
    out = ~mask
    out[0, 1, 1] = True
    assert not found.codes.maps[0][:, 0][out].any()
    total = found.vectors.sum() + sum(found.losses.values())
    (pull,) = torch.autograd.grad(total, z)
    assert pull.isfinite().all() and not pull.movedim(1, -1)[out].any() and pull.movedim(1, -1)[~out].any()
    assert total.isfinite()


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (FiniteScalarQuantizer, {"levels": (8, 1)}, r"\[8, 1\] has 1; every dimension needs 2 levels or more"),
        (LookupFreeQuantizer, {"codebook_size": 3000}, "3000 is no power of two; signs make 2048 or 4096 codes"),
        (SphericalQuantizer, {"codebook_size": 1}, "1 is no power of two; signs make 2 codes"),
    ],
)
def test_mistakes(kind, options, said):
    with pytest.raises(UserError, match=said):
        kind(kind.Options(**options))
