"""Batches: their order, their views, what is kept in memory, and what is left out."""

from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vqmm
from vqmm.contracts.sample import Unreadable
from vqmm.data.loader import EndlessOrder, Views, evaluation_batches, key_generator, training_batches
from vqmm.plugins.image import Image
from vqmm.utils.errors import UserError

MODALITY = Image(Image.Options(width=16, size=8))
READS: list[str] = []


def read(number, kind):
    READS.append(str(number))
    if kind == "broken":
        raise Unreadable(f"{number}: broken")
    return torch.full((3, 12, 14), number, dtype=torch.uint8) + torch.arange(14, dtype=torch.uint8)


def views(count=10, broken=(), seed=0, cache_mb=0, **more):
    samples = [
        vqmm.Sample(str(i), partial(read, i, "broken" if i in broken else "good"), "ab"[i % 2]) for i in range(count)
    ]
    return Views(MODALITY, samples, {"a": 0, "b": 1}, seed, cache_mb, **more)


@pytest.fixture(autouse=True)
def _fresh():
    READS.clear()


def same(one, other):
    (first, bad), (second, worse) = one, other
    return (
        bad == worse
        and first.key == second.key
        and torch.equal(first.x, second.x)
        and torch.equal(first.label, second.label)
    )


# The order


ORDERS = st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**40))  # count, batch size, seed


@settings(max_examples=60, deadline=None)
@given(ORDERS)
def test_every_epoch_is_a_permutation(order):
    count, batch_size, seed = order
    batches = list(islice(EndlessOrder(count, batch_size, seed), 3 * count))
    assert {len(batch) for batch in batches} == {batch_size}
    places = [place for batch in batches for place in batch]
    for epoch in range(3):
        part = places[epoch * count : (epoch + 1) * count]
        assert {e for e, _ in part} == {epoch} and sorted(number for _, number in part) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(ORDERS, st.integers(0, 50))
def test_the_order_can_be_taken_up_at_any_batch(order, first):
    whole = list(islice(EndlessOrder(*order), first + 3))
    assert list(islice(EndlessOrder(*order, first_batch=first), 3)) == whole[first:]


def test_processes_that_stride_share_one_order():
    whole = list(islice(EndlessOrder(10, 4, 0), 9))
    assert [list(islice(EndlessOrder(10, 4, 0, first, stride=3), 3)) for first in range(3)] == [
        whole[i::3] for i in range(3)
    ]


def test_the_order_is_a_function_of_the_seed():
    def orders(seed):
        return [number for batch in islice(EndlessOrder(50, 10, seed), 10) for _, number in batch]

    assert orders(3) == orders(3) and orders(3) != orders(4)
    assert orders(3)[:50] != orders(3)[50:]  # every epoch has its own
    assert orders(0)[:10] == [2, 8, 38, 35, 5, 30, 20, 28, 34, 46]  # pinned: a resumed run goes on with the same one


# The views


def test_a_view_depends_on_seed_epoch_and_key_alone():
    few, many = views(3, seed=5), views(10, seed=5)
    assert torch.equal(few[0, 2][1], many[0, 2][1])
    assert torch.equal(few[0, 2][1], MODALITY.crop(read(2, "good"), key_generator(5, 0, "2")))
    torch.manual_seed(1)
    drawn = {
        name: [one[epoch, 2][1] for epoch in range(20)]
        for name, one in (("same", views(seed=5)), ("other", views(seed=6)))
    }
    torch.manual_seed(2)
    assert all(torch.equal(view, many[epoch, 2][1]) for epoch, view in enumerate(drawn["same"]))
    assert len({tuple(view.flatten().tolist()) for view in drawn["same"]}) > 5
    assert not all(map(torch.equal, drawn["same"], drawn["other"]))
    firsts = {key: torch.rand((), generator=key_generator(0, 0, key)).item() for key in ("1", "2", "péché")}
    assert len(set(firsts.values())) == 3


def test_evaluation_sees_the_centre_or_the_whole():
    assert torch.equal(views()[None, 4][1], read(4, "good")[:, 2:10, 3:11])
    assert torch.equal(views(whole=True)[None, 4][1], read(4, "good"))
    assert views().extent() == [8, 8]


def test_loading_leaves_the_random_numbers_of_torch_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    next(training_batches(views(), 4, seed=0))
    list(evaluation_batches(views(), 4))
    assert torch.equal(torch.rand(3), expected)


# Batches


def test_training_goes_on_where_it_stopped():
    whole = list(islice(training_batches(views(), 4, seed=7), 6))
    again = list(islice(training_batches(views(), 4, seed=7, first_batch=3), 3))
    assert all(map(same, again, whole[3:]))
    batch, _ = whole[0]
    assert batch.x.shape == (4, 3, 8, 8) and batch.label.tolist() == [int(key) % 2 for key in batch.key]


def test_workers_make_the_same_batches():
    alone = list(islice(training_batches(views(broken=[3]), 4, seed=1), 6))
    helped = training_batches(views(broken=[3]), 4, seed=1, workers=2)
    assert all(map(same, alone, islice(helped, 6)))


def test_evaluation_takes_every_sample_once_in_order():
    batches = [batch for batch, _ in evaluation_batches(views(), 4)]
    assert [batch.key for batch in batches] == [("0", "1", "2", "3"), ("4", "5", "6", "7"), ("8", "9")]
    some = [key for batch, _ in evaluation_batches(views(), 2, limit=4) for key in batch.key]
    assert some == ["0", "2", "5", "7"]
    assert sum(len(batch) for batch, _ in evaluation_batches(views(), 4, limit=99)) == 10


def test_what_cannot_be_read_is_told_and_left_out():
    batches = list(evaluation_batches(views(6, broken=[1, 4, 5]), 2))
    assert [(None if batch is None else batch.key, bad) for batch, bad in batches] == [
        (("0",), ["1: broken"]),
        (("2", "3"), []),
        (None, ["4: broken", "5: broken"]),
    ]
    damaged = views(6, broken=[0, 3])
    assert len(list(damaged.values())) == 4
    damaged.check()
    with pytest.raises(UserError, match="none of the 3 samples can be read; the first: 0: broken"):
        views(3, broken=range(3)).check()


def test_a_batch_with_an_unlabelled_sample_has_no_labels():
    some = Views(MODALITY, views(3).samples, {"a": 0})
    (batch, _), *_ = evaluation_batches(some, 3)
    assert batch.label is None and len(batch) == 3


# The cache


def big(number):
    READS.append(str(number))
    return torch.zeros(3, 512, 512, dtype=torch.uint8)  # three quarters of a MiB


@pytest.mark.parametrize(("cache_mb", "kept"), [(0, 0), (1, 1), (2, 2), (3, 3), (100, 6)])
def test_the_cache_keeps_what_fits(cache_mb, kept):
    one = Views(MODALITY, [vqmm.Sample(str(i), partial(big, i)) for i in range(6)], {}, cache_mb=cache_mb)
    for _ in range(3):
        for number in range(6):
            one[0, number]
    assert len(READS) == 6 + 2 * (6 - kept)
    assert sum(READS.count(str(i)) == 1 for i in range(6)) == kept


def test_small_samples_are_counted_with_what_keeping_them_costs():
    samples = [vqmm.Sample(str(i), lambda: torch.zeros(3, 16, 16, dtype=torch.uint8)) for i in range(400)]
    one = Views(MODALITY, samples, {}, cache_mb=1)
    assert len(list(one.values())) == 400 and len(one._cache) == 2**20 // (768 + 3072)


def test_views_of_a_larger_array_are_not_kept():
    array = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    one = Views(MODALITY, [vqmm.Sample(str(i), partial(array.__getitem__, i)) for i in range(6)], {}, cache_mb=10)
    for number in range(6):
        one[0, number]
    assert one._cache == {} and one._room == 10 * 2**20


def test_pictures_of_an_archive_are_not_kept_but_converted_ones_are(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 9, 9), np.uint8))
    for channels, kept in ((1, 0), (3, 4)):
        modality = Image(Image.Options(width=16, channels=channels))
        one = Views(modality, list(modality.samples(tmp_path / "a.npz")), {}, cache_mb=1)
        assert len(list(one.values())) == 4 and len(one._cache) == kept


def test_what_is_kept_is_never_changed_by_a_view():
    one = views(cache_mb=10)
    before = [one[None, n][1].clone() for n in range(10)]
    for batch, _ in islice(training_batches(one, 4, seed=0), 10):
        batch.x.fill_(7)
    assert all(torch.equal(one[None, n][1], view) for n, view in enumerate(before)) and len(READS) == 10


def test_workers_share_the_budget_of_the_cache():
    one = views(cache_mb=10)
    one.share_cache(4)
    assert one._room == 10 * 2**20 // 4
