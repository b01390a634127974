"""codebook_softmax: every path against the float64 truth, forward and backward; draws, memory, mistakes."""

import math

import pytest
import torch
from kernel_cases import INF, INTERPRETER_NOISE, NAN, LargestTensor, integers, opcheck

import vqmm.kernels.codebook_softmax as module
from tests.covering import pairs
from vqmm.kernels.codebook_softmax import (
    codebook_softmax,
    codebook_softmax_baseline,
    codebook_softmax_reference,
    path_for,
    plain,
)
from vqmm.kernels.codebook_softmax.reference import gumbel, hashes, uniform

pytestmark = [pytest.mark.filterwarnings(noise) for noise in INTERPRETER_NOISE]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METRICS = ("euclidean", "cosine", "dot")
every_metric = pytest.mark.parametrize("metric", METRICS)
WAYS = ("cpu", "triton", "chunks", "baseline")
FLOATS = ("log_sum", "entropy", "usage", "vectors", "cross_entropy")


@pytest.fixture(params=WAYS)
def softmax(request, monkeypatch):
    """Every path on every machine: in chunks of the cache, of 40 vectors, by Triton (interpreted), and dense."""
    if request.param == "baseline":
        return lambda x, code, **options: module.CodebookSoftmax(*codebook_softmax_baseline(x, code, **options))
    if request.param == "chunks":
        monkeypatch.setattr(plain, "LEAST_ROWS", 40)
        monkeypatch.setattr(plain, "CHUNK_BYTES", 0)
        monkeypatch.setattr(plain, "highest_by_pooling", plain.highest_by_comparing)
    if request.param != "triton":
        return codebook_softmax
    monkeypatch.setattr(module, "path_for", lambda *_: "triton")

    def there(x, code, **options):
        options = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        result = codebook_softmax(x.to(DEVICE), code.to(DEVICE), **options)
        return module.CodebookSoftmax(*(None if v is None else v.cpu() for v in result))

    return there


def case(generator: torch.Generator, n: int = 70, k: int = 45, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, width, generator=generator, requires_grad=True)
    return x, torch.randn(k, width, generator=generator, requires_grad=True)


def weighted(outputs, generator: torch.Generator, only: tuple[str, ...] = FLOATS) -> torch.Tensor:
    """A scalar in which every number of the outputs named has its own weight."""
    named = zip(("log_sum", "entropy", "usage", "vectors", "index", "cross_entropy"), outputs, strict=True)
    chosen = [v for name, v in named if name in only and v is not None]
    return sum((v * torch.randn(v.shape, generator=generator)).sum() for v in chosen)


def agree(softmax, x, code, generator, only=FLOATS, tolerance=2e-5, **options) -> None:
    """Outputs and gradients equal the reference's, each to float32's rounding of its own scale."""
    result = softmax(x, code, **options)
    true = codebook_softmax_reference(x, code, **options)
    assert result.index_N.dtype == torch.int32 and torch.equal(result.index_N, true[4])
    for ours, theirs in zip(result, true, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and ours.numel():
            close(ours, theirs, tolerance)
    state = generator.get_state()
    ours = torch.autograd.grad(weighted(result, generator, only), (x, code))
    generator.set_state(state)
    theirs = torch.autograd.grad(weighted(true, generator, only), (x, code))
    for a, b in zip(ours, theirs, strict=True):
        if a.numel():
            close(a, b, tolerance)


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape and torch.isfinite(ours).all()
    scale = theirs.abs().amax().clamp_min(1e-3)
    assert ((ours.double() - theirs).abs() <= tolerance * scale).all(), ((ours.double() - theirs).abs().amax(), scale)


def aims(generator: torch.Generator, n: int, k: int) -> torch.Tensor:
    return torch.randint(0, k, (n,), generator=generator)


@pairs(indirect=["softmax"], softmax=WAYS, metric=METRICS, seed=[None, 3])
def test_forward_and_gradients_equal_the_reference(softmax, metric, seed, generator):
    x, code = case(generator)
    mask = torch.rand(70, generator=generator) < 0.8
    with torch.no_grad():
        x[4] = 0
    options = {"metric": metric, "temperature": 0.6, "mask_N": mask, "seed": seed}
    agree(softmax, x, code, generator, target_N=aims(generator, 70, 45), **options)


@pairs(indirect=["softmax"], softmax=WAYS, width=[1, 3, 8, 16, 17, 64], shape=[(33, 1), (1, 70), (150, 100)])
def test_widths_and_ragged_tiles(softmax, width, shape, generator):
    n, k = shape
    x, code = case(generator, n, k, width)
    agree(softmax, x, code, generator, temperature=width**0.5, target_N=aims(generator, n, k).int())


@pytest.mark.parametrize("width", [100, 128, 257])
def test_wide_vectors(softmax, width, generator, request):
    if "triton" in request.node.callspec.id:
        pytest.skip("as wide as this, exact scores are not Triton's")
    x, code = case(generator, 50, 40, width)
    agree(softmax, x, code, generator, temperature=float(width), seed=1)


@pytest.mark.parametrize("only", FLOATS)
def test_a_loss_of_one_output(softmax, only, generator):
    x, code = case(generator)
    agree(softmax, x, code, generator, (only,), target_N=aims(generator, 70, 45), metric="dot")


@pytest.mark.parametrize("width", [7, 100])
def test_fast_is_near(softmax, width, request, generator):
    if "baseline" in request.node.callspec.id:
        pytest.skip("the baseline has one precision")
    x, code = case(generator, width=width)
    result, true = softmax(x, code, precision="fast"), codebook_softmax_reference(x, code)
    largest = x.detach().norm(dim=1).amax() * code.detach().norm(dim=1).amax()
    assert (result.log_sum_N - true[0]).abs().max() < 2.0**-10 * 2 * largest


def test_only_one_side_has_a_gradient(softmax, generator):
    x, code = case(generator)
    for kept in (x, code):
        left, right = (v if v is kept else v.detach() for v in (x, code))
        result = torch.autograd.grad(weighted(softmax(left, right), torch.Generator().manual_seed(1)), kept)[0]
        true = codebook_softmax_reference(left, right)
        close(result, torch.autograd.grad(weighted(true, torch.Generator().manual_seed(1)), kept)[0], 2e-5)


@every_metric
def test_gradcheck_of_the_reference(metric, generator):
    x, code = (torch.randn(s, 3, generator=generator, dtype=torch.float64, requires_grad=True) for s in (6, 5))
    target = aims(generator, 6, 5)

    def outputs(x, code):
        result = codebook_softmax_reference(x, code, metric=metric, temperature=0.7, target_N=target, seed=2)
        return tuple(v for i, v in enumerate(result) if i != 4)

    assert torch.autograd.gradcheck(outputs, (x, code))


@every_metric
def test_vectors_that_do_not_count(softmax, metric, generator):
    x, code = case(generator)
    mask = torch.ones(70, dtype=torch.bool)
    mask[10:20] = False
    with torch.no_grad():
        x[10:15], x[30, 0], x[31, 1] = NAN, NAN, -INF
    target = aims(generator, 70, 45)
    out = ~mask
    out[30:32] = True
    result = softmax(x, code, metric=metric, mask_N=mask, target_N=target)
    rows = (result.log_sum_N, result.entropy_N, result.index_N, result.vectors_ND, result.cross_entropy_N)
    assert not any(v[out].any() for v in rows)
    assert math.isclose(result.usage_K.sum().item(), 1, rel_tol=1e-5)
    loss = sum(v.sum() for v in (*rows, result.usage_K.square()))
    pull_x, pull_code = torch.autograd.grad(loss, (x, code))
    alone_x, alone_code = x[~out].detach().requires_grad_(), code.detach().requires_grad_()
    alone = codebook_softmax_reference(alone_x, alone_code, metric=metric, target_N=target[~out])
    loss = sum(alone[i].sum() for i in (0, 1, 3, 5)) + alone[2].square().sum()
    true_x, true_code = torch.autograd.grad(loss, (alone_x, alone_code))
    assert not pull_x[out].any()
    close(pull_x[~out], true_x, 2e-5)
    close(pull_code, true_code, 2e-5)


def test_a_gradient_that_is_not_finite_stays_with_vectors_that_count(softmax, request, generator):
    if "baseline" in request.node.callspec.id:
        pytest.skip("the baseline multiplies what it should select")
    x, code = case(generator)
    mask = torch.arange(70) < 60
    entropy = softmax(x, code, mask_N=mask).entropy_N
    pull, code_pull = torch.autograd.grad(entropy.log()[mask].sum(), (x, code))  # 0 / 0 where the mask is False
    assert torch.isfinite(pull).all() and not pull[60:].any() and torch.isfinite(code_pull).all()
    entropy = softmax(x, code).entropy_N
    weight = torch.ones(70)
    weight[3] = NAN
    pull = torch.autograd.grad((entropy * weight).sum(), x)[0]
    assert pull[3].isnan().all() and torch.isfinite(pull[4:]).all()


@every_metric
def test_codes_that_are_not_finite_have_no_part(softmax, metric, generator):
    x, code = case(generator)
    with torch.no_grad():
        code[5, 1], code[40, 0] = NAN, INF
    rest = torch.ones(45, dtype=torch.bool)
    rest[[5, 40]] = False
    agree(softmax, x, code, generator, ("log_sum", "usage", "vectors"), metric=metric)
    result = softmax(x, code, metric=metric, target_N=torch.full((70,), 7))
    assert not result.usage_K[~rest].any() and not torch.isin(result.index_N, torch.tensor([5, 40])).any()
    loss = (result.entropy_N * 1e6).sum() + result.usage_K.square().sum() + result.vectors_ND.sum()
    loss = loss + result.cross_entropy_N.sum()
    pull, code_pull = torch.autograd.grad(loss, (x, code))
    assert torch.isfinite(pull).all() and torch.isfinite(code_pull).all() and not code_pull[~rest].any()


def test_no_finite_code_and_a_target_that_is_not_finite(generator):
    x, code = case(generator)
    with pytest.raises(ValueError, match="codebook_softmax: none of the 45 codes in code_KD is finite"):
        codebook_softmax(x, code * NAN)
    with torch.no_grad():
        code[5] = NAN
    result = codebook_softmax(x, code, target_N=torch.full((70,), 5))
    assert (result.cross_entropy_N == INF).all()
    assert not torch.autograd.grad(result.cross_entropy_N.sum(), x)[0].any()


def test_a_target_that_is_no_code_where_nobody_looks(generator):
    """What a GPU does, whose targets are not looked at: an infinite cross-entropy, no gradient, no crash."""
    from vqmm.kernels.codebook_softmax import fused

    problem, _, _ = module.posed(*(v.detach() for v in case(generator)), "dot", 1.0, None)
    target = aims(generator, 70, 45).int()
    target[3], target[4] = -1, 45
    problem = problem._replace(target_N=target)
    for result in (plain.forward(problem, True, True), fused.forward(problem, "exact", True, True)):
        assert (result.cross_N > 1e30).nonzero().flatten().tolist() == [3, 4]
        pulls = plain.Pulls(*(torch.zeros(0) for _ in plain.Pulls._fields))
        pulls = pulls._replace(base_N=torch.zeros(70), cross_N=torch.zeros(70))
        assert not plain.backward(problem, result.peak_N, result.rest_N, pulls, True, True)[0].any()


def test_triton_has_an_answer_where_the_cpu_raises(softmax, request, generator):
    if "triton" not in request.node.callspec.id or DEVICE == "cpu":
        pytest.skip("needs a GPU: the CPU raises")
    x, code = case(generator)
    assert not any(v.any() for v in softmax(x, code * NAN) if v is not None)


@pytest.mark.parametrize("size", [1e3, 1e4, 1e7])
def test_huge_scores(softmax, size, generator):
    """Differences of the order of size: probabilities are 0 and 1, entropies 0, and nothing overflows."""
    x, code = case(generator)
    result = softmax(x, code, metric="dot", temperature=1 / size, target_N=aims(generator, 70, 45))
    true = codebook_softmax_reference(x, code, metric="dot", temperature=1 / size)
    assert torch.equal(result.index_N, true[4])
    close(result.log_sum_N, true[0], 1e-5)
    assert (result.entropy_N >= 0).all() and (result.cross_entropy_N >= 0).all()
    loss = result.entropy_N.sum() + result.usage_K.square().sum() + result.vectors_ND.sum()
    loss = loss + result.cross_entropy_N.mean()
    assert all(torch.isfinite(pull).all() for pull in torch.autograd.grad(loss, (x, code)))


def test_a_common_offset_costs_little(generator):
    x, code = case(generator)
    x, code = (x + 300).detach().requires_grad_(), (code + 300).detach().requires_grad_()
    agree(codebook_softmax, x, code, generator, temperature=2.0)


def test_lowest_index_among_equals(softmax, generator):
    code = integers(generator, 30, 4, reach=2).repeat(3, 1)
    x = integers(generator, 150, 4, reach=3)
    for metric in ("euclidean", "dot"):
        result = softmax(x, code, metric=metric)
        assert torch.equal(result.index_N, codebook_softmax_reference(x, code, metric=metric)[4])
        assert (result.index_N < 30).all()


@pairs(indirect=["softmax"], softmax=WAYS, metric=METRICS, shape=[(0, 5), (0, 1), (1, 1)])
def test_no_vectors_and_one_code(softmax, metric, shape, generator):
    n, k = shape
    x, code = case(generator, n, k)
    result = softmax(x, code, metric=metric, target_N=torch.zeros(n, dtype=torch.int64), seed=1)
    assert result.vectors_ND.shape == (n, 7) and result.usage_K.tolist() == [1.0 if n else 0.0] * k
    assert result.entropy_N.tolist() == [0.0] * n == result.cross_entropy_N.tolist()
    grads = torch.autograd.grad(weighted(result, generator), (x, code))
    assert [g.shape for g in grads] == [x.shape, code.shape] and all(torch.isfinite(g).all() for g in grads)


def test_nothing_counts(softmax, generator):
    x, code = case(generator)
    result = softmax(x, code, mask_N=torch.zeros(70, dtype=torch.bool))
    assert not any(v.any() for v in result if v is not None)
    assert not any(g.any() for g in torch.autograd.grad(weighted(result, generator), (x, code)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_strides_and_autocast(softmax, dtype, request, generator):
    if "baseline" in request.node.callspec.id:
        pytest.skip("the baseline does what its caller's autocast says")
    x, code = (torch.randn(7, s, generator=generator).to(dtype).t().requires_grad_() for s in (70, 45))
    target = torch.stack([aims(generator, 70, 45)] * 2, 1)[:, 0]
    with torch.autocast("cpu", torch.bfloat16):
        result = softmax(x, code, target_N=target, temperature=torch.tensor(0.5, dtype=dtype))
    true = codebook_softmax_reference(x, code, target_N=target, temperature=0.5)
    assert all(v.dtype == torch.float32 for v in result if v is not result.index_N)
    for ours, theirs in zip(result, true, strict=True):
        close(ours, theirs.double(), 2e-5)
    grads = torch.autograd.grad(result.entropy_N.sum(), (x, code))
    assert all(g.dtype == dtype for g in grads)
    close(grads[0], torch.autograd.grad(true[1].sum(), x)[0].double(), 2e-2 if dtype != torch.float64 else 2e-5)


def test_what_is_not_asked_for_is_not_there(softmax, request, generator):
    if "baseline" in request.node.callspec.id:
        pytest.skip("the baseline gives everything")
    x, code = case(generator)
    result, everything = softmax(x, code, usage=False, vectors=False), softmax(x, code)
    assert result.usage_K is None and result.vectors_ND is None and result.cross_entropy_N is None
    close(result.entropy_N, everything.entropy_N.double(), 1e-6)
    ours, theirs = (torch.autograd.grad(f.entropy_N.sum(), x)[0] for f in (result, everything))
    close(ours, theirs.double(), 1e-5)


def test_the_same_bits_every_time(softmax, generator):
    x, code = case(generator, 300)

    def run():
        result = softmax(x, code, seed=5)
        return *result[:5], *torch.autograd.grad(weighted(result, torch.Generator().manual_seed(1)), (x, code))

    first = run()
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(run(), first, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2**40, -(2**63), 2**63 - 1])
def test_every_path_draws_the_same(softmax, seed, generator):
    """Zero scores: log_sum is of the noise alone, and the index is where it is largest."""
    x, code = torch.zeros(150, 1), torch.zeros(100, 1)
    noise_KN = gumbel(uniform(*hashes(torch.tensor([seed]), 150, 100)).double())
    for given in (seed, torch.tensor(seed)):
        result = softmax(x, code, metric="dot", seed=given)
        assert torch.equal(result.index_N.long(), noise_KN.argmax(0))
        torch.testing.assert_close(result.log_sum_N.double(), noise_KN.logsumexp(0), rtol=1e-6, atol=2e-6)


def test_draws_follow_the_softmax():
    """Chi-square of 40,000 draws over 8 codes: 7 degrees of freedom, 24.3 is passed once in a thousand."""
    x, code = torch.zeros(40_000, 1), torch.zeros(8, 1)
    wanted = torch.softmax(torch.linspace(-2, 2, 8), 0)
    x, code = torch.ones(40_000, 1), torch.linspace(-2, 2, 8)[:, None]
    for seed in (0, 1, 7):
        drawn = codebook_softmax(x, code, metric="dot", seed=seed, temperature=0.3).index_N
        expected = wanted * 40_000
        chi = ((torch.bincount(drawn, minlength=8) - expected).square() / expected).sum()
        assert chi < 24.3, (seed, chi)


def test_noise_is_new_for_every_seed_vector_and_code():
    rows = {}
    for seed in (0, 1, 2**32, 2**32 + 1):
        u_KN = uniform(*hashes(torch.tensor([seed]), 400, 300))
        assert u_KN.min() > 0 and u_KN.max() < 1
        centred = u_KN - 0.5
        assert centred.mean().abs() < 4 * (1 / 12 / centred.numel()) ** 0.5
        for across in (centred.T @ centred / 300, centred @ centred.T / 400):  # between vectors, between codes
            off = across - torch.diag(across.diag())
            assert off.abs().max() < 6 / 12 / 300**0.5
        rows[seed] = u_KN
    pairs = [(a, b) for a in rows for b in rows if a < b]
    for a, b in pairs:
        assert torch.corrcoef(torch.stack([rows[a].flatten(), rows[b].flatten()]))[0, 1].abs() < 4 / 120_000**0.5


def test_never_holds_every_pair(generator):
    n, k, width = 8_192, 2_048, 8
    x, code = case(generator, n, k, width)
    with LargestTensor() as seen:
        result = codebook_softmax(x, code, target_N=aims(generator, n, k), seed=1)
        weighted(result, generator).backward()
    assert seen.numel <= n * k / 32


def test_triton_shares_the_vectors_evenly():
    from vqmm.kernels.codebook_softmax.fused import shares
    from vqmm.kernels.codebook_softmax.tables import Config

    config = Config("usage", 16, "exact", 32, 64, 8, 2, "tf32x3")
    for n, k in ((1, 1), (65_536, 512), (65_536, 262_144), (1_000, 40)):
        columns, parts, share = shares(n, k, config)
        assert columns * 64 >= k and parts * share >= n and (parts - 1) * share < n and share % 32 == 0
        assert columns * parts <= 256 or parts == 1


def test_opcheck(generator):
    problem, _, _ = module.posed(*case(generator, 9, 5), "euclidean", 0.5, None)
    problem = problem._replace(target_N=torch.zeros(9, dtype=torch.int32), seed_1=torch.tensor([3]))
    opcheck(module.forward_op, (*[v.detach() for v in problem], "exact", True, True))
    wanting = [v.detach().requires_grad_(v.is_floating_point() and i < 3) for i, v in enumerate(problem)]
    opcheck(module.forward_op, (*wanting, "exact", True, True))
    problem = [v.detach() for v in problem]
    rows = [torch.rand(9) for _ in range(5)]
    rest = (*rows, torch.rand(5), torch.rand(9, 7), "exact")
    for asked in ((True, True), (False, True), (True, False)):
        opcheck(module.backward_op, (*problem, *rest, *asked))


def test_compiles_in_one_graph(generator):
    x, code = case(generator)

    def loss(x, code, temperature):
        result = codebook_softmax(x, code, temperature=temperature, seed=3, mask_N=x[:, 0] > -1)
        return result.entropy_N.mean() + result.usage_K.square().sum() + result.vectors_ND.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for temperature in (0.5, torch.tensor(0.7)):
        ours = torch.autograd.grad(compiled(x, code, temperature), (x, code))
        theirs = torch.autograd.grad(loss(x, code, temperature), (x, code))
        for a, b in zip(ours, theirs, strict=True):
            close(a, b.double(), 1e-5)


def test_paths(monkeypatch):
    assert path_for("cpu", 8) == "cpu" and path_for("meta", 8) == "torch"
    for capability in ((8, 0), (8, 9), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, capability=capability: capability)
        for precision, widest in (("exact", 64), ("fast", 128)):
            assert path_for("cuda", widest, precision) == "triton"
            assert path_for("cuda", widest + 1, precision) == "torch"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert path_for("cuda", 8) == "torch"


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, "x_ND has width 3", {"x_ND": torch.ones(2, 3)}),
        (TypeError, "code_KD is torch.int64", {"code_KD": torch.ones(3, 4).long()}),
        (ValueError, r"code_KD has shape \(0, 4\)", {"code_KD": torch.ones(0, 4)}),
        (ValueError, "metric is 'l2'", {"metric": "l2"}),
        (ValueError, "precision is 'certified'; it can be 'exact', 'fast'", {"precision": "certified"}),
        (ValueError, "temperature is 0; it needs to be above 0", {"temperature": 0}),
        (ValueError, r"temperature is -1\.0", {"temperature": -1.0}),
        (ValueError, "temperature is nan", {"temperature": NAN}),
        (ValueError, r"temperature has shape \(2,\); it needs one element", {"temperature": torch.ones(2)}),
        (ValueError, r"mask_N has shape \(1,\)", {"mask_N": torch.ones(1).bool()}),
        (TypeError, "target_N is torch.float32", {"target_N": torch.zeros(2)}),
        (ValueError, r"target_N has shape \(3,\)", {"target_N": torch.zeros(3).long()}),
        (ValueError, "target_N holds 3; with 3 codes it can be 0 to 2", {"target_N": torch.tensor([0, 3])}),
        (ValueError, "target_N on meta", {"target_N": torch.zeros(2, device="meta").long()}),
        (TypeError, "seed is torch.float32", {"seed": torch.zeros(1)}),
        (TypeError, "seed is 1.5", {"seed": 1.5}),
        (ValueError, "seed is 18446744073709551616", {"seed": 2**64}),
    ],
)
def test_mistakes_are_answered_in_one_line(error, message, arguments):
    with pytest.raises(error, match=message) as caught:
        codebook_softmax(**{"x_ND": torch.ones(2, 4), "code_KD": torch.ones(3, 4), **arguments})
    assert str(caught.value).startswith("codebook_softmax: ") and "\n" not in str(caught.value)
