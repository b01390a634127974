"""The promises of simvq, gumbel and hierarchical."""

import math

import pytest
import torch
from pydantic import ValidationError

from vqmm.quantizers.gumbel import GumbelQuantizer
from vqmm.quantizers.hierarchical import HierarchicalQuantizer
from vqmm.quantizers.simvq import SimVQ
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

REGISTRY = Registry.discover()


def make(kind, rank=2, **options):
    torch.manual_seed(0)
    return kind.build(kind.Options(**{"dim": 6, **options}), rank, REGISTRY)


@pytest.mark.parametrize("matrix", ["gaussian", "hadamard"])
def test_simvq_moves_every_code_at_once_and_never_the_fixed_matrix(matrix):
    quantizer = make(SimVQ, codebook_size=32, matrix=matrix, width=16)
    held = {name: tensor.clone() for name, tensor in quantizer.named_buffers()}
    before = quantizer.codebook().detach()
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.1)
    sum(quantizer(torch.randn(4, 6, 3, 3)).losses.values()).backward()
    optimizer.step()
    after = quantizer.codebook().detach()
    assert ((after - before).abs().sum(1) > 0).all()
    assert ("places" in held) == (matrix == "hadamard") and ("frozen" in held) == (matrix == "gaussian")
    assert all(torch.equal(held[name], tensor) for name, tensor in quantizer.named_buffers())


@pytest.mark.parametrize(("codebook_size", "width", "columns"), [(16, 16, 15), (11, 5, 5), (11, 400, 15), (1, 4, 1)])
def test_a_hadamard_matrix_is_the_one_written_out(codebook_size, width, columns):
    options = {"codebook_size": codebook_size, "matrix": "hadamard", "width": width, "falloff": 0.5}
    quantizer = make(SimVQ, start="random", **options)
    with torch.no_grad():
        quantizer.map.bias.normal_()
    assert len(set(quantizer.places.tolist())) == columns
    rows, places = torch.arange(codebook_size)[:, None], quantizer.places[None]
    minus = [[(~row & place).bit_count() % 2 for place in places[0].tolist()] for row in rows[:, 0].tolist()]
    sizes = torch.arange(1, columns + 1) ** -0.5
    matrix = (1 - 2 * torch.tensor(minus)) * sizes * (6 / sizes.square().sum()).sqrt()
    expected = matrix @ quantizer.map.weight.T + quantizer.map.bias
    torch.testing.assert_close(quantizer.codebook(), expected)
    if codebook_size == 16:
        assert torch.linalg.matrix_rank(torch.cat((torch.ones(16, 1), matrix), 1)) == 16, "with the bias any codebook"
    torch.manual_seed(1)
    other = SimVQ(SimVQ.Options(dim=6, **options), 2)
    if columns == 5:
        assert not torch.equal(other.places, quantizer.places), "drawn at random"
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other.codebook(), quantizer.codebook())


@pytest.mark.parametrize(
    ("matrix", "codebook_size", "width", "falloff"),
    [
        ("gaussian", 20_000, None, 0.0),
        ("gaussian", 20_000, 24, 0.0),
        ("gaussian", 20_000, 100, 0.5),
        ("hadamard", 1024, 1024, 0.5),
        ("hadamard", 16_000, None, 0.0),
    ],
)
def test_simvq_starts_where_the_latents_are(matrix, codebook_size, width, falloff):
    quantizer = make(SimVQ, codebook_size=codebook_size, matrix=matrix, width=width, falloff=falloff)
    z = (torch.randn(2_000, 6) @ torch.randn(6, 6) + 3).reshape(20, 100, 6).movedim(-1, 1)
    quantizer.initialise(z)
    codes, rows = quantizer.codebook(), z.movedim(1, -1).reshape(-1, 6)
    torch.testing.assert_close(codes.mean(0), rows.mean(0), atol=0.15, rtol=0)
    variances, axes = torch.linalg.eigh(rows.T.cov())
    roots = variances.sqrt()
    shares = roots * variances.sum() / roots.sum()
    torch.testing.assert_close(axes.T @ codes.T.cov() @ axes / shares, torch.eye(6), atol=0.2, rtol=0)
    held = quantizer.map.weight.clone()
    quantizer.initialise(z * 2)
    assert torch.equal(held, quantizer.map.weight)


@pytest.mark.parametrize(("width", "falloff"), [(None, 0.0), (24, 0.0), (24, 0.5), (200, 1.0)])
def test_simvq_starts_at_random_with_codes_of_one_spread(width, falloff):
    quantizer = make(SimVQ, codebook_size=20_000, width=width, falloff=falloff, start="random")
    spreads = quantizer.frozen.std(0)
    sizes = torch.arange(1, (width or 6) + 1) ** -falloff
    torch.testing.assert_close(spreads / spreads[0], sizes / sizes[0], rtol=0.04, atol=0)
    assert spreads.square().sum() == pytest.approx(6, rel=0.05), "dim, as with the paper's matrix of dim columns"
    if falloff == 0:
        torch.testing.assert_close(torch.cov(quantizer.codebook().T), torch.eye(6), atol=0.05, rtol=0)


def test_simvq_of_few_columns_starts_along_the_largest_variances():
    quantizer = make(SimVQ, codebook_size=20_000, width=2)
    z = torch.randn(20, 6, 100) * torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 0.5])[:, None]
    quantizer.initialise(z)
    found = torch.cov(quantizer.codebook().detach().T)
    assert torch.linalg.matrix_rank(found, rtol=1e-4) == 2
    assert found.diagonal()[[1, 3]].sum() == pytest.approx(9 + 4, rel=0.1)


def test_simvq_turns_gradients_when_told():
    z = torch.randn(2, 6, 9, requires_grad=True)
    pulls = []
    for gradient in ("straight-through", "rotation"):
        found = make(SimVQ, rank=1, codebook_size=9, gradient=gradient)(z)
        pulls.append(torch.autograd.grad((found.vectors * torch.arange(6.0)[:, None]).sum(), z)[0])
    assert torch.equal(pulls[0], torch.arange(6.0)[:, None].expand(2, 6, 9)) and not torch.allclose(*pulls)


def test_gumbel_is_a_mixture_in_training_and_a_code_in_evaluation():
    quantizer, z = make(GumbelQuantizer, codebook_size=9), torch.randn(4, 6, 3, 3)
    soft = quantizer.train()(z)
    assert not torch.equal(soft.vectors, quantizer.lookup(soft.codes))
    assert not torch.equal(soft.vectors, quantizer(z).vectors), "every forward draws anew"
    quantizer.eval()
    hard = quantizer(z)
    assert torch.equal(hard.vectors, quantizer.lookup(hard.codes)) and torch.equal(hard.vectors, quantizer(z).vectors)


def test_gumbel_schedules_follow_progress_and_rest_in_evaluation():
    quantizer = make(GumbelQuantizer, temperature=1.0, last_temperature=0.1, settled=0.5, kl_weight=0.2)
    seen = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        quantizer.train().after_step(lambda value: value, progress)
        seen.append((float(quantizer.temperature), float(quantizer._settled())))
    assert seen == [pytest.approx(pair) for pair in ((1.0, 0.0), (0.55, 0.5), (0.1, 1.0), (0.1, 1.0))]
    quantizer.eval().after_step(lambda value: value, 0.0)
    assert float(quantizer.temperature) == pytest.approx(0.1)
    assert float(quantizer.state_dict()["progress"]) == 1.0, "a resumed run goes on where it was"


def test_gumbel_kl_is_that_of_the_softmax_written_out():
    quantizer = make(GumbelQuantizer, codebook_size=9, kl_weight=1.0)
    quantizer.progress.fill_(1.0)
    z, mask = torch.randn(2, 6, 3, 3), torch.ones(2, 3, 3, dtype=torch.bool)
    mask[0, 1] = False
    rows = quantizer.project_in(z.movedim(1, -1)[mask])
    p = (rows @ quantizer.codebook.T).softmax(1)
    expected = (p * (p * 9).log()).sum(1).mean()
    torch.testing.assert_close(quantizer.train()(z, mask).losses["kl"], expected, rtol=1e-4, atol=1e-5)
    assert 0 <= expected <= math.log(9)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("inner", [{"name": "vector"}, {"name": "residual", "stages": 2}, {"name": "fsq"}], ids=str)
def test_a_hierarchy_halves_the_grid_and_comes_back(rank, inner):
    quantizer = make(HierarchicalQuantizer, rank, levels=3, inner=inner)
    z = torch.randn(2, 6, *(5, 8, 4)[:rank])
    quantizer.initialise(z)
    found = quantizer.eval()(z)
    grids = [one.shape[2:] for one in found.codes.maps]
    assert grids[2] == z.shape[2:] and grids[1] == tuple(-(-n // 2) for n in grids[2])
    assert grids[0] == tuple(-(-n // 2) for n in grids[1])
    assert len(quantizer.sizes) == 3 and torch.equal(quantizer.lookup(found.codes), found.vectors)


def test_a_hierarchy_of_hierarchies():
    inner = {"name": "hierarchical", "levels": 2, "inner": {"name": "vector", "codebook_size": 8}}
    quantizer = make(HierarchicalQuantizer, 1, levels=2, inner=inner).eval()
    found = quantizer(torch.randn(2, 6, 16))
    assert [one.shape[2] for one in found.codes.maps] == [4, 8, 8, 16] and quantizer.sizes == ((8,),) * 4
    assert torch.equal(quantizer.lookup(found.codes), found.vectors)


@pytest.mark.parametrize("short", [1, 3, 4, 6])
def test_a_hierarchy_gives_a_short_sample_the_same_codes_alone_and_beside_a_longer_one(short):
    quantizer = make(HierarchicalQuantizer, 1, levels=3, inner={"name": "vector", "codebook_size": 32})
    z = torch.randn(2, 6, 7)
    z[0, :, short:] = 77.0
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, short:] = False
    quantizer.initialise(z, mask)
    quantizer.eval()
    beside = quantizer(z, mask)
    assert torch.equal(quantizer.lookup(beside.codes), beside.vectors)
    if short < 4:
        return  # alone, its grid is too small for three levels
    alone = quantizer(z[:1, :, :short])
    torch.testing.assert_close(beside.vectors[:1, :, :short], alone.vectors)
    for one, other in zip(beside.codes.maps, alone.codes.maps, strict=True):
        assert torch.equal(one[:1, :, : other.shape[2]], other)


def test_each_level_of_a_hierarchy_learns():
    quantizer = make(HierarchicalQuantizer, levels=2, inner={"name": "vector", "codebook_size": 8, "start": "random"})
    before = [each.codebook.clone() for each in quantizer.quantizers]
    z = torch.randn(4, 6, 4, 4, requires_grad=True)
    found = quantizer.train()(z)
    assert set(found.losses) == {"commitment/0", "commitment/1"}
    assert all(torch.autograd.grad(loss, z, retain_graph=True)[0].any() for loss in found.losses.values())
    quantizer.after_step(lambda value: value, 0.5)
    assert not any(torch.equal(old, each.codebook) for old, each in zip(before, quantizer.quantizers, strict=True))


def test_mistakes():
    part = {"name": "hierarchical", "dim": 6}
    for inner, said in (
        ({"name": "vektor"}, "vector"),
        ({"name": "vector", "codebok_size": 3}, "codebook_size"),
        ({"name": "vector", "dim": 7}, "leave its dim out: it is 6"),
        ({"codebook_size": 3}, "give the name of a quantizer"),
    ):
        with pytest.raises(UserError, match=said):
            REGISTRY.part("quantizer", {**part, "inner": inner})
    options = HierarchicalQuantizer.Options(dim=6, levels=3)
    with pytest.raises(ValueError, match="0 quantizers for 3 levels: give one for each"):
        HierarchicalQuantizer(options, 2, [])
    with pytest.raises(UserError, match="'none' has no codes; take one that has, such as vector"):
        make(HierarchicalQuantizer, inner={"name": "none"})
    with pytest.raises(UserError, match="3 levels need a grid of at least 4 codes along an axis, and it is 2 x 2"):
        make(HierarchicalQuantizer, levels=3)(torch.zeros(1, 6, 2, 2))
    with pytest.raises(ValidationError, match="greater than 0"):
        GumbelQuantizer.Options(temperature=0)
