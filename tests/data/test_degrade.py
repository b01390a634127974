"""Degradations: what they do to a sample, what they leave alone, and what their randomness depends on."""

from functools import partial
from itertools import islice

import pytest
import torch

import vqmm
from tests.fakes import Moving, Notes
from vqmm.contracts.sample import Unreadable
from vqmm.data.degrade import KINDS, Downsample, Mask, Noise, read_degradation
from vqmm.data.loader import Views, evaluation_batches, training_batches
from vqmm.plugins.image import Image
from vqmm.utils.errors import UserError

EXTENTS = {1: (50,), 2: (9, 14), 3: (5, 8, 6)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# What each does to a sample


@pytest.mark.parametrize("rank", EXTENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_keeps_the_shape_and_changes_a_copy(kind, rank):
    sample = torch.rand(3, *EXTENTS[rank]) * 2 - 1
    before = sample.clone()
    spoilt = KINDS[kind]().spoil(sample, generator())
    assert spoilt.shape == sample.shape and spoilt.dtype == sample.dtype
    assert torch.equal(sample, before) and not torch.equal(spoilt, sample) and spoilt.isfinite().all()
    again, other = KINDS[kind]().spoil(sample, generator()), KINDS[kind]().spoil(sample, generator(1))
    assert torch.equal(again, spoilt) and torch.equal(other, spoilt) == (kind == "downsample")


def test_noise_has_the_sigma_it_says():
    spoilt = Noise(sigma=0.3).spoil(torch.full((3, 100, 100), 0.9), generator())
    assert spoilt.std().item() == pytest.approx(0.3, rel=0.02) and spoilt.mean().item() == pytest.approx(0.9, abs=0.01)
    assert spoilt.max() > 1, "not clipped"


def test_downsampling_is_a_mean_that_is_repeated():
    sample = torch.tensor([[[1.0, 3, 5], [5, 7, 7], [0, 4, 9]]])
    expected = torch.tensor([[[4.0, 4, 6], [4, 4, 6], [2, 2, 9]]])  # the last cells are smaller
    assert torch.equal(Downsample().spoil(sample, generator()), expected)
    line = torch.arange(6.0)[None]
    assert Downsample(factor=3).spoil(line, generator()).tolist() == [[1, 1, 1, 4, 4, 4]]
    assert Downsample(factor=100).spoil(line, generator()).tolist() == [[2.5] * 6]


def test_each_axis_may_have_its_own_factor():
    film = torch.rand(1, 4, 6, 6)
    spoilt = Downsample(factor=(1, 2, 3)).spoil(film, generator())
    torch.testing.assert_close(spoilt[:, :, :2, :3], film[:, :, :2, :3].mean((2, 3), keepdim=True).expand(1, 4, 2, 3))
    with pytest.raises(UserError, match=r"train\.degrade\.factor: \[2, 2\] is for 2 axes, and samples have 3"):
        Downsample(factor=(2, 2)).spoil(film, generator())


@pytest.mark.parametrize(("boxes", "side", "hidden"), [(1, 0.5, 16), (1, 0.01, 1), (1, 1.0, 64), (3, 0.25, None)])
def test_a_mask_hides_boxes_of_all_channels(boxes, side, hidden):
    sample = torch.ones(3, 8, 8)
    for seed in range(20):
        zeros = Mask(boxes=boxes, side=side).spoil(sample, generator(seed)) == 0
        assert torch.equal(zeros[0], zeros[1]) and torch.equal(zeros[0], zeros[2])
        assert zeros[0].sum() == hidden if hidden else 4 <= zeros[0].sum() <= 12


def test_boxes_reach_every_place():
    sample, seen = torch.ones(1, 6), torch.zeros(6)
    for seed in range(60):
        seen += Mask(boxes=1, side=0.3).spoil(sample, generator(seed))[0] == 0
    assert (seen > 0).all()


# In a batch


def real(modality=None, **options):
    return modality or Image(Image.Options(width=16, size=8, **options))


def floats(number, extent=(12, 14)):
    if number == 3:
        raise Unreadable("3: broken")
    return torch.rand(3, *extent, generator=generator(number)) * 2 - 1


def views(degrade, count=10, seed=0, extents=None, **options):
    samples = [
        vqmm.Sample(str(i), partial(floats, i, (extents or {}).get(i, (12, 14))), "ab"[i % 2]) for i in range(count)
    ]
    return Views(real(), samples, {"a": 0, "b": 1}, seed, degrade=degrade, **options)


def by_key(batches):
    return {
        key: (x, goal)
        for batch, _ in batches
        for key, x, goal in zip(batch.key, batch.x, batch.target_or_x, strict=True)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_what_the_batch_would_be_without(kind):
    plain, spoilt = (next(training_batches(views(d), 6, seed=0))[0] for d in (None, KINDS[kind]()))
    assert (
        plain.target is None
        and torch.equal(spoilt.target, plain.x)
        and torch.equal(spoilt.target_or_x, plain.target_or_x)
    )
    assert spoilt.key == plain.key and torch.equal(spoilt.label, plain.label)
    assert all(not torch.equal(a, b) for a, b in zip(spoilt.x, plain.x, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_left_alone_and_neighbours_do_not_matter(kind):
    small = {1: (5, 7), 4: (3, 6)}
    whole = views(KINDS[kind](), 6, extents=small, whole=True)
    (batch, _), *_ = evaluation_batches(whole, 6)
    assert (batch.x[:, 0][~batch.mask] == 0).all() and (batch.target[:, 0][~batch.mask] == 0).all()
    alone = {batch.key[0]: batch.x[0] for batch, _ in evaluation_batches(whole, 1) if batch is not None}
    for key, x, size in zip(batch.key, batch.x, batch.size.tolist(), strict=True):
        box = (slice(None), *(slice(0, n) for n in size))
        assert torch.equal(x[box], alone[key][box])


def test_what_happens_depends_on_seed_epoch_and_key_in_training():
    def drawn(seed, workers=0, first=0):
        batches = islice(training_batches(views(Noise(), seed=seed), 5, seed, first, workers=workers), 4)
        return [batch.x for batch, _ in batches]

    one = drawn(1)
    assert all(map(torch.equal, one, drawn(1, workers=2))) and torch.equal(one[2], drawn(1, first=2)[0])
    assert not torch.equal(one[0], drawn(2)[0])
    some = views(Noise(), seed=1)
    first, second = (some.collate([some[epoch, 0]])[0] for epoch in (0, 1))
    noises = [batch.x - batch.target for batch in (first, second)]
    assert not torch.allclose(*noises, atol=1e-3)


def test_what_happens_depends_on_the_key_alone_in_evaluation():
    one, other = (by_key(evaluation_batches(views(Mask(), seed=seed), size)) for seed, size in ((0, 4), (7, 3)))
    assert one.keys() == other.keys() and len(one) == 9
    assert all(torch.equal(one[key][0], other[key][0]) for key in one)
    holes = {tuple((x == 0).all(0).flatten().tolist()) for x, _ in one.values()}
    assert len(holes) == 9, "and each sample has its own"


def test_a_film_and_a_line_are_degraded_too():
    film = Moving().collate([torch.rand(1, 4, 8, 8)], ["a"])
    for kind in KINDS.values():
        spoilt = kind().applied(film, [generator()])
        assert (
            spoilt.x.shape == film.x.shape
            and torch.equal(spoilt.target_or_x, film.x)
            and not torch.equal(spoilt.x, film.x)
        )
    nothing = vqmm.Batch(torch.zeros(1, 1, 0), ("a",))
    assert Noise().applied(nothing, [generator()]).x.shape == (1, 1, 0)


def test_ids_are_refused():
    notes = Notes().collate([torch.tensor([[1, 2, 3]])], ["a"])
    for kind in KINDS.values():
        with pytest.raises(UserError, match=r"whole numbers .* cannot be degraded: take null"):
            kind().applied(notes, [generator()])


# From a recipe


def test_a_name_or_a_mapping_names_one():
    assert read_degradation(None) is None and read_degradation("mask") == Mask()
    assert read_degradation({"name": "noise", "sigma": 0.5}) == Noise(sigma=0.5)
    assert read_degradation({"name": "downsample", "factor": [1, 2]}) == Downsample(factor=(1, 2))
    for kind in KINDS.values():
        assert read_degradation(kind().model_dump(mode="json")) == kind() and kind().said.startswith("given ")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("nose", "Did you mean 'noise'"),
        (3, "give a name"),
        ({"sigma": 1}, "give a name"),
        ({"name": ["noise"]}, "give a name"),
        ({"name": "noise", "sigma": 0}, "noise.sigma: 0 does not fit: input should be greater than 0"),
        ({"name": "noise", "sigma": True}, "are for switches"),
        ({"name": "noise", "boxes": 2}, "noise.boxes: there is no such option"),
        ({"name": "downsample", "factor": 1}, "at least 2"),
        ({"name": "downsample", "factor": [1, 1]}, "not all of them 1"),
        ({"name": "downsample", "factor": []}, "at least 2"),
        ({"name": "mask", "side": 1.5}, "mask.side: 1.5"),
        ({"name": "mask", "boxes": 0}, "mask.boxes: 0"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(told, said):
    with pytest.raises(UserError) as error:
        read_degradation(told)
    assert said in str(error.value) and "\n" not in str(error.value)
