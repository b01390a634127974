"""The promises of the residual and the grouped quantizer."""

import pytest
import torch

from vqmm.contracts.batch import Codes
from vqmm.quantizers.grouped import GroupedQuantizer
from vqmm.quantizers.residual import ResidualQuantizer
from vqmm.quantizers.vector import VectorQuantizer
from vqmm.utils.errors import UserError


def same(value):
    return value


def residual(**options):
    torch.manual_seed(0)
    return ResidualQuantizer(ResidualQuantizer.Options(**{"dim": 6, "stages": 3, "codebook_size": 16, **options}))


def grouped(**options):
    torch.manual_seed(0)
    return GroupedQuantizer(GroupedQuantizer.Options(**{"dim": 6, "groups": 3, "codebook_size": 16, **options}))


def trained(quantizer, z, steps=10):
    quantizer.initialise(z)
    for step in range(steps):
        quantizer.train()(z.clone().requires_grad_())
        quantizer.after_step(same, step / steps)
    return quantizer.eval()


@pytest.mark.parametrize("options", [{}, {"codebook_size": (4, 16, 32)}, {"shared": True}, {"project": 4}], ids=str)
def test_the_error_falls_with_every_stage(options):
    z = torch.randn(16, 6, 6, 6)
    quantizer = trained(residual(**options), z)
    errors = [(z - quantizer(z, stages=used).vectors).square().mean() for used in (1, 2, 3)]
    if "project" not in options:  # a projection that nothing trains limits the last stages
        assert errors[0] > errors[1] > errors[2] and errors[2] < 0.5 * z.square().mean()
    for used in (1, 2, 3):
        found = quantizer(z, stages=used)
        assert found.codes.maps[0].shape == (16, used, 6, 6)
        assert torch.equal(quantizer.lookup(found.codes), found.vectors)
        whole = quantizer(z).codes.maps[0]
        assert torch.equal(found.codes.maps[0], whole[:, :used]), "a lower rate is the beginning of a higher one"


def test_the_commitment_of_every_stage_reaches_the_encoder():
    """Promise 1: the gradient of each stage's own error with respect to z is 2 (r_q - code_q), and not zero."""
    from vqmm.kernels.residual_quantize import residual_quantize

    quantizer = residual()
    rows = torch.randn(20, 6, requires_grad=True)
    found = residual_quantize(rows, quantizer.codebook, (16, 16, 16))
    left = rows.detach()
    for q, book in enumerate(quantizer.codebook.split(16)):
        (pull,) = torch.autograd.grad(found.error_NQ[:, q].sum(), rows, retain_graph=True)
        left = left - book[found.index_NQ[:, q].long()]
        torch.testing.assert_close(pull, 2 * left)
        assert pull.abs().sum() > 0
    z = torch.randn(2, 6, 5, 5, requires_grad=True)
    (of_three,) = torch.autograd.grad(quantizer(z).losses["commitment"], z)
    (of_one,) = torch.autograd.grad(quantizer(z, stages=1).losses["commitment"], z)
    assert not torch.allclose(of_three, of_one)


def test_stages_can_differ_from_sample_to_sample():
    z = torch.randn(3, 6, 4, 4)
    quantizer = trained(residual(), z)
    used = torch.tensor([1, 3, 2])
    found = quantizer(z, stages=used)
    for sample, count in enumerate(used.tolist()):
        alone = quantizer(z[sample : sample + 1], stages=count)
        torch.testing.assert_close(found.vectors[sample], alone.vectors[0])
        assert (found.codes.maps[0][sample, count:] == -1).all()
    assert torch.equal(quantizer.lookup(found.codes), found.vectors)


def test_dropout_of_stages_is_for_training():
    quantizer, z = residual(dropout=1.0), torch.randn(64, 6, 2, 2)
    quantizer.initialise(z)
    codes = quantizer.train()(z.requires_grad_()).codes.maps[0]
    assert {int((sample >= 0).all(dim=(1, 2)).sum()) for sample in codes} == {1, 2, 3}
    assert (quantizer.eval()(z).codes.maps[0] >= 0).all()


def test_the_codebook_follows_the_residuals_by_hand():
    quantizer = residual(stages=2, codebook_size=2, dim=1, start="random", decay=0.9, revive_below=0.0)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0], [10.0], [-1.0], [1.0]]))
        quantizer.sums.copy_(quantizer.codebook)
    quantizer.train()(torch.tensor([[[2.0, 8.5]]]).requires_grad_())  # residuals 2 and -1.5: codes 1 and -1
    quantizer.after_step(same, 1.0)
    expected = [0.1 * 2, 9 + 0.1 * 8.5, -0.9 - 0.1 * 1.5, 0.9 + 0.1 * 2]
    assert quantizer.sums[:, 0].tolist() == pytest.approx(expected)


def test_one_group_is_the_vector_quantizer():
    torch.manual_seed(0)
    alone = VectorQuantizer(VectorQuantizer.Options(dim=6, codebook_size=16))
    one, z = grouped(groups=1), torch.randn(4, 6, 5, 5)
    for quantizer in (one, alone):
        trained(quantizer, z)
    assert torch.equal(one.codebook, alone.codebook)
    assert torch.equal(one(z).vectors, alone(z).vectors) and torch.equal(one(z).codes.maps[0], alone(z).codes.maps[0])


@pytest.mark.parametrize("shared", [False, True])
def test_groups_quantize_their_own_part(shared):
    z = torch.randn(8, 6, 5, 5)
    quantizer = trained(grouped(shared=shared), z)
    found = quantizer(z)
    books = quantizer.codebook.split(16) if not shared else [quantizer.codebook] * 3
    for g, (part, book) in enumerate(zip(z.chunk(3, dim=1), books, strict=True)):
        rows = part.movedim(1, -1).reshape(-1, 2)
        nearest = torch.cdist(rows.double(), book.double()).argmin(1).reshape(8, 5, 5)
        assert torch.equal(found.codes.maps[0][:, g].long(), nearest)
        torch.testing.assert_close(found.vectors[:, 2 * g : 2 * g + 2], book[nearest].movedim(-1, 1))


@pytest.mark.parametrize("make", [residual, grouped])
def test_several_forwards_before_a_step_equal_one_on_the_joined_batch(make):
    one, many = make(), make()
    for step in range(4):
        z = torch.randn(8, 6, 4, 4) * (step + 1)
        one.train()(z.requires_grad_())
        for part in z.detach().chunk(4):
            many.train()(part.requires_grad_())
        for each in (one, many):
            each.after_step(same, step / 4)
        torch.testing.assert_close(one.counts, many.counts)
        torch.testing.assert_close(one.codebook, many.codebook, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [residual, grouped])
def test_every_codebook_revives_its_own(make):
    quantizer = make(revive_below=0.1, start="random", decay=0.5)
    with torch.no_grad():
        quantizer.codebook[[3, 20, 40]] = 1000.0
        quantizer.sums.copy_(quantizer.codebook)
    for _ in range(8):
        quantizer.train()(torch.randn(16, 6, 4, 4, requires_grad=True))
        quantizer.after_step(same, 0.0)
    assert quantizer.codebook.abs().max() < 10


def test_masked_positions_take_no_part():
    for make in (residual, grouped):
        z = torch.randn(4, 6, 4, 4)
        mask = torch.ones(4, 4, 4, dtype=torch.bool)
        mask[:, :, 2:] = False
        full, cut = make(), make()
        losses = []
        for quantizer, latents, seen in ((full, z, mask), (cut, z[..., :2], None)):
            losses.append(quantizer.train()(latents.clone().requires_grad_(), seen).losses["commitment"])
            quantizer.after_step(same, 0.5)
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(full.codebook, cut.codebook)


@pytest.mark.parametrize(
    ("quantizer", "options", "said"),
    [
        (ResidualQuantizer, {"codebook_size": (16, 16)}, r"\(16, 16\) for 4 stages: give one number, at least 1, or 4"),
        (ResidualQuantizer, {"codebook_size": 0}, "0 for 4 stages"),
        (ResidualQuantizer, {"stages": 2, "codebook_size": (4, 8), "shared": True}, "one codebook has one size"),
        (
            GroupedQuantizer,
            {"dim": 64, "groups": 3},
            "3 groups do not divide 64 dimensions: set quantizer.project to 66",
        ),
    ],
)
def test_mistakes(quantizer, options, said):
    with pytest.raises(UserError, match=said):
        quantizer(quantizer.Options(**options))


def test_more_stages_than_there_are():
    with pytest.raises(UserError, match="5 stages: this tokenizer has 1 to 3"):
        residual()(torch.zeros(1, 6, 2, 2), stages=5)
    quantizer = residual().eval()
    one = quantizer.lookup(Codes((torch.zeros(1, 1, 2, 2, dtype=torch.int32),), torch.tensor([[2, 2]])))
    assert torch.equal(one[0, :, 0, 0], quantizer.codebook[0])


def test_the_vectors_of_codes_add_up_to_what_is_looked_up():
    made = ResidualQuantizer(ResidualQuantizer.Options(dim=4, stages=3, codebook_size=5), rank=2)
    made.initialise(torch.randn(2, 4, 8, 8))
    vectors = made.code_vectors()
    assert [tuple(stage.shape) for stage in vectors] == [(5, 4)] * 3
    maps = torch.randint(5, (6, 3, 1, 1))
    looked_up = made.lookup(Codes((maps,), torch.ones(6, 2, dtype=torch.int64)))[:, :, 0, 0]
    sums = sum(stage[maps[:, s, 0, 0]] for s, stage in enumerate(vectors))
    zero = made.lookup(Codes((torch.zeros(1, 3, 1, 1, dtype=torch.int64),), torch.ones(1, 2, dtype=torch.int64)))
    assert torch.allclose(sums - 2 * zero.flatten(), looked_up, atol=1e-5)


def test_ids_and_several_maps_have_no_vectors():
    from vqmm.quantizers.hierarchical import HierarchicalQuantizer
    from vqmm.quantizers.identity import IdentityQuantizer
    from vqmm.registry import Registry

    options = HierarchicalQuantizer.Options(dim=8)
    assert HierarchicalQuantizer.build(options, 1, Registry.discover()).code_vectors() is None
    assert IdentityQuantizer(rank=1).code_vectors() is None
