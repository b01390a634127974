"""vector_quantize: groups, the rotation trick, its place in torch, and the gradient kernel."""

import pytest
import torch
from kernel_cases import INTERPRETER_NOISE, NAN, opcheck

from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.nearest_code import nearest_code
from vqmm.kernels.vector_quantize import vector_quantize, vector_quantize_baseline, vector_quantize_reference
from vqmm.kernels.vector_quantize.rotation import rotated_back

SIZES = (5, 1, 9)


def grouped(generator: torch.Generator, n: int = 20, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(3, n, width, generator=generator, requires_grad=True)
    return x, torch.randn(sum(SIZES), width, generator=generator, requires_grad=True)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
def test_groups_are_separate_codebooks_side_by_side(metric, gradient, generator):
    x, code = grouped(generator)
    mask = torch.rand(3, 20, generator=generator) < 0.8
    with torch.no_grad():
        x[1, 2, 3] = NAN
    options = {"metric": metric, "gradient": gradient, "statistics": True}
    together = vector_quantize(x, code, mask_N=mask, sizes=SIZES, **options)
    alone = [vector_quantize(x[g], part, mask_N=mask[g], **options) for g, part in enumerate(code.split(SIZES))]
    for field in ("vectors_ND", "index_N", "error_N", "code_error_N"):
        assert torch.equal(getattr(together, field), torch.stack([getattr(each, field) for each in alone])), field
    assert torch.equal(together.counts_K, torch.cat([each.counts_K for each in alone]))
    assert torch.equal(together.sums_KD, torch.cat([each.sums_KD for each in alone]))
    assert together.not_finite == sum(each.not_finite for each in alone) == int(mask[1, 2])
    weight = torch.randn(together.vectors_ND.shape, generator=generator)

    def total(quantized, weight):
        return (quantized.vectors_ND * weight).sum() + (quantized.error_N + 2 * quantized.code_error_N).sum()

    ours = torch.autograd.grad(total(together, weight), (x, code))
    theirs = torch.autograd.grad(sum(total(each, w) for each, w in zip(alone, weight, strict=True)), (x, code))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_rotation_takes_each_vector_to_its_code_and_the_gradient_back(generator):
    """Against the matrix written out: |q| / |x| R, with R x in the direction of q, a rotation (determinant 1)."""
    x, q = (torch.randn(9, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    gradient = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    for v, c, g, back in zip(x, q, gradient, rotated_back(gradient, x, q), strict=True):
        e, d = v / v.norm(), c / c.norm()
        r = (e + d) / (e + d).norm()
        turn = torch.eye(5).double() - 2 * torch.outer(r, r) + 2 * torch.outer(d, e)
        torch.testing.assert_close(turn @ e, d)
        torch.testing.assert_close(torch.linalg.det(turn), torch.ones(()).double())
        torch.testing.assert_close(back, (c.norm() / v.norm()) * turn.T @ g)


def test_where_no_rotation_is_defined_the_gradient_goes_straight_through():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    q = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-2.0, -4.0]])
    gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert torch.equal(rotated_back(gradient, x, q), gradient)


def test_the_rotation_changes_gradients_and_nothing_else(generator):
    x, code = (
        v.requires_grad_() for v in (torch.randn(40, 6, generator=generator), torch.randn(9, 6, generator=generator))
    )
    straight, turned = (vector_quantize(x, code, gradient=g) for g in ("straight-through", "rotation"))
    assert torch.equal(straight.vectors_ND, turned.vectors_ND)
    pulls = [torch.autograd.grad(q.vectors_ND.square().sum(), x, retain_graph=True)[0] for q in (straight, turned)]
    assert not torch.allclose(*pulls) and torch.isfinite(pulls[1]).all()
    errors = [torch.autograd.grad(q.error_N.sum(), x)[0] for q in (straight, turned)]
    assert torch.equal(*errors)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_the_baseline_means_the_same(metric, generator):
    x = torch.randn(50, 6, generator=generator, requires_grad=True)
    code = torch.randn(9, 6, generator=generator, requires_grad=True)
    mask = torch.rand(50, generator=generator) < 0.7
    theirs = vector_quantize_baseline(x, code, metric=metric, mask_N=mask)
    truth = vector_quantize_reference(x, code, metric=metric, mask_N=mask)
    for a, b in zip(theirs, truth[:6], strict=True):
        kept = mask if a.shape[0] == 50 else slice(None)
        torch.testing.assert_close(a[kept].double(), b[kept].double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [None, SIZES])
@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
def test_torch_knows_the_ops(sizes, gradient, generator):
    x, code = grouped(generator)
    x = x[0] if sizes is None else x
    keep = torch.ones(x.shape[:-1], dtype=torch.bool)
    rows = list(sizes or [len(code)])
    inputs = x.detach().view(len(rows), -1, 6), code.detach(), keep.view(len(rows), -1)
    grouped_inputs = [inputs[0].requires_grad_(), inputs[1].requires_grad_(), inputs[2]]
    given = torch.empty(0, dtype=torch.int32)
    opcheck(
        torch.ops.vqmm.vector_quantize.default,
        (*grouped_inputs, given, rows, "euclidean", "exact", gradient == "rotation"),
    )
    opcheck(
        torch.ops.vqmm.nearest_code.default, (inputs[0].detach(), inputs[1].detach(), rows, "euclidean", "exact", True)
    )


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_twin_is_right_about_strides(given, rotate, generator):
    """Heads are often a transposed view; what comes out is contiguous all the same."""
    x, code = grouped(generator)
    x = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    keep = torch.ones(20, 3, dtype=torch.bool).mT
    index = nearest_code(x, code, sizes=SIZES) if given else torch.empty(0, dtype=torch.int32)
    inputs = (x, code, keep, index, list(SIZES), "euclidean", "exact", rotate)
    opcheck(torch.ops.vqmm.vector_quantize.default, inputs)
    vectors, index_out, *_ = torch.ops.vqmm.vector_quantize.default(*inputs)
    assert vectors.is_contiguous() and index_out.is_contiguous()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_it_compiles_in_one_graph(metric, generator):
    code = torch.randn(9, 6, generator=generator, requires_grad=True)

    def step(x, code):
        quantized = vector_quantize(x, code, metric=metric, statistics=True)
        loss = quantized.vectors_ND.square().sum() + quantized.error_N.sum() + quantized.code_error_N.sum()
        return quantized.index_N, quantized.counts_K, quantized.sums_KD, loss

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (30, 17):
        x = torch.randn(rows, 6, generator=generator, requires_grad=True)
        ours, theirs = compiled(x, code), step(x, code)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(*(torch.autograd.grad(out[3], (x, code)) for out in (ours, theirs)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings(*INTERPRETER_NOISE)
@pytest.mark.parametrize("n, width", [(1, 1), (37, 6), (20, 300)])
def test_the_gradient_kernel(n, width, generator):
    from vqmm.kernels.vector_quantize.fused import pull_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, through = (torch.randn(1, width, n, generator=generator).to(device).mT for _ in range(2))  # odd strides
    code, pull = (
        torch.randn(5, width, generator=generator).to(device),
        torch.randn(1, n, generator=generator).to(device),
    )
    row = torch.randint(0, 5, (1, n), generator=generator).to(device)
    keep = (torch.rand(1, n, generator=generator) < 0.7).to(device)
    x[0, ~keep[0]] = NAN
    expected = torch.where(keep[..., None], through + 2 * (x - code[row]) * pull[..., None], 0.0)
    torch.testing.assert_close(pull_triton(through, pull, x, code, row, keep), expected)


@pytest.mark.filterwarnings(*INTERPRETER_NOISE)
@pytest.mark.parametrize("n", [1, 37])
def test_the_gradient_kernel_takes_dense_rows_and_one_number_for_all(n, generator):
    from vqmm.kernels.vector_quantize.fused import pull_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, code = (torch.randn(*shape, generator=generator).to(device) for shape in ((1, n, 24), (5, 24)))
    pull, through = torch.ones(1, n, device=device), torch.ones((), device=device).expand(1, n, 24)
    row, keep = torch.zeros(1, n, dtype=torch.int64, device=device), torch.ones(1, n, dtype=torch.bool, device=device)
    torch.testing.assert_close(pull_triton(through, pull, x, code, row, keep), 1 + 2 * (x - code[0]))


def test_a_new_number_of_vectors_compiles_nothing():
    """What Triton specialises on is the same for every number of vectors: what counts them is named."""
    from vqmm.kernels.vector_quantize.fused import pull_kernel, strides_of

    named = (
        pull_kernel.kwargs if hasattr(pull_kernel, "kwargs") else {"do_not_specialize": pull_kernel.do_not_specialize}
    )
    assert set(named["do_not_specialize"]) == {"N", "x_column", "through_column"}
    for make in (lambda n: torch.zeros(n, 24), lambda n: torch.zeros(()).expand(n, 24)):
        assert len({strides_of(make(n)) for n in (1, 2, 16, 1000)}) == 1
    rows = [strides_of(torch.zeros(24, n).T) for n in (2, 16, 1000)]
    assert {(row, column is None) for row, column in rows} == {(1, False)}


def test_indices_and_sums_are_those_of_the_other_kernels(generator):
    x, code = (v.detach() for v in grouped(generator))
    quantized = vector_quantize(x, code, sizes=SIZES, statistics=True)
    assert torch.equal(quantized.index_N, nearest_code(x, code, sizes=SIZES))
    for g, (counts, sums) in enumerate(
        zip(quantized.counts_K.split(SIZES), quantized.sums_KD.split(SIZES), strict=True)
    ):
        expected = code_sums(x[g], quantized.index_N[g], SIZES[g])
        assert torch.equal(counts, expected[0]) and torch.equal(sums, expected[1])
