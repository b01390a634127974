"""Batches in an order, and with crops, that depend on (seed, step, key) alone."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from vqmm.contracts.batch import Batch
from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.degrade import Degradation
from vqmm.utils.errors import UserError
from vqmm.utils.seeds import seed_of

KEPT = 3072  # bytes that a kept tensor takes beside its numbers (measured: more than a small picture itself)
Loaded = tuple[Batch | None, list[str]]  # a batch (None: nothing in it could be read), and what could not be read


class View(NamedTuple):
    """One sample as it is drawn; `value` is None where it cannot be read, and `key` then says why."""

    key: str
    value: Tensor | None
    label: int | None
    epoch: int | None


class Views(Dataset):
    """Samples as the networks see them. An index is (epoch, number); epoch None asks for the view of evaluation.

    What is random about a view (its crop, what `degrade` does to it) depends on seed, epoch and key alone; in
    evaluation, where only `degrade` is random, on the key alone.
    """

    def __init__(
        self,
        modality: Modality,
        samples: Sequence[Sample],
        labels: dict[str, int],
        seed: int = 0,
        cache_mb: int = 0,
        whole: bool = False,
        degrade: Degradation | None = None,
    ):
        self.modality, self.samples, self.labels = modality, samples, labels
        self.seed, self.whole, self.degrade = seed, whole, degrade
        self._cache: dict[int, Tensor] = {}
        self._room = cache_mb * 2**20

    def __getitem__(self, index: tuple[int | None, int]) -> View:
        epoch, number = index
        sample = self.samples[number]
        try:
            value = self._read(number)
        except Unreadable as error:
            return View(str(error), None, None, epoch)
        if not self.whole:
            generator = None if epoch is None else key_generator(self.seed, epoch, sample.key)
            value = self.modality.crop(value, generator)
        return View(sample.key, value, None if sample.label is None else self.labels.get(sample.label), epoch)

    def _read(self, number: int) -> Tensor:
        """Keeps what it reads while there is room: what does not fit is read again each time, so memory is bounded."""
        if number in self._cache:
            return self._cache[number]
        value = self.samples[number].read()
        size = value.untyped_storage().nbytes()
        owned = size == value.nbytes  # a view of a larger array costs nothing to make again
        if owned and size + KEPT <= self._room:
            self._room -= size + KEPT
            self._cache[number] = value
        return value

    def share_cache(self, workers: int) -> None:
        """Leave room for the caches of so many copies."""
        self._room //= workers

    def values(self) -> Iterator[Tensor]:
        """Every sample that can be read, uncropped."""
        for number in range(len(self.samples)):
            try:
                yield self._read(number)
            except Unreadable:
                continue

    def check(self) -> None:
        """A `UserError` where no sample at all can be read."""
        errors = []
        for number in range(len(self.samples)):
            try:
                self._read(number)
                return
            except Unreadable as error:
                errors.append(str(error))
        raise UserError(f"none of the {len(self.samples)} samples can be read; the first: {errors[0]}")

    def extent(self) -> list[int]:
        """The extent of a batch of training views."""
        first = next(self.values())
        view = self.modality.crop(first, key_generator(self.seed, 0, ""))
        return list(self._batch([View("", view, None, 0)]).x.shape[2:])

    def collate(self, views: Sequence[View]) -> Loaded:
        """A batch of the views that were read, or None without any; and why each of the others was not."""
        good = [view for view in views if view.value is not None]
        return self._batch(good) if good else None, [view.key for view in views if view.value is None]

    def _batch(self, views: Sequence[View]) -> Batch:
        keys, values, labels, epochs = zip(*views, strict=True)
        numbers = None if any(label is None for label in labels) else labels
        batch = self.modality.collate(values, keys, numbers)
        if self.degrade is None:
            return batch
        generators = [_spoiler(self.seed, epoch, key) for epoch, key in zip(epochs, keys, strict=True)]
        return self.degrade.applied(batch, generators)


class EndlessOrder(Sampler):
    """Batches of (epoch, number) without end: every epoch is a permutation, and no batch is short.

    `stride`: give only every n-th batch, from `first_batch` on.
    """

    def __init__(self, count: int, batch_size: int, seed: int, first_batch: int = 0, stride: int = 1):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.first_batch, self.stride = first_batch, stride

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = self.first_batch
        while True:
            places = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield [self.at(place) for place in places]
            batch += self.stride

    def at(self, place: int) -> tuple[int, int]:
        """The (epoch, number) at a place in the endless order; batch b begins at place b * batch_size."""
        epoch, within = divmod(place, self.count)
        return epoch, _permutation(self.count, self.seed, epoch)[within]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed_of(f"order {seed} {epoch}"))
    return torch.randperm(count, generator=generator).tolist()


def key_generator(seed: int, epoch: int, key: str) -> torch.Generator:
    """The randomness of one view: the same whoever reads it, in whatever order."""
    return torch.Generator().manual_seed(seed_of(f"view {seed} {epoch} {key}"))


def _spoiler(seed: int, epoch: int | None, key: str) -> torch.Generator:
    """The randomness of a degradation: not that of the crop, and in evaluation the same for every run."""
    seed_key = f"judged {key}" if epoch is None else f"spoilt {seed} {epoch} {key}"
    return torch.Generator().manual_seed(seed_of(seed_key))


def training_batches(
    views: Views, batch_size: int, seed: int, first_batch: int = 0, *, stride: int = 1, workers: int = 0
) -> Iterator[Loaded]:
    """Training batches without end, from a given one on; `stride`: every n-th batch."""
    order = EndlessOrder(len(views.samples), batch_size, seed, first_batch, stride)
    return iter(_loader(views, order, workers))


def evaluation_batches(views: Views, batch_size: int, limit: int | None = None) -> Iterator[Loaded]:
    """Every sample once, in order; `limit`: that many, spread evenly over all."""
    count = len(views.samples)
    numbers = list(range(count)) if limit is None or limit >= count else [i * count // limit for i in range(limit)]
    order = [[(None, n) for n in numbers[i : i + batch_size]] for i in range(0, len(numbers), batch_size)]
    return iter(_loader(views, order, 0))


def _loader(views: Views, order: Sampler | list, workers: int) -> DataLoader:
    return DataLoader(
        views,
        batch_sampler=order,
        collate_fn=views.collate,
        num_workers=workers,
        worker_init_fn=_start_worker if workers else None,
        generator=torch.Generator(),  # without one every loader draws from torch's own, and so changes what follows
    )


def _start_worker(worker: int) -> None:
    """One thread, and a share of the cache: each worker keeps one of its own."""
    torch.set_num_threads(1)
    info: Any = get_worker_info()
    info.dataset.share_cache(info.num_workers)
