"""The Triton kernels of nearest_code, in every precision, split and not, against the float64 truth.

In the interpreter one TF32 product reads operands cut or rounded as the tensor cores do, so that "fast" errs here too.
"""

import pytest
import torch
from kernel_cases import INF, INTERPRETER_NOISE, NAN, integers, shortfall
from torch import Tensor

from tests.covering import pairs
from vqmm.kernels.nearest_code import nearest_code_reference, tables
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.nearest_code.reference import similarity_reference
from vqmm.kernels.tables import ANY

fused = pytest.importorskip("vqmm.kernels.nearest_code.fused", reason="Triton is made for Linux only")
kernels = pytest.importorskip("vqmm.kernels.nearest_code.kernels")

NOISE = (*INTERPRETER_NOISE, "ignore:overflow encountered:RuntimeWarning")  # of vectors too long for float32
pytestmark = [pytest.mark.filterwarnings(noise) for noise in NOISE]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = ("exact", "fast", "certified")
every_precision = pytest.mark.parametrize("precision", PRECISIONS)
METRICS = ("euclidean", "cosine", "dot")
TILES = ((1, 1024), (8, 1024), (1, 16))  # processors and block_d: whole; codes split among programs; width in parts


def small(precision: str, dot: str, block_d: int = 1024) -> tables.Config:
    """Tiles of a size that the interpreter runs quickly."""
    return tables.Config(ANY, ANY, precision, 32, 32, block_d, 4, 2, dot, 16)


@pytest.fixture
def table(monkeypatch):
    """Replace the tables by rows of one's own, so that small cases reach every path: dots by precision."""

    def use(block_d: int = 1024, processors: int = 1, **dots: str) -> None:
        dots = {"exact": "split", "fast": "tf32", "certified": "high"} | dots
        rows = tuple(small(precision, dot, block_d) for precision, dot in dots.items())
        monkeypatch.setattr(tables.TABLES, "rows", lambda capability: rows)
        monkeypatch.setattr(fused, "processors_of", lambda device: processors)

    use()
    return use


def search(x: Tensor, code: Tensor, precision: str, metric: str = "euclidean", sizes=None, margin: bool = False):
    grouped = x[None] if sizes is None else x
    prepared = prepare(code.to(DEVICE), metric, sizes)
    index, margins = fused.search_triton(grouped.to(DEVICE), prepared, metric, precision, margin)
    index, margins = index.cpu(), margins.cpu()
    return (index[0] if sizes is None else index), (margins[0] if sizes is None and margin else margins)


def truth(x: Tensor, code: Tensor, metric: str = "euclidean") -> Tensor:
    return nearest_code_reference(x, code, metric=metric)


@pairs(precision=PRECISIONS, width=[1, 3, 8, 15, 16, 17, 100], shape=[(1, 1, 1), (70, 83, 1), (33, 203, 4)])
def test_integers_are_exact_in_every_mode(table, precision, width, shape, generator):
    n, k, processors = shape
    table(processors=processors)
    code = integers(generator, k, width)
    code = torch.cat([code[: k - k // 2], code[: k // 2]])  # duplicates
    x = integers(generator, n, width)
    assert torch.equal(search(x, code, precision)[0], truth(x, code))


@pairs(dot=["tf32x3", "fma", "split", "tf32", "bf16"], block_d=[16, 1024], metric=["euclidean", "dot"])
def test_every_product_is_exact_on_integers(table, dot, block_d, metric, generator):
    width = 13 if dot == "fma" else 41
    precision = "fast" if dot in ("tf32", "bf16") else "exact"
    table(block_d=block_d, **{precision: dot})
    x, code = integers(generator, 40, width, reach=2), integers(generator, 75, width, reach=2)
    index, margin = search(x, code, precision, metric, margin=True)
    assert torch.equal(index, truth(x, code, metric))
    top = similarity_reference(x, code, metric).topk(2).values
    gap = (top[:, 0] - top[:, 1]) / (2 if metric == "euclidean" else 1)
    assert torch.equal(margin.double(), gap)


@every_precision
@pytest.mark.parametrize("width", [513, 8])
def test_the_tables_that_ship(precision, width, generator):
    x, code = integers(generator, 70, width, reach=1), integers(generator, 140, width, reach=1)
    assert torch.equal(search(x, code, precision)[0], truth(x, code))


@pairs(precision=PRECISIONS, tiles=TILES, metric=METRICS)
def test_margins_are_those_of_float64(table, precision, tiles, metric, generator):
    processors, block_d = tiles
    table(block_d, processors)
    x, code = torch.randn(37, 24, generator=generator), torch.randn(130, 24, generator=generator)
    index, margin = search(x, code, precision, metric, margin=True)
    top = similarity_reference(x, code, metric).topk(2).values
    gap = (top[:, 0] - top[:, 1]) / (2 if metric == "euclidean" else 1)
    error = 1e-5 if precision == "exact" else 2.0**-9  # of |x| C, as fast states
    size = 1.0 if metric == "cosine" else x.norm(dim=1).max().item() * code.norm(dim=1).max().item()
    assert ((margin - gap).abs() <= 2 * error * size).all()
    assert (shortfall(x, code, index, metric) <= 4 * error * size).all()
    if precision == "certified":
        assert torch.equal(index, search(x, code, "exact", metric)[0])


def test_a_second_in_the_same_lane_counts(table):
    """Codes 3 and 35 share a lane of tiles of 16 and of 32; 40 is far."""
    code = torch.zeros(64, 4)
    code[3, 0], code[35, 0] = 4.0, 3.0
    _, margin = search(torch.tensor([[9.0, 0, 0, 0]]), code, "exact", "dot", margin=True)
    assert margin.tolist() == [9.0]


def test_no_second_code(table):
    for precision in PRECISIONS:
        index, margin = search(torch.ones(3, 4), torch.tensor([[1.0] * 4, [NAN] * 4]), precision, margin=True)
        assert index.tolist() == [0, 0, 0] and margin.tolist() == [INF] * 3


@pairs(dot=["high", "tf32"], metric=["euclidean", "cosine"], block_d=[1024, 16])
def test_certified_finds_what_fast_misses(table, dot, metric, block_d, generator):
    """Pairs of codes so near to each other that one TF32 product cannot tell them apart."""
    table(block_d, certified=dot)
    base = torch.randn(60, 20, generator=generator)
    code = torch.cat([base, base * (1 + 2e-4 * torch.randn(60, 20, generator=generator))])
    x = base[torch.randint(60, (150,), generator=generator)] + 0.3 * torch.randn(150, 20, generator=generator)
    exact, fast, certified = (search(x, code, precision, metric)[0] for precision in ("exact", "fast", "certified"))
    assert (fast != exact).sum() > 5
    assert torch.equal(certified, exact)


def test_certified_searches_only_what_is_in_doubt(table, monkeypatch, generator):
    """A wrong exact search shows itself where, and only where, vectors are searched again."""
    x, code = torch.randn(80, 16, generator=generator), torch.randn(50, 16, generator=generator)
    _, margin = search(x, code, "exact", margin=True)
    seen = []
    real = fused.search_launch
    monkeypatch.setattr(fused, "search_launch", lambda *a, **kw: (seen.append(kw.get("rows")), real(*a, **kw)))
    search(x, code, "certified")
    assert seen[0] is None
    count = int(seen[1].count[0])
    rows = seen[1].row[0, :count].long().cpu()
    assert 0 < count < 40
    assert margin[rows].max() < margin.max() and torch.equal(rows, rows.sort().values)
    assert margin[torch.isin(torch.arange(80), rows, invert=True)].min() > 1e-3


@pairs(precision=PRECISIONS, processors=[1, 16], sizes=[(40, 1, 33), (32, 32)])
def test_groups_search_their_own_codebook(table, precision, processors, sizes, generator):
    table(processors=processors)
    x = torch.randn(len(sizes), 45, 9, generator=generator)
    code = torch.randn(sum(sizes), 9, generator=generator)
    code[1] = NAN
    index, _ = search(x, code, precision, sizes=sizes)
    for g, part in enumerate(code.split(sizes)):
        excess = shortfall(x[g], part, index[g])
        assert (excess <= (0.05 if precision == "fast" else 1e-4)).all()
        if precision == "exact":
            assert torch.equal(index[g], search(x[g], part, "exact")[0])


@every_precision
@pytest.mark.parametrize("offset", [5.0, 100.0])
def test_a_common_offset_costs_nothing(table, precision, offset, generator):
    x, code = torch.randn(50, 16, generator=generator) + offset, torch.randn(90, 16, generator=generator) + offset
    excess = shortfall(x, code, search(x, code, precision)[0])
    assert (excess <= (0.2 if precision == "fast" else 2e-4)).all()


@pairs(precision=PRECISIONS, tiles=TILES, metric=METRICS)
def test_what_is_not_finite(table, precision, tiles, metric, generator):
    processors, block_d = tiles
    table(block_d, processors)
    x, code = torch.randn(20, 18, generator=generator), torch.randn(70, 18, generator=generator)
    code[0, 1], code[7, 3], code[69] = NAN, INF, -INF
    clean = search(x, code, precision, metric)[0]
    assert not torch.isin(clean, torch.tensor([0, 7, 69])).any()
    bad = x.clone()
    bad[3, 2], bad[8, 0], bad[9, 17], bad[11] = NAN, INF, -INF, 3e38
    index = search(bad, code, precision, metric)[0]
    spoilt = [3, 8, 9] if metric == "cosine" else [3, 8, 9, 11]
    rest = [i for i in range(20) if i not in (3, 8, 9, 11)]
    assert not index[spoilt].any() and torch.equal(index[rest], clean[rest])


@pairs(
    precision=PRECISIONS,
    type_=[torch.float64, torch.bfloat16, torch.float16],
    layout=["transposed", "every second", "expanded"],
)
def test_any_type_and_strides(table, precision, type_, layout, generator):
    x = integers(generator, 41, 6, reach=3).to(type_)
    laid = {
        "transposed": lambda: x.t().contiguous().t(),
        "every second": lambda: torch.stack([x, x + 1], 1).flatten(0, 1).repeat_interleave(2, 1)[::2, ::2],
        "expanded": lambda: x[:1].expand(41, 6),
    }[layout]()
    code = integers(generator, 30, 6, reach=3)
    assert torch.equal(search(laid, code, precision)[0], truth(laid, code))


@every_precision
@pytest.mark.parametrize("processors, block_d, dot", [(1, 1024, "split"), (8, 1024, "split"), (1, 16, "tf32x3"),
                                                      (1, 16, "torch")])  # fmt: skip
def test_quantize_gathers_the_codes_to_the_bit(table, precision, processors, block_d, dot, generator):
    table(block_d, processors, exact=dot)
    sizes = (40, 27)
    x, code = torch.randn(2, 50, 19, generator=generator), torch.randn(67, 19, generator=generator)
    x[0, 4, 3], x[1, 9] = NAN, INF
    keep = torch.rand(2, 50, generator=generator) < 0.8
    moved = [v.to(DEVICE) for v in (x, code, keep)]
    prepared = prepare(moved[1], "euclidean", sizes)
    index, vectors, error = (
        v.cpu() for v in fused.quantize_triton(*moved[:2], prepared, "euclidean", precision, moved[2])
    )
    expected = torch.where(keep, search(x, code, precision, sizes=sizes)[0], 0)
    assert torch.equal(index, expected) and index.dtype == torch.int32
    assert torch.equal(vectors, code[index.long() + torch.tensor([[0], [40]])])
    counts = keep & torch.isfinite(x).all(2)
    truth_GN = (x.double() - vectors.double()).square().sum(2)
    torch.testing.assert_close(error.double()[counts], truth_GN[counts], rtol=1e-5, atol=0)
    assert not error[~counts].any()


@every_precision
def test_no_vectors(table, precision):
    index, margin = search(torch.zeros(0, 4), torch.ones(3, 4), precision, margin=True)
    assert index.shape == (0,) and margin.shape == (0,) and index.dtype == torch.int32


def test_high_and_low_parts_add_up(generator):
    code = torch.cat([torch.randn(40, 7, generator=generator), torch.full((1, 7), 3.4e38)])
    both, size = fused.packed(code.to(DEVICE), "split")
    high, low = both.cpu().split(7, 1)
    assert torch.equal(high + low, code)
    assert not (high[:40].view(torch.int32) & 0x1FFF).any()
    assert (low[:40].abs() <= 2.0**-11 * code[:40].abs()).all()
    torch.testing.assert_close(size.cpu()[:, :40], torch.stack([code.norm(dim=1), low.norm(dim=1)])[:, :40])


def test_a_new_number_of_vectors_compiles_nothing(table):
    """What Triton specialises on is the same for every number of vectors: what counts them is named."""
    runtime = {"N", "stride_g", "stride_d", "programs"}
    for name in ("search_kernel", "merge_kernel", "gather_kernel", "compact_kernel"):
        kernel = getattr(kernels, name)
        named = set(kernel.kwargs["do_not_specialize"] if hasattr(kernel, "kwargs") else kernel.do_not_specialize)
        assert named == runtime & set(kernel.arg_names), name
    outputs = fused.Outputs(torch.empty(0), None, None)
    task = fused.Task(torch.zeros(2, 5, 8), prepare(torch.ones(3, 8), "dot"), torch.zeros(3), outputs, False, None)
    for make in (lambda n: torch.zeros(2, n, 8), lambda n: torch.zeros(2, 8, n).transpose(1, 2)):
        strides = [task._replace(x_GND=make(n)).strides for n in (2, 3, 16, 1000)]
        assert len({(s["stride_n"], s["stride_d"] is None) for s in strides}) == 1


def test_where_codebooks_start_is_kept_for_no_other_call(table):
    """Memory that one call made can be another stream's, or a CUDA graph's."""
    for sizes, expected in (((4,), [0, 4]), ((3, 3, 3), [0, 3, 6, 9]), ((5, 1, 9), [0, 5, 6, 15])):
        first, again = (fused.starts(sizes, DEVICE) for _ in range(2))
        assert first.tolist() == again.tolist() == expected
        assert first.dtype == torch.int32 and first.data_ptr() != again.data_ptr()


def test_parts_are_a_function_of_the_sizes():
    assert tables.parts_of(512, 1, 16384, 64, 132) == 1
    assert tables.parts_of(1, 1, 2048, 64, 132) == 16
    assert tables.parts_of(1, 8, 262144, 64, 132) == 33
    assert tables.parts_of(1, 1, 5, 64, 132) == 1


def test_tables_are_whole_and_explained():
    for capability in ((8, 0), (9, 0)):
        for precision in PRECISIONS:
            for width in (1, 8, 16, 17, 64, 128, 129, 256, 257, 1024, 5000):
                for k in (1, 4096, 262144):
                    config = tables.config_for(width, k, precision, capability)
                    assert config.block_d >= 16 and config.precision == precision
                    line = fused.explain(1000, k, width, precision, capability)
                    assert "\n" not in line and precision in line and "not measured" in line
    assert "searched again by split" in fused.explain(65536, 16384, 64, "certified", (9, 0))
    assert "codes in 32 part(s)" in fused.explain(16, 2048, 64, "exact", (9, 0))


def test_an_unknown_gpu_is_told_once_and_an_old_one_too():
    tables.say_no_table.cache_clear()
    tables.say_too_old.cache_clear()
    with pytest.warns(UserWarning, match=r"no table for GPUs of compute capability 8\.9") as warned:
        first, second = (tables.config_for(64, 512, "exact", (8, 9)) for _ in range(2))
    assert first == second and len(warned) == 1
    assert tables.supported((8, 0)) and tables.supported((12, 0))
    with pytest.warns(UserWarning, match=r"compute capability 7\.5; the fused kernels need 8\.0") as warned:
        assert not tables.supported((7, 5)) and not tables.supported((7, 5))
    assert len(warned) == 1
