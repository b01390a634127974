"""code_sums: exact counts, sums in a fixed order, nothing from vectors that do not count."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import INF, INTERPRETER_NOISE, NAN, LargestTensor, integers, opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqmm.kernels.code_sums import (
    code_sums,
    code_sums_baseline,
    code_sums_op,
    code_sums_reference,
    sums_by_sorting,
    sums_in_order,
    sums_of_kept,
    sums_torch,
)
from vqmm.kernels.code_sums.cpu import sums_cpu
from vqmm.kernels.code_sums.fused import ITEM, slot_type, sums_triton

PATHS = {"cpu": sums_cpu, "torch": sums_torch, "triton": sums_triton}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

NOISE = (*INTERPRETER_NOISE, "ignore:overflow encountered:RuntimeWarning")
pytestmark = [pytest.mark.filterwarnings(noise) for noise in NOISE]


def sums_by(path, x, index, k, mask=None, sizes=None, only_finite=True):
    """code_sums by a path of its own choosing: every path on every machine."""
    if sizes is None:
        x, index, mask = x[None], index[None], None if mask is None else mask[None]
    device = "cpu" if path == "cpu" else DEVICE
    x, index, mask = (None if t is None else t.to(device) for t in (x, index, mask))
    counts, sums = PATHS[path](x, index, mask, [k] if sizes is None else sizes, only_finite)
    assert counts.dtype == torch.int64 and sums.dtype == torch.float32
    return counts.cpu(), sums.cpu()


def check_within_rounding(path, x, index, k, result):
    """The bound that code_sums states."""
    true_counts, true_sums = code_sums_reference(x, index, k)
    _, size = code_sums_reference(x.abs(), index, k)
    assert torch.equal(result[0], true_counts)
    off = true_counts.clamp_min(1)[:, None] * 2.0**-24
    assert ((result[1] - true_sums).abs() <= off * size).all()


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


@settings(max_examples=25, deadline=None, database=None)
@given(
    path=st.sampled_from(["torch", "triton"]),
    n=st.integers(0, 150),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    width=st.sampled_from([1, 3, 8, 15, 16, 17, 40, 100, 257, 513]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["packed", "transposed", "every other"]),
    masked=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_integers_are_exact_on_every_path(path, n, sizes, width, dtype, layout, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    groups = len(sizes)
    x = integers(generator, groups, n, width).to(dtype)
    if n:
        x[0, n // 2, width - 1], x[-1, n // 3, 0] = NAN, -INF
    if layout == "transposed":
        x = x.mT.contiguous().mT
    elif layout == "every other":
        x = x.repeat_interleave(2, 2)[..., ::2]
    index = torch.stack([torch.randint(0, size, (n,), generator=generator, dtype=torch.int32) for size in sizes])
    mask = torch.rand(groups, n, generator=generator) < 0.5 if masked else None
    counts, sums = sums_by(path, x, index, sum(sizes), mask, sizes)
    true_counts, true_sums = code_sums_reference(x, index, sum(sizes), mask_N=mask, sizes=sizes)
    assert torch.equal(counts, true_counts) and torch.equal(sums.double(), true_sums)
    for ours, theirs in zip(code_sums(x, index, sum(sizes), mask_N=mask, sizes=sizes), (counts, sums), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k, width", [(1, 8), (40, 9), (300, 3)])
def test_random_vectors_are_within_the_stated_bound(path, k, width, generator):
    x, index = case(generator, 3_000, k, width)
    check_within_rounding(path, x, index, k, sums_by(path, x, index, k))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("n", [ITEM - 1, ITEM, ITEM + 1, 2 * ITEM, 3_000])
def test_a_hot_code(path, n, generator):
    """All vectors choose one code, whose segment is cut into items; the codes around it are not used."""
    x = torch.randn(n, 5, generator=generator)
    index = torch.full((n,), 2, dtype=torch.int32)
    counts, sums = sums_by(path, x, index, 4)
    check_within_rounding(path, x, index, 4, (counts, sums))
    assert counts.tolist() == [0, 0, n, 0] and not sums[[0, 1, 3]].any()


def test_where_segments_start_and_end(generator):
    """Segments whose lengths and places are around the items' and the windows' ends, each vector in exactly one sum."""
    for lengths in ([1, ITEM, ITEM], [ITEM, 1, ITEM + 1], [255, 257, 0, 513, 3], [0, 512, 0, 256, 511, 0]):
        index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).int()
        index = index[torch.randperm(len(index), generator=generator)]
        x = integers(generator, len(index), 3, reach=100)
        counts, sums = sums_by("triton", x, index, len(lengths))
        assert counts.tolist() == lengths
        assert torch.equal(sums.double(), code_sums_reference(x, index, len(lengths))[1])


@pytest.mark.parametrize("path", ["cpu", "triton"])
def test_a_sum_depends_on_nothing_but_its_own_vectors(path, generator):
    """Groups give the bits of separate calls, and vectors of other codes, masked out or not finite, change none."""
    x = torch.randn(2, 900, 4, generator=generator)
    index = torch.randint(0, 3, (2, 900), generator=generator).int()
    counts, sums = sums_by(path, x, index, 7, sizes=[3, 4])
    for g, rows in enumerate((slice(0, 3), slice(3, 7))):
        alone = sums_by(path, x[g], index[g], 3 + g)
        assert torch.equal(alone[0], counts[rows]) and torch.equal(alone[1], sums[rows])
    mask, bad = index != 0, x.clone()
    bad[index == 1] = NAN
    kept = sums_by(path, bad, index, 7, mask, [3, 4])
    assert kept[0][[0, 1, 3, 4]].sum() == 0 and not kept[1][[0, 1, 3, 4]].any()
    assert torch.equal(kept[1][[2, 5]], sums[[2, 5]]) and torch.equal(kept[0][[2, 5]], counts[[2, 5]])


@pytest.mark.parametrize("path", ["torch", "triton"])
def test_every_path_gives_the_same_bits_every_time(path, generator):
    x, index = case(generator, 700, 20, 6)
    first = sums_by(path, x, index, 20)
    for _ in range(100 if torch.cuda.is_available() else 3):
        assert all(torch.equal(a, b) for a, b in zip(first, sums_by(path, x, index, 20), strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpu_adds_in_order(threads, dtype, generator):
    """Whatever the thread count and the tiles in which other types are converted."""
    x, index = case(generator, 20_000, 30, 3)
    x = x.to(dtype)
    torch.set_num_threads(threads)
    counts, sums = code_sums(x, index, 30)
    one_by_one = torch.zeros(30, 3)
    for k in range(30):
        one_by_one[k] = torch.from_numpy(np.add.accumulate(x[index == k].float().numpy(), axis=0, dtype=np.float32))[-1]
    assert torch.equal(sums, one_by_one) and counts.sum() == 20_000


@pytest.mark.parametrize("path", PATHS)
def test_sums_of_kept_add_whatever_is_kept(path, generator, monkeypatch):
    x, index = case(generator, 60, 5, 4)
    keep = torch.rand(60, generator=generator) < 0.8
    x[~keep] = INF
    x[3], keep[3], index[3] = NAN, True, 1
    counts, sums = sums_by(path, x, index, 5, keep, only_finite=False)
    assert torch.equal(counts, torch.bincount(index[keep], minlength=5))
    assert sums[1].isnan().all()
    assert sums[[0, 2, 3, 4]].isfinite().all()
    assert torch.equal(sums_of_kept(x, index, 5, keep)[1].isnan(), sums.isnan())


@pytest.mark.parametrize("path", PATHS)
def test_large_numbers(path):
    """Finite vectors whose sum overflows count; a float64 that float32 cannot hold does not."""
    x = torch.tensor([[3e38, 1.0], [3e38, 2.0], [1e300, 4.0], [2e38, 8.0]], dtype=torch.float64)
    counts, sums = sums_by(path, x, torch.tensor([0, 0, 1, 1]).int(), 2)
    assert counts.tolist() == [2, 1]
    assert sums[0].tolist() == [INF, 3.0] and sums[1].tolist() == [torch.tensor(2e38).item(), 8.0]


@pytest.mark.parametrize("path", ["torch", "triton"])
def test_an_index_that_names_no_code_is_in_no_count_where_looking_would_wait(path):
    x, index = torch.ones(2, 3, 2), torch.tensor([[0, -1, 2], [3, 4, 0]])
    counts, sums = sums_by(path, x, index, 6, sizes=[2, 4])
    assert counts.tolist() == [1, 0, 1, 0, 0, 1] and torch.equal(sums, counts.float()[:, None].expand(6, 2))


def test_an_index_that_names_no_code_is_an_error_on_a_cpu():
    with pytest.raises(ValueError, match="code_sums: index_N holds -1 to 2; with 2 codes it can be 0 to 1"):
        code_sums(torch.ones(3, 2), torch.tensor([0, -1, 2]), 2)
    mask = torch.tensor([True, False, False])  # what is masked out may say anything
    assert code_sums(torch.ones(3, 2), torch.tensor([0, -1, 2]), 2, mask_N=mask)[0].tolist() == [1, 0]


def test_slots_take_the_smallest_type_that_holds_them():
    assert [slot_type(k) for k in (1, 255, 256, 32_767, 32_768)] == [
        torch.uint8, torch.uint8, torch.int16, torch.int16, torch.int32,
    ]  # fmt: skip


@pytest.mark.parametrize("k", [255, 256])
def test_as_many_codes_as_a_type_holds(k, generator):
    x, index = torch.ones(2 * k, 1), torch.arange(2 * k).int() % k
    x[0] = NAN
    counts, sums = sums_by("triton", x, index, k)
    assert counts.tolist() == [1] + [2] * (k - 1) and torch.equal(sums[:, 0], counts.float())


@pytest.mark.parametrize("path", PATHS)
def test_no_vectors_at_all(path):
    counts, sums = sums_by(path, torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.int32), 5, sizes=[2, 3])
    assert counts.tolist() == [0] * 5 and sums.shape == (5, 3) and not sums.any()


def test_operator(generator):
    x, index = torch.randn(2, 40, 3, generator=generator), torch.randint(0, 4, (2, 40), generator=generator).int()
    keep = torch.rand(2, 40, generator=generator) < 0.5
    for arguments in ((x, index, None, [4, 5], True), (x.half().mT.contiguous().mT, index, keep, [4, 5], False)):
        opcheck(code_sums_op, arguments)


def test_compiled(generator):
    """One graph; a new number of vectors is no new one where it is marked dynamic."""

    def step(x, index, mask):
        counts, sums = code_sums(x * 2, index, 6, mask_N=mask)
        return counts + 1, sums / 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (50, 70):
        x, index = case(generator, n, 6, 3)
        mask = torch.rand(n, generator=generator) < 0.5
        x.requires_grad_()
        for ours, theirs in zip(compiled(x, index, mask), step(x, index, mask), strict=True):
            assert torch.equal(ours, theirs) and not ours.requires_grad


class NewMemory(TorchDispatchMode):
    """Adds up the bytes of the tensors made under it; not of views, nor of copies that Triton's interpreter makes."""

    def __init__(self, *known):
        super().__init__()
        self.bytes, self.known = 0, {t.untyped_storage().data_ptr() for t in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket not in (torch.ops.aten.set_, torch.ops.aten.copy_):
            for storage in {leaf.untyped_storage() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)}:
                self.bytes += storage.nbytes() * (storage.data_ptr() not in self.known)
                self.known.add(storage.data_ptr())
        return out


@pytest.mark.parametrize("path, dtype", [("cpu", torch.float32), ("triton", torch.bfloat16)])
def test_memory(path, dtype, generator):
    """No copy of the vectors, not of masked ones nor, on a GPU, of strided ones in another type: a few integers for
    each vector, and on a GPU a partial sum for each 256.
    """
    n, width = 2_048, 64
    x = torch.randn(1, n, width, generator=generator).to(dtype)
    index, mask = torch.arange(n).int()[None] % 4, (torch.arange(n) % 3 > 0)[None]
    if path == "triton":
        x, index, mask = x.mT.contiguous().mT.to(DEVICE), index.to(DEVICE), mask.to(DEVICE)
    with NewMemory(x, index, mask) as seen:
        counts, _ = PATHS[path](x, index, mask, [4], True)
    assert counts.sum() == mask.sum()
    partial = n // ITEM * width * 4
    assert n * 8 < seen.bytes <= n * 48 + partial


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (TypeError, "x_ND is torch.int32", {"x_ND": torch.ones(2, 4, dtype=torch.int32)}),
        (TypeError, "index_N is torch.float32; it can be torch.int32 or torch.int64", {"index_N": torch.zeros(2)}),
        (ValueError, r"index_N has shape \(3,\); with 2 vectors", {"index_N": torch.zeros(3).int()}),
        (ValueError, "K is 0", {"K": 0}),
        (ValueError, "x_ND on cpu, index_N on meta", {"index_N": torch.zeros(2, device="meta").int()}),
        (TypeError, "mask_N is torch.int64", {"mask_N": torch.ones(2).long()}),
        (ValueError, r"x_ND has shape \(2, 0\); it needs \(N, D\), D at least 1", {"x_ND": torch.ones(2, 0)}),
        (ValueError, r"sizes \(2, 2\) make 4 codes, there are 3", {"sizes": [2, 2]}),
        (ValueError, r"sizes are \(3, 0\)", {"sizes": [3, 0]}),
        (ValueError, r"x_ND has shape \(2, 4\); it needs 3 dim", {"sizes": [1, 2]}),
        (
            ValueError,
            r"x_ND has shape \(3, 2, 4\); it needs \(2, N, D\) for 2",
            {"sizes": [1, 2], "x_ND": torch.ones(3, 2, 4)},
        ),
    ],
)
def test_mistakes_are_answered_in_one_line(error, message, arguments):
    with pytest.raises(error, match=message) as caught:
        code_sums(**{"x_ND": torch.ones(2, 4), "index_N": torch.zeros(2).int(), "K": 3, **arguments})
    assert str(caught.value).startswith("code_sums: ") and "\n" not in str(caught.value)
