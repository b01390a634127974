"""update_codebook_: one step against the float64 truth, and what must not move."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import INTERPRETER_NOISE, opcheck

from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.update_codebook import update_codebook_, update_codebook_reference, update_op_
from vqmm.kernels.update_codebook.fused import TOTALS, update_triton_
from vqmm.kernels.update_codebook.plain import update_torch_

PATHS = {"torch": update_torch_, "triton": update_triton_}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = [pytest.mark.filterwarnings(noise) for noise in INTERPRETER_NOISE]


def update_by(path, masters, *, decay, epsilon=1e-5, dead_below=0.0, normalise=False, sizes=None):
    """One step by a path of its own choosing, and what it says: (dead, perplexity of each codebook)."""
    there = [m.to(DEVICE) for m in masters]
    decay = torch.tensor(decay, dtype=torch.float64, device=DEVICE)
    said = PATHS[path](*there, decay, epsilon, dead_below, normalise, sizes or [len(masters[0])])
    for master, moved in zip(masters[:3], there[:3], strict=True):
        master.copy_(moved)
    return [s.cpu() for s in said]


def check_step(masters, said, truth):
    code, count, total, dead, perplexity = truth
    for ours, theirs in zip(masters[1:3], (count, total), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(masters[0].double(), code, rtol=1e-4, atol=1e-5)
    assert said[0].dtype == torch.bool and torch.equal(said[0], dead)
    torch.testing.assert_close(said[1].double(), perplexity, rtol=1e-4, atol=1e-5)
    assert said[1].dtype == torch.float32 and said[1].shape == perplexity.shape


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


@settings(max_examples=60, deadline=None, database=None)
@given(
    path=st.sampled_from(list(PATHS)),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    width=st.sampled_from([1, 3, 8, 17, 100, 513]),
    decay=st.sampled_from([0.0, 0.5, 0.99, 0.9999, 1.0]),
    epsilon=st.sampled_from([1e-5, 1e-2]),
    dead_below=st.sampled_from([0.0, 0.5]),
    normalise=st.booleans(),
    empty=st.integers(0, 4),
    seed=st.integers(0, 2**16),
)
def test_every_path_is_the_truth(path, sizes, width, decay, epsilon, dead_below, normalise, empty, seed):
    masters = case(torch.Generator().manual_seed(seed), sum(sizes), width)
    rows = slice(sum(sizes[:empty]), sum(sizes[: empty + 1]))  # one codebook, or none, whose batch is empty
    masters[3][rows], masters[4][rows] = 0, 0
    before = [m.clone() for m in masters]
    options = {"decay": decay, "epsilon": epsilon, "dead_below": dead_below, "normalise": normalise, "sizes": sizes}
    truth = update_codebook_reference(*masters, **options)
    said = update_by(path, masters, **options)
    check_step(masters, said, truth)
    assert all(torch.equal(now[rows], then[rows]) for now, then in zip(masters[:3], before, strict=False))
    public = update_codebook_(*before, **options)
    check_step(before, public, truth)


@pytest.mark.parametrize("path", PATHS)
def test_more_codes_than_one_program_adds_up(path, generator):
    sizes = [2 * TOTALS + 5, 7, TOTALS]
    masters = case(generator, sum(sizes), 1)
    truth = update_codebook_reference(*masters, decay=0.9, sizes=sizes)
    check_step(masters, update_by(path, masters, decay=0.9, sizes=sizes), truth)


@pytest.mark.parametrize("path", PATHS)
def test_codebooks_do_not_see_each_other(path, generator):
    """Each gets the bits of a step by itself, beside one that is empty and one that was never used."""
    masters = case(generator, 30, 4)
    masters[1][10:20], masters[2][10:20], masters[3][10:20], masters[4][10:20] = 0, 0, 0, 0
    alone = [[m[g * 10 : g * 10 + 10].clone() for m in masters] for g in range(3)]
    said = update_by(path, masters, decay=0.9, dead_below=0.5, sizes=[10, 10, 10])
    for g, book in enumerate(alone):
        dead, perplexity = update_by(path, book, decay=0.9, dead_below=0.5)
        rows = slice(g * 10, g * 10 + 10)
        assert all(torch.equal(m[rows], alone) for m, alone in zip(masters, book, strict=True))
        assert torch.equal(said[0][rows], dead) and torch.equal(said[1][g], perplexity[0])
    assert torch.isfinite(masters[0]).all()


@pytest.mark.parametrize("path", PATHS)
def test_a_step_is_the_same_every_time(path, generator):
    masters = case(generator, 50, 6)
    runs = []
    for _ in range(3):
        copy = [m.clone() for m in masters]
        runs.append([*copy, *update_by(path, copy, decay=0.9, normalise=True)])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_decay_as_a_tensor(generator):
    """A schedule neither rounds 1 - decay nor moves codes that a number would not."""
    masters = case(generator)
    for decay in (0.0, 0.9999, 1.0):
        copy, other = [m.clone() for m in masters], [m.clone() for m in masters]
        update_codebook_(*copy, decay=decay)
        update_codebook_(*other, decay=torch.tensor(decay, dtype=torch.float64))
        assert all(torch.equal(a, b) for a, b in zip(copy, other, strict=True))


def test_operator(generator):
    masters = case(generator, 12)
    for sizes in ([12], [5, 7]):
        arguments = (*masters, torch.tensor(0.9).double(), 1e-5, 0.5, True, sizes)
        opcheck(update_op_, arguments)


def test_compiled_once_for_a_schedule(generator):
    def step(masters, decay, sizes):
        update = update_codebook_(*masters, decay=decay, dead_below=0.5, sizes=sizes)
        return update.dead_K, update.perplexity * 2

    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph, inputs):
        graphs[-1] += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    masters = case(generator)
    for decay in (0.5, 0.75, 0.9):
        copy = [m.clone() for m in masters]
        graphs.append(0)
        ours = compiled(copy, torch.tensor(decay, dtype=torch.float64), [4, 8])
        theirs = step(masters, decay, [4, 8])
        assert all(torch.equal(a, b) for a, b in zip((*copy, *ours), (*masters, *theirs), strict=True))
    assert graphs[0] > 0 and graphs[1:] == [0, 0]


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
    for decay in (1.5, torch.tensor(1.5)):
        with pytest.raises(ValueError, match=r"decay is 1\.5; it can be 0"):
            update_codebook_(*masters, decay=decay)


@pytest.mark.parametrize(
    "error, message, options",
    [
        (ValueError, r"decay has shape \(1,\); it needs 0 dim", {"decay": torch.ones(1)}),
        (TypeError, "decay is torch.int64", {"decay": torch.tensor(1)}),
        (ValueError, "code_KD on cpu, decay on meta", {"decay": torch.tensor(0.5, device="meta")}),
        (ValueError, r"sizes \(2, 2\) make 4 codes, there are 3", {"decay": 0.5, "sizes": [2, 2]}),
        (ValueError, r"sizes are \(\)", {"decay": 0.5, "sizes": []}),
    ],
)
def test_mistakes_in_options_are_answered_in_one_line(error, message, options):
    masters = [torch.ones(3, 2), torch.ones(3), torch.ones(3, 2), torch.ones(3).long(), torch.ones(3, 2)]
    with pytest.raises(error, match=message) as caught:
        update_codebook_(*masters, **options)
    assert str(caught.value).startswith("update_codebook_: ") and "\n" not in str(caught.value)
