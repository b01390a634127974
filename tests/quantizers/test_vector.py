"""The promises of the vector quantizer."""

import copy
from unittest.mock import Mock

import pytest
import torch

from vqmm.quantizers.codebook import decay_at
from vqmm.quantizers.gaussian import GaussianQuantizer
from vqmm.quantizers.kmeans import kmeans
from vqmm.quantizers.vector import VectorQuantizer


def same(value):
    return value


def make(K=16, dim=4, **options):
    torch.manual_seed(0)
    return VectorQuantizer(VectorQuantizer.Options(codebook_size=K, dim=dim, **options))


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_commitment_weight_multiplies_the_encoders_term_alone(update):
    """Promise 2. The codebook's term keeps weight 1 whatever the commitment is."""
    z = torch.randn(2, 4, 3, 3)
    pulls = {}
    for commitment in (0.25, 0.5):
        quantizer = make(update=update, commitment=commitment)
        latent = z.clone().requires_grad_()
        found = quantizer(latent)
        wanted = [latent, quantizer.codebook] if update == "gradient" else [latent]
        pulls[commitment] = torch.autograd.grad(sum(found.losses.values()), wanted)
        index = found.codes.maps[0][:, 0].long()
        chosen = quantizer.codebook[index].movedim(-1, 1)
        expected = commitment * 2 * (z - chosen) / z.numel()
        torch.testing.assert_close(pulls[commitment][0], expected.detach())
        torch.testing.assert_close(found.losses["commitment"], (commitment * (z - chosen).square().mean()).detach())
    if update == "gradient":
        torch.testing.assert_close(pulls[0.25][1], pulls[0.5][1])
        assert pulls[0.25][1].abs().sum() > 0


def test_the_gradient_passes_straight_through():
    quantizer, z = make(), torch.randn(2, 4, 5, requires_grad=True)
    weight = torch.randn(2, 4, 5)
    (pull,) = torch.autograd.grad((quantizer(z).vectors * weight).sum(), z)
    assert torch.equal(pull, weight)


def test_moving_averages_start_consistent_and_follow_the_formula_by_hand():
    """Promise 3, first half; van den Oord et al. 2017, appendix A.1."""
    quantizer = make(K=2, dim=1, decay=0.9, revive_below=0.0, start="random")
    torch.testing.assert_close(quantizer.sums / quantizer.counts[:, None], quantizer.codebook)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0], [10.0]]))
        quantizer.sums.copy_(quantizer.codebook)
    z = torch.tensor([[[1.0, 2.0, 9.0]]], requires_grad=True)
    quantizer.train()(z)
    quantizer.after_step(same, progress=1.0)
    assert quantizer.counts.tolist() == pytest.approx([0.9 + 0.1 * 2, 0.9 + 0.1 * 1])
    assert quantizer.sums[:, 0].tolist() == pytest.approx([0.1 * 3, 0.9 * 10 + 0.1 * 9])
    expected = [0.3 / 1.1, 9.9 / 1.0]
    assert quantizer.codebook[:, 0].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_start_from_data_leaves_averages_that_agree_with_the_codebook():
    quantizer = make()
    quantizer.initialise(torch.randn(4, 4, 8, 8) + 5)
    used = quantizer.counts > 0
    assert used.all() and quantizer.initialised
    torch.testing.assert_close(quantizer.sums / quantizer.counts[:, None], quantizer.codebook)
    before = quantizer.codebook.clone()
    quantizer.initialise(torch.randn(4, 4, 8, 8))  # a second call changes nothing
    assert torch.equal(before, quantizer.codebook)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_revived_code_resets_vector_sum_and_count_together(update):
    """Promise 3, second half: no code is far away, half the codes are dead, and all live after a step."""
    quantizer = make(K=8, dim=2, revive_below=0.1, start="random", update=update, decay=0.5)
    with torch.no_grad():
        quantizer.codebook[4:] = 1000.0
        quantizer.sums.copy_(quantizer.codebook)
    z = torch.randn(16, 2, 8, requires_grad=True)
    for _ in range(8):
        quantizer.train()(z)
        quantizer.after_step(same, 0.0)
    assert quantizer.codebook.abs().max() < 10
    if update == "ema":
        torch.testing.assert_close(quantizer.sums / quantizer.counts[:, None], quantizer.codebook, rtol=1e-3, atol=1e-3)
    found = quantizer.eval()(z)
    assert len(found.codes.maps[0].unique()) == 8


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("pieces", [2, 4])
def test_several_forwards_before_a_step_equal_one_on_the_joined_batch(pieces, metric):
    """Promise 4 for accumulation: counts exactly, sums to 1e-5, with dead codes revived on the way."""
    one, many = make(K=12, metric=metric), make(K=12, metric=metric)
    for step in range(5):
        z = torch.randn(8, 4, 6) * (step + 1)
        one.train()(z.requires_grad_())
        for part in z.detach().chunk(pieces):
            many.train()(part.requires_grad_())
        for each in (one, many):
            each.after_step(same, step / 5)
        torch.testing.assert_close(one.counts, many.counts)
        torch.testing.assert_close(one.codebook, many.codebook, atol=1e-5, rtol=1e-5)


def test_two_processes_that_share_a_reduction_stay_bit_identical():
    """Promise 4 for processes: the reduction is one call a step, and all else follows from what it gives."""
    joined = make(K=12)
    ranks = [copy.deepcopy(joined) for _ in range(2)]
    for step in range(6):
        z = torch.randn(8, 4, 6) + (step > 2) * 50  # the jump kills codes, which are then revived
        joined.train()(z.requires_grad_())
        joined.after_step(same, step / 6)
        seen = []
        for rank, part in zip(ranks, (z.detach()[:3], z.detach()[3:]), strict=True):
            rank.train()(part.requires_grad_())
            seen.append(rank._gathered)
        reduce = Mock(return_value=sum(seen))
        for rank in ranks:
            rank.after_step(reduce, step / 6)
        assert reduce.call_count == 2, "one reduction a process"
        assert torch.equal(ranks[0].codebook, ranks[1].codebook) and torch.equal(ranks[0].counts, ranks[1].counts)
        torch.testing.assert_close(ranks[0].codebook, joined.codebook, atol=1e-5, rtol=1e-5)


def test_a_process_with_an_empty_batch_takes_part():
    full, empty = make(), make()
    full.train()(torch.randn(4, 4, 5, requires_grad=True))
    shared = full._gathered
    empty.train()(torch.randn(0, 4, 5, requires_grad=True))
    full.after_step(lambda value: shared, 0.5)
    empty.after_step(lambda value: value + shared, 0.5)
    assert torch.equal(full.codebook, empty.codebook)


def test_vectors_that_are_not_finite_are_counted_and_left_out():
    quantizer, clean = make(), make()
    z = torch.randn(4, 4, 5)
    z[0, 1, 0], z[2, 3, 4] = float("nan"), float("inf")
    found = quantizer.train()(z.requires_grad_())
    quantizer.after_step(same, 0.5)
    assert quantizer.not_finite == 2
    assert quantizer.codebook.isfinite().all() and found.losses["commitment"].isfinite()
    keep = z.detach().isfinite().all(dim=1)
    clean.train()(torch.where(keep[:, None], z.detach(), 0).requires_grad_(), keep)
    clean.after_step(same, 0.5)
    torch.testing.assert_close(clean.codebook, quantizer.codebook)


def test_autocast_does_not_reach_the_arithmetic():
    quantizer, z = make().eval(), torch.randn(2, 4, 30)
    plain = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(z)
    assert torch.equal(plain.codes.maps[0], cast.codes.maps[0]) and cast.vectors.dtype == torch.float32
    assert torch.equal(plain.losses["commitment"], cast.losses["commitment"])


def test_cosine_codes_lie_on_the_sphere_and_ignore_length():
    quantizer = make(metric="cosine")
    z = torch.randn(2, 4, 20)
    quantizer.initialise(z)
    for progress in (0.0, 1.0):
        quantizer.train()(z.clone().requires_grad_())
        quantizer.after_step(same, progress)
    torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(16))
    quantizer.eval()
    assert torch.equal(quantizer(z).codes.maps[0], quantizer(7 * z).codes.maps[0])


def test_a_projection_narrows_the_codebook_and_not_the_vectors():
    quantizer = make(dim=6, project=2)
    assert quantizer.codebook.shape == (16, 2)
    assert quantizer(torch.randn(1, 6, 3)).vectors.shape == (1, 6, 3)


def test_the_memory_of_the_averages_grows_along_the_run():
    assert decay_at(0.99, 0.0) == pytest.approx(0.9) and decay_at(0.99, 1.0) == pytest.approx(0.99)
    assert decay_at(0.99, 0.5) == pytest.approx(1 - 1 / 55) and decay_at(0.5, 0.0) == pytest.approx(0.5)


def test_kmeans_finds_clusters_and_fills_empty_codes():
    generator = torch.Generator().manual_seed(1)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    x = (centres[:, None] + 0.1 * torch.randn(4, 50, 2, generator=generator)).reshape(-1, 2)
    x[0] = float("nan")
    codebook, counts = kmeans(x, 4)
    order = torch.cdist(centres, codebook).argmin(dim=1)
    assert sorted(order.tolist()) == [0, 1, 2, 3] and counts.sum() == 199
    torch.testing.assert_close(codebook[order], centres, atol=0.1, rtol=0)
    many, counts = kmeans(x[1:4], 8)  # fewer vectors than codes
    assert many.shape == (8, 2) and many.isfinite().all() and counts.sum() == 3
    with pytest.raises(ValueError, match="none of the 5 vectors is finite"):
        kmeans(torch.full((5, 2), float("nan")), 3)


def test_the_gaussians_divergence_is_that_of_torch_distributions():
    """Kingma and Welling 2014, appendix B."""
    torch.manual_seed(0)
    quantizer, z = GaussianQuantizer(GaussianQuantizer.Options(dim=3, kl_weight=0.5)), torch.randn(2, 3, 4)
    found = quantizer.eval()(z)
    mean, log_variance = quantizer.moments(z.movedim(1, -1).reshape(-1, 3)).chunk(2, dim=1)
    here = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(here, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(found.losses["kl"], 0.5 * expected)
    torch.testing.assert_close(found.vectors.movedim(1, -1).reshape(-1, 3), mean)
    noisy = quantizer.train()(z).vectors
    assert not torch.equal(noisy, found.vectors)
