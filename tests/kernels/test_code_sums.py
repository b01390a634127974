"""code_sums: exact counts, sums in a fixed order, nothing from vectors that do not count."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import INF, NAN, LargestTensor, integers

from vqmm.kernels.code_sums import code_sums, code_sums_baseline, code_sums_reference, sums_by_sorting, sums_in_order


def case(generator: torch.Generator, n: int, k: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random vectors; half of them choose the first eighth of the codes, so that some are hot and some unused."""
    index = torch.randint(0, k, (n,), generator=generator)
    index[: n // 2] %= max(1, k // 8)
    return torch.randn(n, width, generator=generator), index.int()


@settings(max_examples=60, deadline=None, database=None)
@given(
    n=st.integers(0, 200),
    k=st.integers(1, 50),
    width=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    wide=st.booleans(),
    masked=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_integers_are_exact(n, k, width, dtype, wide, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    x = integers(generator, n, width).to(dtype).t().contiguous().t()
    index = torch.randint(0, k, (n,), generator=generator, dtype=torch.int64 if wide else torch.int32)
    mask = torch.rand(n, generator=generator) < 0.5 if masked else None
    counts, sums = code_sums(x, index, k, mask_N=mask)
    true_counts, true_sums = code_sums_reference(x, index, k, mask_N=mask)
    assert counts.dtype == torch.int64 and sums.dtype == torch.float32
    assert torch.equal(counts, true_counts) and torch.equal(sums.double(), true_sums)
    assert torch.equal(code_sums_baseline(x, index, k, mask_N=mask)[0], true_counts)


@pytest.mark.parametrize("add", [sums_in_order, sums_by_sorting])
def test_sums_are_within_float32_rounding_on_every_path(add, generator):
    x, index = case(generator, 3_000, 40, 9)
    counts, sums = add(x, index.long(), 40)
    true_counts, true_sums = code_sums_reference(x, index, 40)
    _, size = code_sums_reference(x.abs(), index, 40)
    assert torch.equal(counts, true_counts)
    assert ((sums - true_sums).abs() <= counts[:, None] * 2.0**-24 * size).all()


@pytest.mark.parametrize("add", [sums_in_order, sums_by_sorting])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_every_time(add, threads, generator):
    x, index = case(generator, 5_000, 64, 16)
    torch.set_num_threads(threads)
    _, first = add(x, index.long(), 64)
    assert all(torch.equal(add(x, index.long(), 64)[1], first) for _ in range(20))


def test_vectors_that_are_masked_out_or_not_finite_are_in_neither(generator):
    x, index = case(generator, 100, 10, 4)
    keep = torch.rand(100, generator=generator) < 0.8
    bad = x.clone()
    bad[5, 1], bad[6, 0], bad[~keep] = NAN, INF, NAN
    rest = keep.clone()
    rest[[5, 6]] = False
    counts, sums = code_sums(bad, index, 10, mask_N=keep)
    assert counts.sum() == rest.sum()
    assert torch.equal(counts, torch.bincount(index[rest], minlength=10))
    assert torch.equal(sums, code_sums(x, index, 10, mask_N=rest)[1])


def test_nothing_counts():
    counts, sums = code_sums(torch.full((3, 2), NAN), torch.zeros(3, dtype=torch.int32), 4)
    assert not counts.any() and not sums.any()
    counts, sums = code_sums(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int32), 4)
    assert counts.tolist() == [0] * 4 and sums.shape == (4, 2) and not sums.any()


def test_no_one_hot_matrix(generator):
    x, index = case(generator, 4_096, 2_048, 16)
    with LargestTensor() as seen:
        code_sums(x, index, 2_048)
    assert seen.numel <= 4_096 * 16


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (TypeError, "x_ND is torch.int32", {"x_ND": torch.ones(2, 4, dtype=torch.int32)}),
        (TypeError, "index_N is torch.float32; it can be torch.int32 or torch.int64", {"index_N": torch.zeros(2)}),
        (ValueError, r"index_N has shape \(3,\); with 2 vectors", {"index_N": torch.zeros(3).int()}),
        (ValueError, "K is 0", {"K": 0}),
        (ValueError, "x_ND on cpu, index_N on meta", {"index_N": torch.zeros(2, device="meta").int()}),
        (TypeError, "mask_N is torch.int64", {"mask_N": torch.ones(2).long()}),
    ],
)
def test_mistakes_are_answered_in_one_line(error, message, arguments):
    with pytest.raises(error, match=message) as caught:
        code_sums(**{"x_ND": torch.ones(2, 4), "index_N": torch.zeros(2).int(), "K": 3, **arguments})
    assert str(caught.value).startswith("code_sums: ") and "\n" not in str(caught.value)
