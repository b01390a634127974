"""The promises of the quantizers that round every dimension by itself: fsq, lfq, bsq."""

import math

import pytest
import torch

from vqmm.quantizers.scalar import FiniteScalarQuantizer
from vqmm.quantizers.signs import LookupFreeQuantizer, SphericalQuantizer
from vqmm.utils.errors import UserError


def make(kind, **options):
    torch.manual_seed(0)
    return kind(kind.Options(**{"dim": 6, **options}))


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


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FiniteScalarQuantizer, {}),
        (LookupFreeQuantizer, {}),
        (LookupFreeQuantizer, {"assign": "nearest"}),
        (SphericalQuantizer, {}),
        (SphericalQuantizer, {"assign": "nearest"}),
    ],
    ids=str,
)
def test_what_does_not_count_has_code_0_no_loss_and_no_gradient(kind, options):
    quantizer = make(kind, **options)
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


def test_levels_below_two_are_refused():
    with pytest.raises(UserError, match=r"\[8, 1\] has 1; every dimension needs 2 levels or more"):
        make(FiniteScalarQuantizer, levels=(8, 1))
