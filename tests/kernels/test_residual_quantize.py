"""residual_quantize: the same promises on every path; where each gradient goes; lookup to the bit."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import INF, INTERPRETER_NOISE, NAN, bound, integers, shortfall
from residual_cases import SIZES, case, per_vector, weighted
from torch import Tensor

from tests.covering import pairs
from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.nearest_code import nearest_code
from vqmm.kernels.residual_quantize import (
    ResidualQuantized,
    operators,
    residual_lookup,
    residual_quantize,
    residual_quantize_reference,
    staged,
)

pytestmark = [pytest.mark.filterwarnings(noise) for noise in INTERPRETER_NOISE]

PATHS = ("cpu", "torch", "staged-triton", "triton")
every_path = pytest.mark.parametrize("path", PATHS)


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch):
    """Makes residual_quantize go by a path: every path on every machine, in Triton's interpreter where it must."""

    def choose(path: str) -> None:
        monkeypatch.setattr(operators, "path_for", lambda *args: path)
        monkeypatch.setattr(operators, "search_path_for", lambda device: path.removeprefix("staged-"))
        if path.endswith("triton") and torch.cuda.is_available():
            for function in (residual_quantize, residual_lookup):
                monkeypatch.setattr(sys.modules[__name__], function.__name__, on_a_gpu(function))
        if path != "cpu":  # as on a GPU, where the host may not look
            monkeypatch.setattr(staged, "may_look", lambda tensor: False)

    return choose


def on_a_gpu(function):
    """The same for tensors of the CPU, computed on a GPU; gradients come back too."""

    def there(value):
        return value.cuda() if isinstance(value, torch.Tensor) else value

    def call(*args, **kwargs):
        out = function(*map(there, args), **{name: there(value) for name, value in kwargs.items()})
        return out.cpu() if isinstance(out, torch.Tensor) else type(out)(*(v if v is None else v.cpu() for v in out))

    return call


def compare(got: ResidualQuantized, true: ResidualQuantized) -> None:
    assert torch.equal(got.index_NQ, true.index_NQ) and got.index_NQ.dtype == torch.int32
    assert got.not_finite == true.not_finite and got.not_finite.dtype == torch.int64
    for ours, theirs in zip(got, true, strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-5, atol=1e-5)


@pairs(
    path=PATHS,
    metric=["euclidean", "dot"],
    shape=[(1, (3,)), (5, (70, 1, 33)), (16, (64, 20)), (17, (9, 130))],
    n=[1, 70],
)
def test_integers_give_the_true_codes(path, metric, shape, n, take, generator):
    width, sizes = shape
    take(path)
    code = torch.cat([integers(generator, size, width) for size in sizes])
    code[sizes[0] // 2 : 2 * (sizes[0] // 2)] = code[: sizes[0] // 2]  # duplicates
    x = integers(generator, n, width, reach=9)
    used = per_vector(generator, n, len(sizes))
    got = residual_quantize(x, code, sizes, metric=metric, stages=used, statistics=True)
    true = residual_quantize_reference(x, code, sizes, metric=metric, stages=used)
    assert all(torch.equal(ours.double(), theirs.double()) for ours, theirs in zip(got, true, strict=True))


@every_path
def test_as_near_as_the_best_at_every_stage(path, take, generator):
    take(path)
    sizes = (60, 30, 45, 60)
    x, code = (v.detach() for v in case(generator, 150, 24, sizes))
    got = residual_quantize(x, code, sizes)
    assert torch.equal(residual_lookup(got.index_NQ, code, sizes), got.vectors_ND)
    differ = (got.index_NQ != residual_quantize_reference(x, code, sizes).index_NQ).any(1).float().mean()
    print(f"{path}: {differ.item():.2%} of the vectors have another index than in float64")
    first = 0
    for q, size in enumerate(sizes):
        codes, index = code[first : first + size], got.index_NQ[:, q]
        assert (shortfall(x, codes, index) <= bound(x, codes)).all()
        x, first = x - codes[index.long()], first + size
        torch.testing.assert_close(got.error_NQ[:, q], x.square().sum(1))


def every_config():
    from vqmm.kernels.residual_quantize.tables import TABLES

    rows = (row for capability in ((8, 0), (9, 0)) for row in TABLES.rows(capability))
    distinct = dict.fromkeys(row._replace(precision="", measured=False, below="") for row in rows)
    return [pytest.param(row.max_width, row, id=str(tuple(row))) for row in distinct]


@pytest.mark.parametrize("width, config", every_config())
def test_integers_in_every_configuration(width, config, generator):
    """Small integers are exact in TF32 too. Unequal stages, a tail of codes, a last tile that is not full."""
    from vqmm.kernels.residual_quantize.fused import quantize_triton

    sizes, n, width = (2 * config.block_k, 5, config.block_k + 3), config.block_n + 2, width - 1
    code, x = integers(generator, sum(sizes), width), integers(generator, n, width, reach=9)
    used = per_vector(generator, n, 3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    books = staged.books_of(code.to(device), sizes, (0, sizes[0], sizes[0] + 5), "euclidean")
    keep = torch.ones(n, dtype=torch.bool, device=device)
    outputs = quantize_triton(x.to(device), keep, books, used.to(device), "exact", config)
    vectors, index, error = (part.cpu() for part in outputs)
    true = residual_quantize_reference(x, code, sizes, stages=used)
    assert torch.equal(index, true.index_NQ) and torch.equal(error.double(), true.error_NQ)
    assert torch.equal(vectors.double(), true.vectors_ND)


@pairs(path=PATHS, shared=[False, True], how=["all", "two", "each"])
def test_forward_and_gradients_equal_the_reference(path, shared, how, take, generator):
    take(path)
    x, code = case(generator)
    mask = torch.rand(40, generator=generator) < 0.8
    with torch.no_grad():
        x[3, 2], x[9], x[7, 0] = NAN, INF, NAN
        mask[[3, 9]], mask[7] = True, False
    stages = {"all": None, "two": 2, "each": per_vector(generator, 40, 3)}[how]
    stack = {"sizes": (9, 9, 9), "offsets": (2, 2, 2)} if shared else {"sizes": SIZES}
    options = {**stack, "mask_N": mask, "stages": stages}
    got = residual_quantize(x, code, statistics=True, **options)
    true = residual_quantize_reference(x, code, **options)
    assert got.not_finite == 2
    compare(got, true)
    ours = torch.autograd.grad(weighted(got), (x, code))
    theirs = torch.autograd.grad(weighted(true), (x, code))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradcheck_of_the_reference(generator):
    """The errors are true functions of x and of the codes; the straight-through vectors are not, by design."""
    x, code = (v.detach().double() for v in case(generator, n=5, width=3))
    index = residual_quantize_reference(x, code, SIZES).index_NQ

    def error(x: Tensor) -> Tensor:
        return residual_quantize_reference(x, code, SIZES, index_NQ=index).error_NQ

    def first_code_error(code: Tensor) -> Tensor:  # later ones hold the codes of earlier stages, detached
        return residual_quantize_reference(x, code, SIZES, index_NQ=index).code_error_NQ[:, 0]

    assert torch.autograd.gradcheck(error, x.clone().requires_grad_())
    assert torch.autograd.gradcheck(first_code_error, code.clone().requires_grad_())


@every_path
def test_every_stages_commitment_reaches_the_encoder(path, take, generator):
    """Promise 1. Where the straight-through is inside each stage, x - x cancels and only the first stage's does."""
    take(path)
    x, code = case(generator)
    quantized = residual_quantize(x, code, SIZES)
    left, first = x.detach().clone(), 0
    for q, size in enumerate(SIZES):
        (pull,) = torch.autograd.grad(quantized.error_NQ[:, q].sum(), x, retain_graph=True)
        left -= code.detach()[first + quantized.index_NQ[:, q].long()]
        assert torch.equal(pull, 2 * left) and pull.abs().amax(1).min() > 0
        first += size


@every_path
def test_each_gradient_goes_where_it_should(path, take, generator):
    take(path)
    x, code = case(generator)
    quantized = residual_quantize(x, code, SIZES)

    def grads(of: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(of.sum(), (x, code), retain_graph=True)

    assert torch.equal(grads(quantized.vectors_ND)[0], torch.ones_like(x))
    assert not grads(quantized.vectors_ND)[1].any() and not grads(quantized.error_NQ)[1].any()
    assert not grads(quantized.code_error_NQ)[0].any()
    of_second = grads(quantized.code_error_NQ[:, 1])[1]  # each stage's own codes, not those before it
    assert of_second[11:16].any() and not of_second[:11].any() and not of_second[16:].any()


@every_path
@pytest.mark.parametrize("offsets", [None, (0, 0, 0)])
def test_lookup_gives_the_same_bits(path, offsets, take, generator):
    sizes = (12, 12, 12)
    x, code = case(generator, 90, 19, sizes)
    everyone = residual_quantize(x, code, sizes, offsets=offsets).vectors_ND
    take(path)
    mask = torch.rand(90, generator=generator) < 0.7
    for stages in (None, 1, 2, per_vector(generator, 90, 3)):
        got = residual_quantize(x, code, sizes, offsets=offsets, stages=stages, mask_N=mask)
        assert torch.equal(residual_lookup(got.index_NQ, code, sizes, offsets=offsets), got.vectors_ND)
        used = torch.full((90,), 3) if stages is None else torch.as_tensor(stages).expand(90)
        assert torch.equal((got.index_NQ >= 0).sum(1), used)
        assert not got.error_NQ[got.index_NQ < 0].any()
        full = (used == 3) & mask
        assert torch.equal(got.vectors_ND[full], everyone[full])  # and every path the same ones
    fewer = residual_quantize(x, code, sizes, offsets=offsets, stages=2).index_NQ[:, :2]
    whole = torch.nn.functional.pad(fewer, (0, 1), value=-1)
    ways = (residual_lookup(index, code, sizes, offsets=offsets) for index in (fewer, whole.long()))
    assert torch.equal(*ways)


@every_path
def test_one_stage_is_nearest_code(path, take, generator):
    take(path)
    x, code = (v.detach() for v in case(generator, sizes=(30,)))
    got = residual_quantize(x, code, (30,))
    assert torch.equal(got.index_NQ[:, 0], nearest_code(x, code))
    assert torch.equal(got.vectors_ND, code[got.index_NQ[:, 0].long()])


@every_path
def test_statistics_are_those_of_the_true_residuals(path, take, generator):
    take(path)
    x, code = (v.detach() for v in case(generator))
    keep, used = torch.rand(40, generator=generator) < 0.8, per_vector(generator, 40, 3)
    x[5, 1], keep[5] = NAN, True
    got = residual_quantize(x, code, SIZES, mask_N=keep, stages=used, statistics=True)
    first = 0
    for q, size in enumerate(SIZES):
        counts, sums = code_sums(x, got.index_NQ[:, q].clamp_min(0), size, mask_N=keep & (used > q))
        assert torch.equal(got.counts_K[first : first + size], counts)
        assert torch.equal(got.sums_KD[first : first + size], sums)
        x, first = x - code[first + got.index_NQ[:, q].clamp_min(0).long()], first + size


def test_statistics_only_when_asked(generator):
    quantized = residual_quantize(*case(generator), SIZES)
    assert quantized.counts_K is None and quantized.sums_KD is None


@every_path
def test_vectors_that_do_not_count(path, take, generator):
    take(path)
    x, code = case(generator)
    mask = torch.ones(40, dtype=torch.bool)
    mask[10:20] = False
    with torch.no_grad():
        x[10:15], x[30, 0], x[31, 1], code[12, 1] = NAN, NAN, -INF, NAN  # a code that cannot win, too
    out = torch.zeros(40, dtype=torch.bool)
    out[10:20] = out[30:32] = True
    used = torch.where(out, 2, per_vector(generator, 40, 3))
    got = residual_quantize(x, code, SIZES, mask_N=mask, stages=used, statistics=True)
    assert got.not_finite == 2
    assert (got.index_NQ[out] == torch.tensor([0, 0, -1])).all() and not got.error_NQ[out].any()
    assert torch.equal(got.vectors_ND[out], (code[0] + code[11]).expand(12, -1))
    assert not (got.index_NQ[:, 1] == 1).any()
    total = got.vectors_ND.sum() + got.error_NQ.sum() + got.code_error_NQ.sum()
    pull, code_pull = torch.autograd.grad(total, (x, code))
    assert not pull[out].any() and torch.isfinite(pull).all() and torch.isfinite(code_pull).all()
    alone = residual_quantize(x[~out], code, SIZES, stages=used[~out], statistics=True)
    assert torch.equal(alone.index_NQ, got.index_NQ[~out])
    assert torch.equal(alone.sums_KD, got.sums_KD) and torch.equal(alone.counts_K, got.counts_K)


@every_path
def test_a_gradient_that_is_nan_is_shown_where_it_belongs(path, take, generator):
    take(path)
    x, code = case(generator)
    used = per_vector(generator, 40, 3)
    got = residual_quantize(x, code, SIZES, stages=used)
    wrong = torch.zeros(40, 3)
    wrong[:, 2] = NAN
    pull, code_pull = torch.autograd.grad((got.error_NQ * wrong + got.code_error_NQ * wrong).sum(), (x, code))
    assert torch.equal(pull.isnan().any(1), used == 3)
    hit = torch.zeros(24, dtype=torch.bool)
    hit[16 + got.index_NQ[used == 3, 2].long()] = True
    assert torch.equal(code_pull.isnan().any(1), hit)


@settings(max_examples=50, deadline=None, database=None)
@given(
    n=st.integers(0, 60),
    width=st.integers(1, 20),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    types=st.tuples(*[st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])] * 2),
    turned=st.booleans(),
    masked=st.booleans(),
    dropped=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_integers_of_every_shape_and_type(n, width, sizes, types, turned, masked, dropped, seed):
    generator = torch.Generator().manual_seed(seed)
    x = integers(generator, n, width, reach=6).to(types[0])
    code = integers(generator, sum(sizes), width, reach=3).to(types[1])
    if turned:
        x, code = x.t().contiguous().t(), code.t().contiguous().t()
    x.requires_grad_()
    mask = torch.rand(n, generator=generator) < 0.5 if masked else None
    used = per_vector(generator, n, len(sizes)).int() if dropped else None
    with torch.autocast("cpu", torch.bfloat16):
        got = residual_quantize(x, code, sizes, mask_N=mask, stages=used, statistics=True)
    true = residual_quantize_reference(x, code, sizes, mask_N=mask, stages=used)
    assert all(torch.equal(ours.double(), theirs.double()) for ours, theirs in zip(got, true, strict=True))
    assert got.vectors_ND.dtype == got.error_NQ.dtype == got.sums_KD.dtype == torch.float32
    (pull,) = torch.autograd.grad(got.vectors_ND.sum() + got.error_NQ.sum(), x)
    assert pull.dtype == types[0] and pull.shape == x.shape


@every_path
def test_bfloat16_and_strides(path, take, generator):
    take(path)
    x = integers(generator, 33, 12, reach=6).bfloat16()[:, ::2]
    code = integers(generator, 24, 6, reach=3).half().t().contiguous().t()
    got = residual_quantize(x, code, SIZES)
    true = residual_quantize_reference(x, code, SIZES)
    assert torch.equal(got.index_NQ, true.index_NQ) and torch.equal(got.error_NQ.double(), true.error_NQ)
    assert torch.equal(residual_lookup(got.index_NQ, code, SIZES), got.vectors_ND)


@every_path
def test_no_vectors(path, take, generator):
    take(path)
    x, code = case(generator, n=0)
    got = residual_quantize(x, code, SIZES, stages=torch.zeros(0, dtype=torch.int64), statistics=True)
    assert got.vectors_ND.shape == (0, 6) and got.index_NQ.shape == got.error_NQ.shape == (0, 3)
    assert not got.counts_K.any() and not got.sums_KD.any() and got.not_finite == 0
    grads = torch.autograd.grad(got.error_NQ.sum() + got.code_error_NQ.sum(), (x, code))
    assert [g.shape for g in grads] == [x.shape, code.shape]
