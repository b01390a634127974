"""vector_quantize: the lookup to the bit, errors, statistics, and where each gradient goes."""

import pytest
import torch
from kernel_cases import INF, NAN, LargestTensor, integers

from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.nearest_code import nearest_code
from vqmm.kernels.vector_quantize import vector_quantize, vector_quantize_reference

every_metric = pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])


def case(generator: torch.Generator, n: int = 60, k: int = 20, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, width, generator=generator, requires_grad=True)
    return x, torch.randn(k, width, generator=generator, requires_grad=True)


def weighted(generator: torch.Generator, vectors, error, code_error) -> torch.Tensor:
    """A scalar in which every output has its own weight."""
    terms = [(o * torch.randn(o.shape, generator=generator)).sum() for o in (vectors, error, code_error)]
    return sum(terms)


@every_metric
def test_forward_and_gradients_equal_the_reference(metric, generator):
    x, code = case(generator)
    mask = torch.rand(60, generator=generator) < 0.8
    with torch.no_grad():
        x[3, 2], x[9], x[4] = NAN, INF, 0.0
        mask[[3, 4, 9]] = True
    got = vector_quantize(x, code, metric=metric, mask_N=mask, statistics=True)
    true = vector_quantize_reference(x, code, metric=metric, mask_N=mask)
    assert torch.equal(got.index_N, true[1]) and got.index_N.dtype == torch.int32
    assert torch.equal(got.counts_K, true[4]) and got.not_finite == true[6] == 2
    for ours, theirs in zip(got[:6], true[:6], strict=True):
        torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-5, atol=1e-6)
    state = generator.get_state()
    ours = torch.autograd.grad(weighted(generator, got[0], got[2], got[3]), (x, code))
    generator.set_state(state)
    theirs = torch.autograd.grad(weighted(generator, true[0], true[2], true[3]), (x, code))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_gradcheck_of_the_reference(metric, generator):
    """The errors are true functions of x and of the codebook; the straight-through vectors are not, by design."""
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    code = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    index = vector_quantize_reference(x, code, metric=metric)[1]

    def outputs(which, x, code):
        return vector_quantize_reference(x, code, metric=metric, index_N=index)[which]

    assert torch.autograd.gradcheck(lambda x: outputs(2, x, code), x.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda code: outputs(3, x, code), code.clone().requires_grad_())


def test_vectors_are_the_codes_to_the_bit(generator):
    x, code = case(generator)
    quantized = vector_quantize(x, code)
    assert torch.equal(quantized.vectors_ND, code[quantized.index_N.long()])
    assert torch.equal(quantized.index_N, nearest_code(x, code))
    assert torch.equal(quantized.error_N, quantized.code_error_N)


def test_each_gradient_goes_where_it_should(generator):
    x, code = case(generator)
    quantized = vector_quantize(x, code)
    chosen = code[quantized.index_N.long()].detach()

    def grads(of):
        return torch.autograd.grad(of.sum(), (x, code), retain_graph=True)

    assert torch.equal(grads(quantized.vectors_ND)[0], torch.ones_like(x))
    assert not grads(quantized.vectors_ND)[1].any()
    assert torch.equal(grads(quantized.error_N)[0], 2 * (x - chosen)) and not grads(quantized.error_N)[1].any()
    assert not grads(quantized.code_error_N)[0].any()
    expected = code_sums((-2 * (x - chosen)).detach(), quantized.index_N, 20)[1]
    assert torch.equal(grads(quantized.code_error_N)[1], expected)


@every_metric
def test_vectors_that_do_not_count_have_no_error_and_no_gradient(metric, generator):
    x, code = case(generator)
    mask = torch.ones(60, dtype=torch.bool)
    mask[10:20] = False
    with torch.no_grad():
        x[10:15], x[30, 0], x[31, 1] = NAN, NAN, -INF
    quantized = vector_quantize(x, code, metric=metric, mask_N=mask, statistics=True)
    out = torch.zeros(60, dtype=torch.bool)
    out[10:20] = out[30:32] = True
    assert quantized.not_finite == 2 and quantized.not_finite.dtype == torch.int64
    assert not quantized.index_N[out].any() and not quantized.error_N[out].any()
    assert torch.equal(quantized.vectors_ND[out], quantized.vectors_ND[10:11].expand(12, -1))
    assert quantized.counts_K.sum() == 48
    total = quantized.vectors_ND.sum() + quantized.error_N.sum() + quantized.code_error_N.sum()
    pull, code_pull = torch.autograd.grad(total, (x, code))
    assert not pull[out].any() and pull[~out].any(1).all()
    assert torch.isfinite(pull).all() and torch.isfinite(code_pull).all()
    with torch.no_grad():
        alone = vector_quantize(x[~out], code, metric=metric, statistics=True)
    assert torch.equal(alone.index_N, quantized.index_N[~out])
    assert torch.equal(alone.sums_KD, quantized.sums_KD) and torch.equal(alone.counts_K, quantized.counts_K)


@every_metric
def test_a_code_that_is_not_finite_spoils_no_gradient(metric, generator):
    x, code = case(generator)
    with torch.no_grad():
        code[5, 1] = NAN
    quantized = vector_quantize(x, code, metric=metric)
    total = quantized.vectors_ND.sum() + quantized.error_N.sum() + quantized.code_error_N.sum()
    assert all(torch.isfinite(pull).all() for pull in torch.autograd.grad(total, (x, code)))


def test_a_gradient_that_is_nan_is_not_hidden(generator):
    x, code = case(generator)
    quantized = vector_quantize(x, code)
    pull, code_pull = torch.autograd.grad((quantized.error_N + quantized.code_error_N).sum() * NAN, (x, code))
    assert pull.isnan().all() and code_pull[quantized.index_N.long()].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_computed_in_float32(dtype, generator):
    x, code = (
        integers(generator, 30, 5).to(dtype).requires_grad_(),
        integers(generator, 9, 5).to(dtype).requires_grad_(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        quantized = vector_quantize(x, code, statistics=True)
    floats = (quantized.vectors_ND, quantized.error_N, quantized.code_error_N, quantized.sums_KD)
    assert all(v.dtype == torch.float32 for v in floats)
    assert torch.equal(quantized.error_N.double(), vector_quantize_reference(x, code)[2])
    assert torch.autograd.grad(quantized.vectors_ND.sum(), x)[0].dtype == dtype


@every_metric
@pytest.mark.parametrize("n", [0, 1])
def test_no_vectors_and_one(metric, n, generator):
    x, code = case(generator, n=n, k=1)
    quantized = vector_quantize(x, code, metric=metric, statistics=True)
    assert quantized.vectors_ND.shape == (n, 7) and quantized.counts_K.tolist() == [n]
    grads = torch.autograd.grad(quantized.error_N.sum() + quantized.code_error_N.sum(), (x, code))
    assert [g.shape for g in grads] == [x.shape, code.shape]


def test_statistics_only_when_asked(generator):
    quantized = vector_quantize(*case(generator))
    assert quantized.counts_K is None and quantized.sums_KD is None


def test_the_same_bits_every_time_backward_too(generator):
    x, code = case(generator, n=2_000, k=30)

    def run():
        quantized = vector_quantize(x, code)
        return torch.autograd.grad((quantized.error_N + quantized.code_error_N).sum(), (x, code))

    first = run()
    assert all(torch.equal(a, b) for _ in range(20) for a, b in zip(run(), first, strict=True))


def test_backward_never_sees_every_code(generator):
    n, k, width = 4_096, 2_048, 16
    x, code = case(generator, n, k, width)
    with LargestTensor() as seen:
        quantized = vector_quantize(x, code, statistics=True)
        (quantized.vectors_ND.sum() + quantized.error_N.sum() + quantized.code_error_N.sum()).backward()
    assert seen.numel <= n * k / 16


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, "x_ND has width 3", {"x_ND": torch.ones(2, 3)}),
        (TypeError, "code_KD is torch.int64", {"code_KD": torch.ones(3, 4).long()}),
        (ValueError, "metric is 'l2'", {"metric": "l2"}),
        (ValueError, "precision is 'fastest'; it can be 'exact', 'fast'", {"precision": "fastest"}),
        (ValueError, "gradient is 'gumbel'", {"gradient": "gumbel"}),
        (ValueError, r"sizes \(2, 2\) make 4 codes, there are 3", {"sizes": (2, 2), "x_ND": torch.ones(2, 2, 4)}),
        (ValueError, r"x has shape \(2, 4\); with 2 codebooks", {"sizes": (1, 2)}),
        (ValueError, r"sizes are \(0, 3\)", {"sizes": (0, 3)}),
        (ValueError, r"mask_N has shape \(1,\)", {"mask_N": torch.ones(1).bool()}),
    ],
)
def test_mistakes_are_answered_in_one_line(error, message, arguments):
    with pytest.raises(error, match=message) as caught:
        vector_quantize(**{"x_ND": torch.ones(2, 4), "code_KD": torch.ones(3, 4), **arguments})
    assert str(caught.value).startswith("vector_quantize: ") and "\n" not in str(caught.value)
