"""The search on a CPU: every loop that this machine can run keeps the same promises."""

import importlib.util
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import INF, NAN, bound, integers, shortfall
from test_nearest_code_shapes import LAYOUTS, TYPES, laid_out

from tests.covering import pairs
from vqmm.kernels.nearest_code import cpu, nearest_code, nearest_code_reference
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.nearest_code.reference import similarity_reference

VARIANTS = (*cpu.cpu_variants(), "torch")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def search(x, code, metric="euclidean", variant=None, margin=False):
    """(N,) indices, and margins where asked for."""
    prepared = cpu.prepare_cpu(code, metric, [len(code)], variant)
    index, margins = cpu.search_cpu(x[None], prepared, metric, "exact", margin, variant)
    return (index[0], margins[0]) if margin else index[0]


def true_margin(x, code, metric="euclidean"):
    """Best score less second best in float64, (N,); inf for one code."""
    if len(code) == 1:
        return torch.full((len(x),), INF, dtype=torch.float64)
    best = similarity_reference(x, code, metric).topk(2).values
    return (best[:, 0] - best[:, 1]) / (2 if metric == "euclidean" else 1)


@pairs(
    variant=VARIANTS,
    width=[1, 3, 8, 15, 16, 17, 100, 513],
    shape=[(1, 1), (7, 11), (40, 12), (131, 70), (33, 203)],
)
def test_integers_give_the_true_nearest_code_and_margin(variant, width, shape, generator):
    n, k = shape
    code = integers(generator, k, width)
    code = torch.cat([code[: k - k // 3], code[: k // 3]])[torch.randperm(k, generator=generator)]  # duplicates
    x = integers(generator, n, width)
    expected = nearest_code_reference(x, code)
    assert torch.equal(search(x, code, variant=variant), expected)
    index, margin = search(x, code, variant=variant, margin=True)
    assert torch.equal(index, expected) and torch.equal(margin.double(), true_margin(x, code))


@every_variant
@pytest.mark.parametrize("n", [cpu.BLOCK - 1, cpu.BLOCK, cpu.BLOCK + 1, 2 * cpu.BLOCK + 17])
def test_integers_across_the_blocks(variant, n, generator):
    x, code = integers(generator, n, 5, reach=2), integers(generator, 530, 5, reach=2)
    assert torch.equal(search(x, code, variant=variant), nearest_code_reference(x, code))


@pairs(variant=VARIANTS, k=[2, 3, 7, 13, 37, 130, 700], width=[1, 5, 64, 129], n=[1, 16, 17, 100])
def test_the_lower_of_two_equal_codes_wins_wherever_they_stand(variant, k, width, n, generator):
    code = torch.randn(k, width, generator=generator)
    order = torch.randperm(k, generator=generator)
    a, b = order[: k // 2], order[k // 2 : 2 * (k // 2)]
    code[a] = code[b]
    first, twice = torch.arange(k), torch.zeros(k, dtype=torch.bool)
    first[a] = first[b] = torch.minimum(a, b)
    twice[a] = twice[b] = True
    index, margin = search(torch.randn(n, width, generator=generator), code, variant=variant, margin=True)
    assert torch.equal(first[index.long()], index.long())
    assert torch.equal(margin == 0, twice[index.long()])


@every_variant
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_a_code_is_not_its_own_second_best(variant, metric, generator):
    """The last codes are searched in a group that reaches back over codes already seen: each size of it."""
    for k in (*range(1, 27), 70):
        x, code = torch.randn(50, 9, generator=generator), torch.randn(k, 9, generator=generator)
        index, margin = search(x, code, metric, variant, margin=True)
        assert torch.equal(index, search(x, code, metric, variant)), k
        assert torch.equal(index, nearest_code_reference(x, code, metric=metric)), k
        torch.testing.assert_close(margin.double(), true_margin(x, code, metric), rtol=1e-4, atol=2e-6)
        assert (margin > 0).all(), k


@pairs(variant=VARIANTS, metric=["euclidean", "cosine", "dot"], shape=[(300, 200, 8), (130, 257, 64), (65, 90, 1030)])
def test_as_near_as_the_best(variant, metric, shape, generator):
    n, k, width = shape
    x, code = torch.randn(n, width, generator=generator), torch.randn(k, width, generator=generator)
    index, margin = search(x, code, metric, variant, margin=True)
    limit = bound(x, code, metric)
    assert (shortfall(x, code, index, metric) <= limit).all()
    assert ((margin - true_margin(x, code, metric)).abs() <= limit).all()
    share = (index != nearest_code_reference(x, code, metric=metric)).float().mean().item()
    print(f"{variant} {metric} N {n} K {k} D {width}: {share:.2%} of the ids differ from the float64 truth")


@every_variant
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_a_vector_that_is_not_finite_touches_no_other(variant, metric, generator):
    x, code = torch.randn(40, 6, generator=generator), torch.randn(30, 6, generator=generator)
    code[0] = -100 if metric == "dot" else 100  # index 0 is nobody's nearest
    clean, clean_margin = search(x, code, metric, variant, margin=True)
    x[3, 2], x[8, 0], x[9, 5], x[11], x[39] = NAN, INF, -INF, INF, NAN
    bad = torch.zeros(40, dtype=torch.bool)
    bad[[3, 8, 9, 11, 39]] = True
    index, margin = search(x, code, metric, variant, margin=True)
    assert torch.equal(index, torch.where(bad, 0, clean))
    assert torch.equal(margin, torch.where(bad, INF, clean_margin))
    assert torch.equal(search(x, code, metric, variant), index)


@every_variant
@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30])
@pytest.mark.parametrize("k", [9, 80])
def test_a_code_that_is_not_finite_never_wins(variant, value, k, generator):
    x, code = torch.randn(50, 6, generator=generator), torch.randn(k, 6, generator=generator)
    code[0, 1] = code[4, 3] = code[-1] = value
    index, margin = search(x, code, variant=variant, margin=True)
    usable = (code.abs() < 1e29).all(1)
    assert usable[index.long()].all()
    back = torch.nonzero(usable)[:, 0]
    again, again_margin = search(x, code[usable], variant=variant, margin=True)
    assert torch.equal(back[again.long()], index.long())
    torch.testing.assert_close(margin, again_margin, rtol=1e-4, atol=1e-6)
    assert search(x, code[[0, 1, 4]], variant=variant, margin=True)[1].eq(INF).all()  # one code: no second


@every_variant
@pytest.mark.parametrize("k", [5, 40])
def test_a_vector_whose_products_overflow_gets_index_0(variant, k, generator):
    code = 4 + torch.rand(k, 8, generator=generator)
    code[0] = 0
    x = torch.tensor([[3e38], [1.0], [-3e38]]).expand(3, 8)
    index, margin = search(x, code, "dot", variant, margin=True)
    assert index[0] == 0 and margin[0] == INF and 0 < index[1] < k
    assert index[2] == 0 and margin[2] == INF  # every other product is -inf


@every_variant
def test_cosine_of_a_zero_vector_and_of_extreme_lengths(variant):
    x = torch.tensor([[0, 0, 0, 0], [0, 1e-30, 1e-32, 0], [0, 1e30, 0, 2e30], [0, 1e-42, 0, 0]])
    index, margin = search(x, torch.eye(4), "cosine", variant, margin=True)
    assert index.tolist() == [0, 1, 3, 1]
    torch.testing.assert_close(margin, torch.tensor([0.0, 0.99 / 1.0001**0.5, 1 / 5**0.5, 1.0]))


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_same_bits_for_any_number_of_threads(variant, dtype, metric, generator, monkeypatch):
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(cpu, "CONVERTED", 2_000)  # so that other types pass in several parts
    x = torch.randn(1_111, 19, generator=generator).to(dtype)
    code = torch.randn(150, 19, generator=generator)
    expected = search(x, code, metric, variant, margin=True)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        result = search(x, code, metric, variant, margin=True)
        assert torch.equal(result[0], expected[0])
        if variant != "torch":  # whose products add in an order of their own
            assert torch.equal(result[1], expected[1])


def test_threads_only_where_the_work_is_worth_it(generator, monkeypatch):
    sizes = []
    pool = cpu.ThreadPoolExecutor
    monkeypatch.setattr(cpu, "ThreadPoolExecutor", lambda threads: sizes.append(threads) or pool(threads))
    torch.set_num_threads(3)
    code = torch.randn(512, 64, generator=generator)
    for n in (64, 2_100, 4_000):
        search(torch.randn(n, 64, generator=generator), code)
    assert sizes == ([] if cpu.cpu_variant() == "torch" else [2, 3])


@every_variant
def test_groups_search_their_own_codebooks(variant, generator):
    sizes = (5, 40, 1, 13)
    x, code = torch.randn(4, 37, 10, generator=generator), torch.randn(sum(sizes), 10, generator=generator)
    index, margin = cpu.search_cpu(x, prepare(code, "euclidean", sizes), "euclidean", "exact", True, variant)
    assert index.shape == margin.shape == (4, 37) and index.dtype == torch.int32
    for g, part in enumerate(code.split(sizes)):
        alone = search(x[g], part, variant=variant, margin=True)
        assert torch.equal(index[g], alone[0])
        torch.testing.assert_close(margin[g], alone[1], rtol=1e-4, atol=1e-5)  # the shift may differ in its last bit


@every_variant
def test_no_vectors(variant):
    index, margin = search(torch.zeros(0, 4), torch.ones(3, 4), variant=variant, margin=True)
    assert index.shape == margin.shape == (0,) and index.dtype == torch.int32


@settings(max_examples=150, deadline=None, database=None)
@given(
    n=st.integers(0, 80),
    k=st.integers(1, 60),
    width=st.integers(1, 40),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    metric=st.sampled_from(["euclidean", "dot"]),
    variant=st.sampled_from(VARIANTS),
    seed=st.integers(0, 2**16),
)
def test_integers_in_any_layout_and_type(n, k, width, layouts, types, metric, variant, seed):
    generator = torch.Generator().manual_seed(seed)
    x = laid_out(integers(generator, n, width, reach=2).to(types[0]), layouts[0])
    code = laid_out(integers(generator, k, width, reach=2).to(types[1]), layouts[1])
    kept = x.clone(), code.clone()
    index, margin = search(x, code, metric, variant, margin=True)
    assert torch.equal(index, nearest_code_reference(x, code, metric=metric))
    assert torch.equal(margin.double(), true_margin(x, code, metric))
    assert torch.equal(x, kept[0]) and torch.equal(code, kept[1])  # inputs are not written


MEMORY = """
import torch
from pathlib import Path
from vqmm.kernels.nearest_code import cpu, nearest_code_baseline
from vqmm.kernels.nearest_code.prepare import prepare
torch.set_num_threads(1)
code, x = torch.randn(16_384, 8), torch.randn(65_536, 8)
def search(variant, x):
    if variant == "baseline":
        return nearest_code_baseline(x, code)
    return cpu.search_cpu(x[None], prepare(code, "euclidean"), "euclidean", "exact", True, variant)
def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
for variant, x in (cpu.cpu_variant(), x), (cpu.cpu_variant(), x.bfloat16()), ("torch", x), ("baseline", x[:4096]):
    search(variant, x[:64])  # what torch loads at its first call is not the search's
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    search(variant, x)
    print(variant, resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_stays_under_64_mib_at_65536_by_16384():
    said = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    print(said)
    *searches, baseline = [float(line.split()[1]) for line in said.splitlines()]
    assert len(searches) == 3 and max(searches) < 64
    assert baseline > 60  # which holds 64 MiB of scores: the measure sees it


def test_the_first_search_without_the_helper_says_so_and_keeps_the_contract(generator, monkeypatch):
    monkeypatch.setattr(cpu, "cpu_variants", dict)
    monkeypatch.setattr(cpu, "warned", False)
    assert cpu.cpu_variant() == "torch"
    x, code = integers(generator, 60, 7, reach=2), integers(generator, 90, 7, reach=2)
    with pytest.warns(UserWarning, match="get a C\\+\\+ compiler .* install vqmm again") as caught:
        index = nearest_code(x, code)
    assert len(caught) == 1 and torch.equal(index, nearest_code_reference(x, code))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(nearest_code(x, code), index)


def test_a_helper_that_is_missing_broken_or_old_is_not_used(monkeypatch, tmp_path):
    load = cpu.helper.__wrapped__
    spec = importlib.util.find_spec("vqmm.kernels.nearest_code._search")
    if spec is None:
        pytest.skip("the compiled loop is not built here: pip install -e .")
    assert load() is not None and cpu.cpu_variants().keys() >= {"generic"}
    monkeypatch.setattr(cpu, "ABI", -1)
    assert load() is None
    monkeypatch.undo()
    broken = tmp_path / "_search.so"
    broken.write_text("not a library")
    for origin in (broken, "/nowhere/_search.so", None):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, at=origin: SimpleNamespace(origin=at and str(at)))
        assert load() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert load() is None


@pairs(variant=VARIANTS, width=[1, 5, 16, 37], sizes=[(1,), (40,), (3, 30, 7)])
def test_the_codebook_is_prepared_as_plain_torch_does(variant, width, sizes, generator):
    """Integers to the bit. Elsewhere a mean near the middle of two steps may round either way: its rules still hold."""
    whole = integers(generator, sum(sizes), width) + 9
    ours, theirs = cpu.prepare_cpu(whole, "euclidean", sizes, variant), prepare(whole, "euclidean", sizes)
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        assert torch.equal(a, b)
    code = torch.randn(sum(sizes), width, generator=generator) + 50
    ours = cpu.prepare_cpu(code, "euclidean", sizes, variant)
    for part, prepared in zip(code.split(sizes), ours.groups, strict=True):
        assert torch.equal(prepared.code_KD, part - prepared.shift_GD)
        torch.testing.assert_close(prepared.bias_K, -prepared.code_KD.square().sum(1) / 2)
        largest = (part.amax(0) - part.amin(0)).amax()
        if largest > 0:
            assert ((prepared.shift_GD - part.mean(0)).abs() <= largest / 2 + 1e-3).all()


@every_variant
def test_a_codebook_that_is_not_finite_is_prepared_as_plain_torch_does(variant, generator):
    code = torch.randn(12, 5, generator=generator)
    code[3, 2], code[7, 0] = NAN, INF
    ours, theirs = cpu.prepare_cpu(code, "euclidean", (6, 6), variant), prepare(code, "euclidean", (6, 6))
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        assert torch.equal(a, b)
    code[:6] = NAN
    with pytest.raises(ValueError, match="none of the codes of one codebook"):
        cpu.prepare_cpu(code, "euclidean", (6, 6), variant)
