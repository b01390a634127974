"""The promises of signs: one by one, as the papers of lfq and bsq take them, and chosen together."""

import itertools
import math

import pytest
import torch

from vqmm.quantizers.signs import LookupFreeQuantizer, SignCodebook, SphericalQuantizer, binary_entropy
from vqmm.utils.errors import UserError

KINDS = [LookupFreeQuantizer, SphericalQuantizer]


def make(kind, **options):
    torch.manual_seed(0)
    return kind(kind.Options(**{"dim": 6, **options}))


def codebook(bits, dim, degree):
    torch.manual_seed(0)
    made = SignCodebook(bits, dim, degree)
    torch.nn.init.normal_(made.weight)
    torch.nn.init.normal_(made.centre)
    return made


def signs_of(bits):
    """(2^bits, bits): row k is 1 where the bit of k is set, else -1."""
    return torch.tensor([[1.0 if k >> b & 1 else -1.0 for b in range(bits)] for k in range(2**bits)])


def to_grid(rows):
    """(N, dim) -> (1, dim, N): latents of rank 1."""
    return rows.T[None]


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_corners(kind):
    quantizer = make(kind, codebook_size=16)
    corners = quantizer._values(quantizer._split(torch.arange(16)))
    expected = {tuple(c) for c in itertools.product((-quantizer.side, quantizer.side), repeat=4)}
    assert {tuple(c) for c in corners.tolist()} == {tuple(torch.tensor(c).tolist()) for c in expected}
    if kind is SphericalQuantizer:
        torch.testing.assert_close(corners.norm(dim=1), torch.ones(16))
    rows = torch.randn(50, 4)
    _, digits = quantizer._round(rows)
    nearest = torch.cdist(rows, corners).argmin(1)
    assert torch.equal(quantizer._join(digits), nearest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_entropies_are_those_of_the_softmax_over_all_codes(kind, temperature):
    """Written out: p(c | z) = softmax of -|z - c|^2 / temperature over all 2^4 corners."""
    quantizer = make(kind, codebook_size=16, temperature=temperature, count="codes", diversity=0.7, entropy=1.0)
    rows = torch.randn(30, 4)
    bounded, digits = quantizer._round(rows)
    corners = quantizer._values(quantizer._split(torch.arange(16)))
    keep = torch.rand(30) < 0.8
    expected = entropies(bounded[keep], corners, temperature, 0.7)
    found = quantizer._losses(bounded, quantizer._values(digits), keep)
    torch.testing.assert_close(found["entropy"], expected, rtol=1e-4, atol=1e-5)
    bits = make(kind, codebook_size=16, temperature=temperature, count="bits", diversity=0.7, entropy=1.0)
    assert bits._losses(bounded, quantizer._values(digits), keep)["entropy"] <= found["entropy"] + 1e-5, (
        "an upper bound of use"
    )


def entropies(rows, codes, temperature, diversity):
    p = (-torch.cdist(rows.double(), codes.double()).square() / temperature).softmax(1)
    return (torch.special.entr(p).sum(1).mean() - diversity * torch.special.entr(p.mean(0)).sum()).float()


def test_binary_entropy():
    p = torch.tensor([0.5, 0.9, 0.01])
    torch.testing.assert_close(binary_entropy(torch.logit(p)), torch.special.entr(p) + torch.special.entr(1 - p))
    assert binary_entropy(torch.tensor([1e4, -1e4])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bits", [1, 3, 5])
@pytest.mark.parametrize("degree", [1, 2, 3, 7])
def test_a_sign_codebook_is_the_polynomial_written_out(bits, degree):
    made, signs = codebook(bits, 3, degree), signs_of(bits)
    terms = [c for size in range(1, degree + 1) for c in itertools.combinations(range(bits), size)]
    assert len(made.weight) == len(terms)
    weights = made.weight * torch.tensor([(3 / math.comb(bits, len(c))) ** 0.5 for c in terms])[:, None]
    expected = made.centre + sum(signs[:, c].prod(1)[:, None] * w for c, w in zip(terms, weights, strict=True))
    torch.testing.assert_close(made(), expected)


def test_products_of_over_three_signs_refine():
    full, refined = codebook(6, 3, 6), SignCodebook(6, 3, 6, refinement=0.2)
    refined.load_state_dict(full.state_dict())
    taken = torch.tensor([s.bit_count() for s in full.subsets.tolist()])
    expected = full.scale * torch.where(taken > 3, 0.2, 1.0)[:, None]
    torch.testing.assert_close(refined.scale, expected)
    quantizer = make(LookupFreeQuantizer, codebook_size=64, assign="nearest", degree=6, refinement=0.2)
    torch.testing.assert_close(quantizer.corners.scale * 3**0.5, expected * 6**0.5)


def test_a_sign_codebook_of_full_degree_is_any_codebook():
    wanted = torch.randn(16, 3)
    made = codebook(4, 3, 4)
    parts = [made.centre, made.weight]
    rows = [torch.autograd.grad(made()[k, 0], parts) for k in range(16)]  # linear in both: this is its matrix
    matrix = torch.stack([torch.cat((c[:1], w[:, 0])) for c, w in rows])
    assert torch.linalg.matrix_rank(matrix) == 16
    found = torch.linalg.solve(matrix, wanted)
    with torch.no_grad():
        made.centre.copy_(found[0])
        made.weight.copy_(found[1:])
    torch.testing.assert_close(made(), wanted)


def test_directions_at_right_angles_make_the_nearest_code_that_of_the_signs_one_by_one():
    quantizer = make(LookupFreeQuantizer, codebook_size=16, assign="nearest", degree=1).eval()
    lengths = torch.tensor([0.3, 1.0, 2.0, 0.7])
    with torch.no_grad():
        quantizer.corners.weight.mul_(lengths[:, None])  # at right angles before, and still
        quantizer.corners.centre.normal_()
    weight = quantizer.corners.weight
    products = (weight @ weight.T).fill_diagonal_(0)
    torch.testing.assert_close(products, torch.zeros(4, 4))
    rows = torch.randn(300, 6)
    digits = ((rows - quantizer.corners.centre) @ weight.T > 0).long()
    found = quantizer(to_grid(rows)).codes.maps[0].flatten()
    assert torch.equal(found.long(), (digits * 2 ** torch.arange(4)).sum(1))


def test_signs_chosen_together_count_along_one_direction():
    """Weights of 1, 2 and 4 on one axis: eight even levels, which signs one by one cannot tell apart."""
    quantizer = make(LookupFreeQuantizer, codebook_size=8, dim=1, assign="nearest", degree=1).eval()
    with torch.no_grad():
        quantizer.corners.weight.copy_(torch.tensor([[1.0], [2.0], [4.0]]) / quantizer.corners.scale)
    found = quantizer(torch.linspace(-7, 7, 8).reshape(1, 1, 8) + 0.3)
    assert found.codes.maps[0].flatten().tolist() == list(range(8))
    assert found.vectors.flatten().tolist() == pytest.approx([-7, -5, -3, -1, 1, 3, 5, 7])


@pytest.mark.parametrize(("size", "directions"), [(4, 2), (64, 6), (1024, 6)])
@pytest.mark.parametrize("degree", [1, 5])
def test_a_sign_codebook_starts_along_the_largest_variances_of_the_latents(size, directions, degree):
    quantizer = make(LookupFreeQuantizer, codebook_size=size, assign="nearest", degree=degree, refinement=0.5)
    z = torch.randn(20, 6, 100) * torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 0.5])[:, None] + 5
    quantizer.initialise(z)
    codes, rows = quantizer.corners(), z.movedim(1, -1).reshape(-1, 6)
    torch.testing.assert_close(codes.mean(0), rows.mean(0))
    variances, axes = torch.linalg.eigh(rows.T.cov())
    axes = axes[:, -directions:]
    roots = variances[-directions:].sqrt()
    expected = axes @ (roots * roots.square().sum() / roots.sum()).diag() @ axes.T
    torch.testing.assert_close(codes.T.cov(correction=0), expected, rtol=1e-3, atol=1e-4)
    held = quantizer.corners.weight.clone()
    quantizer.initialise(z * 2)
    assert torch.equal(held, quantizer.corners.weight)


@pytest.mark.parametrize(("kind", "entropy"), [(LookupFreeQuantizer, 0.0075), (SphericalQuantizer, 0.005)])
def test_weights_of_the_losses_are_those_of_the_way_codes_are_assigned(kind, entropy):
    alone, together = make(kind), make(kind, assign="nearest")
    assert (alone.commitment, alone.entropy) == (0.02, entropy)
    assert (together.commitment, together.entropy) == (0.25, 0.0)
    for assign in ("sign", "nearest"):
        told = make(kind, assign=assign, commitment=0.0, entropy=0.3)
        assert (told.commitment, told.entropy) == (0.0, 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_needs_two_vectors(kind):
    quantizer = make(kind, codebook_size=16, assign="nearest")
    before = quantizer.corners().clone()
    quantizer.initialise(torch.randn(1, 6, 1))
    assert torch.equal(before, quantizer.corners()) and len(before.unique(dim=0)) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_the_entropy_of_signs_chosen_together_is_that_of_the_softmax_written_out(kind):
    quantizer = make(kind, codebook_size=16, assign="nearest", entropy=0.5, diversity=0.7, temperature=0.8)
    z, mask = torch.randn(2, 6, 20), torch.rand(2, 20) < 0.8
    rows = quantizer._placed(z.movedim(1, -1)[mask])
    expected = 0.5 * entropies(rows, quantizer._placed(quantizer.corners()), 0.8, 0.7)
    torch.testing.assert_close(quantizer(z, mask).losses["entropy"], expected, rtol=1e-4, atol=1e-5)
    quantizer = make(kind, codebook_size=16, assign="nearest")
    assert set(quantizer(z, mask).losses) == {"commitment", "codebook"}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_signs_chosen_together_move_latents_and_codes(kind):
    quantizer = make(kind, codebook_size=16, assign="nearest", commitment=0.5)
    z, mask = torch.randn(2, 6, 20, requires_grad=True), torch.rand(2, 20) < 0.8
    found = quantizer(z, mask)
    rows = quantizer._placed(z.movedim(1, -1)[mask])
    error = (rows - found.vectors.movedim(1, -1)[mask]).square().mean()
    torch.testing.assert_close(found.losses["codebook"], error)
    torch.testing.assert_close(found.losses["commitment"], 0.5 * error)
    weights = list(quantizer.parameters())
    still = torch.autograd.grad(found.losses["commitment"], weights, retain_graph=True)
    assert not any(g.any() for g in still)
    (still,) = torch.autograd.grad(found.losses["codebook"], z, retain_graph=True)
    assert not still.any()
    assert all(g.any() for g in torch.autograd.grad(found.losses["codebook"], weights))


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_that_is_not_finite_is_left_out_beside_a_mask(kind):
    quantizer = make(kind, codebook_size=16, assign="nearest")
    z, mask = torch.randn(2, 6, 20), torch.ones(2, 20, dtype=torch.bool)
    mask[0, :5] = False
    expected = quantizer(z, mask & (torch.arange(20) != 7)).losses
    z[:, 2, 7] = float("nan")
    torch.testing.assert_close(quantizer(z, mask).losses, expected)


@pytest.mark.parametrize("radius", [2.0, 0.5, 8.0])
def test_spherical_codes_chosen_together_lie_on_the_sphere(radius):
    quantizer = make(SphericalQuantizer, codebook_size=16, assign="nearest", radius=radius)
    assert make(SphericalQuantizer).options.radius == 2.0, "that of tokenizers saved before one could choose"
    x = torch.randn(50, 6) * torch.logspace(-2, 4, 50)[:, None]
    placed = quantizer._placed(x)
    radius *= math.sqrt(6)
    last = radius**2 / (radius**2 + x.square().sum(1)).sqrt()  # the coordinate of the plane, seen the same way
    torch.testing.assert_close(torch.cat((placed, last[:, None]), 1).norm(dim=1), torch.full((50,), radius))
    torch.testing.assert_close(placed / placed.norm(dim=1, keepdim=True), x / x.norm(dim=1, keepdim=True))
    found = quantizer.eval()(to_grid(x * 1e4))
    assert (found.vectors.norm(dim=1) < radius).all(), "however long a latent"


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (LookupFreeQuantizer, {"codebook_size": 3000}, "3000 is no power of two; signs make 2048 or 4096 codes"),
        (SphericalQuantizer, {"codebook_size": 1}, "1 is no power of two; signs make 2 codes"),
        (
            LookupFreeQuantizer,
            {"assign": "nearest", "entropy": 0.1, "count": "bits"},
            "bits is of signs by themselves; with assign: nearest take codes",
        ),
    ],
)
def test_mistakes(kind, options, said):
    with pytest.raises(UserError, match=said):
        kind(kind.Options(**options))
