"""update_codebook_: one step against the float64 truth, and what must not move."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.update_codebook import update_codebook_, update_codebook_reference


def case(generator: torch.Generator, k: int = 12, width: int = 5) -> list[torch.Tensor]:
    """code, EMA count, EMA sum, and the counts and sums of a batch in which some codes are not used."""
    code = torch.randn(k, width, generator=generator)
    x, index = torch.randn(80, width, generator=generator), torch.randint(0, k, (80,), generator=generator)
    index = torch.where(index % 3 == 2, 0, index)
    count = torch.rand(k, generator=generator) * 5
    return [code, count, code * count[:, None], *code_sums(x, index.int(), k)]


@settings(max_examples=60, deadline=None, database=None)
@given(
    k=st.integers(1, 40),
    width=st.integers(1, 20),
    decay=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    epsilon=st.sampled_from([1e-5, 1e-2]),
    dead_below=st.sampled_from([0.0, 0.5]),
    normalise=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_one_step_is_the_truth(k, width, decay, epsilon, dead_below, normalise, seed):
    masters = case(torch.Generator().manual_seed(seed), k, width)
    options = {"decay": decay, "epsilon": epsilon, "dead_below": dead_below, "normalise": normalise}
    code, count, total, dead, perplexity = update_codebook_reference(*masters, **options)
    update = update_codebook_(*masters, **options)
    for ours, theirs in zip(masters[1:3], (count, total), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(masters[0].double(), code, rtol=1e-4, atol=1e-5)
    assert torch.equal(update.dead_K, dead)
    torch.testing.assert_close(update.perplexity.double(), perplexity, rtol=1e-4, atol=1e-5)
    assert update.perplexity.dtype == torch.float32 and update.perplexity.shape == ()


def test_by_hand():
    code, count, total = torch.zeros(2, 1), torch.tensor([1.0, 1.0]), torch.tensor([[1.0], [-1.0]])
    batch = torch.tensor([4, 0]), torch.tensor([[8.0], [0.0]])
    update = update_codebook_(code, count, total, *batch, decay=0.5, epsilon=0.0, dead_below=0.5)
    assert count.tolist() == [2.5, 0.5] and total.tolist() == [[4.5], [-0.5]]
    torch.testing.assert_close(code, torch.tensor([[1.8], [-1.0]]))
    assert update.dead_K.tolist() == [False, True] and update.perplexity == 1.0


@pytest.mark.parametrize("normalise", [False, True])
def test_an_empty_batch_moves_nothing(normalise, generator):
    masters = case(generator)
    masters[3].zero_()
    masters[4].zero_()
    before = [m.clone() for m in masters]
    update = update_codebook_(*masters, decay=0.9, normalise=normalise)
    assert all(torch.equal(a, b) for a, b in zip(masters, before, strict=True))
    assert update.perplexity == 0


def test_a_code_that_was_never_used_stays(generator):
    masters = case(generator)
    masters[1][2] = masters[2][2] = masters[3][2] = 0
    masters[4][2] = 0
    before = masters[0].clone()
    update_codebook_(*masters, decay=0.9)
    assert torch.equal(masters[0][2], before[2]) and not torch.equal(masters[0][0], before[0])
    assert torch.isfinite(masters[0]).all()


def test_normalised_codes_have_length_1(generator):
    masters = case(generator)
    update_codebook_(*masters, decay=0.9, normalise=True)
    torch.testing.assert_close(masters[0].norm(dim=1), torch.ones(12))


def test_a_slow_ema_moves(generator):
    """With decay 0.9999 a bfloat16 master would never move; float32 does."""
    masters = case(generator)
    before = masters[0].clone()
    for _ in range(50):
        update_codebook_(*masters, decay=0.9999)
    assert (masters[0] != before).all()


def test_perplexity_of_uniform_use_is_k():
    k = 64
    masters = [torch.zeros(k, 1), torch.ones(k), torch.zeros(k, 1), torch.full((k,), 3), torch.zeros(k, 1)]
    assert math.isclose(update_codebook_(*masters, decay=0.9).perplexity.item(), k, rel_tol=1e-5)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "ema_count_K is torch.bfloat16; keep it torch.float32", {1: torch.ones(3, dtype=torch.bfloat16)}),
        (TypeError, "code_KD is torch.float64", {0: torch.ones(3, 2, dtype=torch.float64)}),
        (ValueError, r"sums_KD has shape \(3, 4\); with code_KD \(3, 2\) it needs \(3, 2\)", {4: torch.ones(3, 4)}),
        (ValueError, r"counts_K has shape \(2,\)", {3: torch.ones(2).long()}),
        (ValueError, "counts_K on meta", {3: torch.ones(3, device="meta").long()}),
        (ValueError, r"code_KD has shape \(3,\)", {0: torch.ones(3)}),
    ],
)
def test_mistakes_are_answered_in_one_line(error, message, change):
    masters = [torch.ones(3, 2), torch.ones(3), torch.ones(3, 2), torch.ones(3).long(), torch.ones(3, 2)]
    for position, tensor in change.items():
        masters[position] = tensor
    with pytest.raises(error, match=message) as caught:
        update_codebook_(*masters, decay=0.9)
    assert str(caught.value).startswith("update_codebook_: ") and "\n" not in str(caught.value)


def test_decay_out_of_range():
    masters = [torch.ones(3, 2), torch.ones(3), torch.ones(3, 2), torch.ones(3).long(), torch.ones(3, 2)]
    with pytest.raises(ValueError, match=r"decay is 1\.5; it can be 0"):
        update_codebook_(*masters, decay=1.5)
