"""nearest_code, the same promises on every path."""

import pytest
import torch
from kernel_cases import INF, INTERPRETER_NOISE, NAN, PATHS, LargestTensor, bound, integers, search, shortfall

from tests.covering import pairs
from vqmm.kernels.nearest_code import explain, nearest_code, nearest_code_reference, path_for
from vqmm.kernels.nearest_code.plain import TILE_K, TILE_N

pytestmark = [pytest.mark.filterwarnings(noise) for noise in INTERPRETER_NOISE]

every_path = pytest.mark.parametrize("path", PATHS)


@pairs(
    path=PATHS,
    metric=["euclidean", "dot"],
    width=[1, 3, 8, 15, 16, 17, 100, 513],
    shape=[(1, 1), (131, 70), (33, 203)],
)
def test_integers_give_the_true_nearest_code(path, metric, width, shape, generator):
    n, k = shape
    code = integers(generator, k, width)
    code = torch.cat([code[: k - k // 2], code[: k // 2]])  # duplicates
    x = integers(generator, n, width)
    assert torch.equal(search(path, x, code, metric), nearest_code_reference(x, code, metric=metric))


@pytest.mark.parametrize("n, k", [(TILE_N + 1, TILE_K + 1), (2 * TILE_N - 1, 3 * TILE_K - 1), (3 * TILE_N + 40, 16)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_integers_across_the_tiles_of_the_cpu(n, k, threads, generator):
    torch.set_num_threads(threads)
    x, code = integers(generator, n, 5, reach=2), integers(generator, k, 5, reach=2)
    assert torch.equal(nearest_code(x, code), nearest_code_reference(x, code))


@every_path
@pytest.mark.parametrize("offset", [3.0, 1000.0])
def test_integers_with_an_offset_keep_their_ties(path, offset, generator):
    x, code = integers(generator, 90, 6, reach=2) + offset, integers(generator, 150, 6, reach=2) + offset
    assert torch.equal(search(path, x, code), nearest_code_reference(x, code))


# not by plain torch, whose product adds in another order at the edge of a matrix
@pairs(path=["cpu", "triton"], k=[2, 3, 37, 130, 700], width=[5, 17, 64, 129], n=[1, 5, 16, 100])
def test_the_lower_of_two_equal_codes_wins(path, k, width, n, generator):
    code = torch.randn(k, width, generator=generator)
    order = torch.randperm(k, generator=generator)
    a, b = order[: k // 2], order[k // 2 : 2 * (k // 2)]
    code[a] = code[b]
    first = torch.arange(k)
    first[a] = first[b] = torch.minimum(a, b)
    index = search(path, torch.randn(n, width, generator=generator), code).long()
    assert torch.equal(first[index], index)


@every_path
def test_all_codes_equal(path, generator):
    code = torch.randn(1, 7, generator=generator).expand(300, 7)
    assert not search(path, torch.randn(20, 7, generator=generator), code).any()


@pairs(path=PATHS, metric=["euclidean", "cosine", "dot"], shape=[(300, 200, 8), (130, 257, 64), (65, 90, 300)])
def test_as_near_as_the_best(path, metric, shape, generator):
    n, k, width = shape
    x, code = torch.randn(n, width, generator=generator), torch.randn(k, width, generator=generator)
    index = search(path, x, code, metric)
    assert (shortfall(x, code, index, metric) <= bound(x, code, metric)).all()
    share = (index != nearest_code_reference(x, code, metric=metric)).float().mean().item()
    print(f"{path} {metric} N {n} K {k} D {width}: {share:.2%} of the ids differ from the float64 truth")


@pairs(path=PATHS, offset=[5.0, 100.0], scale=[1.0, 0.01])
def test_a_common_offset_costs_nothing(path, offset, scale, generator):
    x = scale * torch.randn(200, 64, generator=generator) + offset
    code = scale * torch.randn(256, 64, generator=generator) + offset
    excess = shortfall(x, code, search(path, x, code))
    assert (excess <= bound(x, code)).all()
    assert bound(x, code).max() < 0.01 * scale**2  # and the bound itself does not grow with the offset


@every_path
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_not_finite_and_masked_vectors_get_index_0(path, metric, generator):
    x, code = torch.randn(40, 6, generator=generator), torch.randn(30, 6, generator=generator)
    clean = search(path, x, code, metric)
    mask = torch.rand(40, generator=generator) < 0.7
    bad = x.clone()
    bad[3, 2], bad[8, 0], bad[9, 5], bad[11] = NAN, INF, -INF, INF
    bad[~mask] = NAN
    index = search(path, bad, code, metric, mask)
    touched = ~mask
    touched[[3, 8, 9, 11]] = True
    assert clean[mask].any() and torch.equal(index, torch.where(touched, 0, clean))
    assert torch.equal(search(path, x, code, metric, mask), torch.where(mask, clean, 0))


@pairs(path=PATHS, metric=["euclidean", "cosine", "dot"], value=[NAN, INF, -INF])
def test_a_code_that_is_not_finite_never_wins(path, metric, value, generator):
    x, code = torch.randn(50, 6, generator=generator), torch.randn(80, 6, generator=generator)
    code[0, 1] = code[7, 3] = code[79] = value
    index = search(path, x, code, metric)
    assert not torch.isin(index, torch.tensor([0, 7, 79])).any()
    assert torch.equal(index, nearest_code_reference(x, code, metric=metric))


def test_a_codebook_with_no_finite_code_is_refused():
    with pytest.raises(ValueError, match="nearest_code: none of the 3 codes"):
        nearest_code(torch.zeros(2, 4), torch.full((3, 4), NAN))


@every_path
def test_cosine_of_a_zero_vector_and_of_extreme_lengths(path):
    code = torch.eye(4)
    x = torch.tensor([[0, 0, 0, 0], [0, 1e-30, 1e-32, 0], [0, 1e30, 0, 2e30], [0, 1e-42, 0, 0]])
    assert search(path, x, code, "cosine").tolist() == [0, 1, 3, 1]


@every_path
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_no_vectors(path, metric):
    index = search(path, torch.zeros(0, 4), torch.ones(3, 4), metric)
    assert index.shape == (0,) and index.dtype == torch.int32


def test_the_same_bits_every_time(generator):
    x, code = torch.randn(700, 33, generator=generator), torch.randn(600, 33, generator=generator)
    first = nearest_code(x, code)
    assert all(torch.equal(nearest_code(x, code), first) for _ in range(20))


@pytest.mark.parametrize("path", ["cpu", "torch"])
def test_global_settings_and_autocast_change_nothing(path, generator, monkeypatch):
    monkeypatch.setattr("vqmm.kernels.nearest_code.path_for", lambda device: path)
    x, code = torch.randn(600, 128, generator=generator), torch.randn(600, 128, generator=generator)
    expected = nearest_code(x, code)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_code(x, code), expected)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(nearest_code(x, code), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_scores_are_never_held_whole(generator):
    n, k, width = 4_096, 2_048, 16
    x, code = torch.randn(n, width, generator=generator), torch.randn(k, width, generator=generator)
    with LargestTensor() as seen:
        nearest_code(x, code)
    assert seen.numel <= max(TILE_N * TILE_K, n * width) < n * k / 16


def test_which_path(monkeypatch):
    assert [path_for("cpu"), path_for("mps")] == ["cpu", "torch"]
    assert explain(1, 1, 1, device="cpu").startswith("cpu, ") and explain(1, 1, 1, device="mps").startswith(
        "plain torch"
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert path_for(torch.device("cuda", 1)) == "triton"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    with pytest.warns(UserWarning, match=r"compute capability 7.0; the fused kernels need 8.0 or more"):
        assert path_for("cuda") == "torch"
    assert path_for("cuda") == "torch"  # and says no more


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, r"x_ND has width 3 \(shape \(2, 3\)\), code_KD has width 4", {"x_ND": torch.ones(2, 3)}),
        (ValueError, r"code_KD has shape \(0, 4\); it needs at least 1 code", {"code_KD": torch.ones(0, 4)}),
        (ValueError, r"x_ND has shape \(2, 4, 1\); it needs 2", {"x_ND": torch.ones(2, 4, 1)}),
        (ValueError, "x_ND on cpu, code_KD on meta", {"code_KD": torch.ones(3, 4, device="meta")}),
        (TypeError, r"x_ND is torch.int64; give it a floating type", {"x_ND": torch.ones(2, 4).long()}),
        (ValueError, "metric is 'l1'; it can be 'euclidean', 'cosine', 'dot'", {"metric": "l1"}),
        (ValueError, "precision is 'tf32'; it can be 'exact', 'fast', 'certified'", {"precision": "tf32"}),
        (TypeError, "mask_N is torch.float32", {"mask_N": torch.ones(2)}),
        (ValueError, r"mask_N has shape \(3,\); with 2 vectors", {"mask_N": torch.ones(3, dtype=torch.bool)}),
    ],
)
def test_mistakes_are_answered_in_one_line(error, message, arguments):
    with pytest.raises(error, match=message) as caught:
        nearest_code(**{"x_ND": torch.ones(2, 4), "code_KD": torch.ones(3, 4), **arguments})
    assert str(caught.value).startswith("nearest_code: ") and "\n" not in str(caught.value)
