"""What encode and reconstruct are given: samples named once, their splits, batches of neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vqmm
from vqmm.data.source import Source
from vqmm.tokenizer.inputs import BY_KEY, OWN_SPLIT, Inputs, at_once, batches, read, splits_of
from vqmm.tokens.shards import HELD_OUT, TRAIN
from vqmm.utils.errors import UserError


@pytest.fixture
def image():
    return vqmm.Registry.discover().modality("image")()


def archive(path, **parts):
    np.savez(path, **{name: np.zeros((count, 4, 4), dtype=np.uint8) for name, count in parts.items()})
    return path


def test_neighbours_of_one_shape_go_together_and_large_ones_alone():
    shapes = [(1, 4)] * 40 + [(1, 2)] + [(1, 4)]
    found = [len(values) for _, values in batches(((i, torch.zeros(s)) for i, s in enumerate(shapes)))]
    assert found == [32, 8, 1, 1]
    assert (at_once(1), at_once(2**22), at_once(2**30), at_once(0)) == (32, 1, 1, 32)


def test_a_sources_own_split_is_kept(image, tmp_path):
    found = Inputs.of(image, archive(tmp_path / "own.npz", x_train=5, x_test=2), "encode")
    assert sorted(found.splits) == [HELD_OUT] * 2 + [TRAIN] * 5 and found.rule == OWN_SPLIT
    assert [s.split == "test" for s in found.samples] == [split == HELD_OUT for split in found.splits]


def test_without_one_the_samples_that_training_holds_out_are_held_out(image, tmp_path):
    source = Source(image, archive(tmp_path / "plain.npz", x=60))
    found = Inputs.of(image, tmp_path / "plain.npz", "encode")
    trained = {sample.key for sample in source.training()}
    assert 0 < len(trained) < 60 and found.rule == BY_KEY
    assert {s.key for s, split in zip(found.samples, found.splits, strict=True) if split == TRAIN} == trained


def test_a_single_sample_is_for_training(image, tmp_path):
    assert splits_of(Source(image, archive(tmp_path / "one.npz", x=1))) == [TRAIN]


def test_two_sources_keep_their_own_rules(image, tmp_path):
    (tmp_path / "a").mkdir()
    picture = torch.zeros(3, 4, 4)
    for i in range(30):
        image.write(picture, tmp_path / "a" / f"{i}")
    found = Inputs.of(image, [archive(tmp_path / "own.npz", x_train=2, x_test=1), tmp_path / "a"], "encode")
    assert len(found.samples) == 33 and found.rule == f"{OWN_SPLIT}; {BY_KEY}"


def test_inputs_that_do_not_fit_are_mistakes(image, tmp_path):
    file = archive(tmp_path / "plain.npz", x=3)
    with pytest.raises(UserError, match="nothing to decode: give"):
        Inputs.of(image, [], "decode")
    with pytest.raises(UserError, match="3 names stand for two samples"):
        Inputs.of(image, [file, str(file)], "encode")


def test_the_fingerprint_tells_names_labels_splits_and_order(image, tmp_path):
    found = Inputs.of(image, archive(tmp_path / "plain.npz", x=3), "encode")
    first, *rest = found.samples
    others = [
        replace(found, samples=[*rest, first]),
        replace(found, samples=[replace(first, label="a"), *rest]),
        replace(found, samples=[replace(first, key="a"), *rest]),
        replace(found, splits=[HELD_OUT, *found.splits[1:]]),
        replace(found, samples=rest, splits=found.splits[1:]),
    ]
    assert len({each.fingerprint() for each in [found, *others]}) == 6
    assert found.fingerprint() == Inputs.of(image, tmp_path / "plain.npz", "encode").fingerprint()


def test_what_cannot_be_read_is_named_or_raised():
    def fail():
        raise vqmm.Unreadable("b: cut")

    samples = [vqmm.Sample("a", lambda: torch.zeros(1, 2)), vqmm.Sample("b", fail)]
    named = []
    assert [sample.key for sample, _ in read(samples, named, strict=False)] == ["a"] and named == ["b: cut"]
    with pytest.raises(vqmm.Unreadable, match="b: cut"):
        list(read(samples, named, strict=True))


def sizes_of(shapes, padded):
    items = ((i, torch.zeros(1, *shape)) for i, shape in enumerate(shapes))
    return [[tuple(value.shape[1:]) for value in values] for _, values in batches(items, padded)]


def test_lines_of_other_lengths_go_with_them_up_to_twice_the_shortest():
    lines = [(4,), (8,), (5,), (9,), (18,), (19,), (0,), (0,), (1,)]
    assert sizes_of(lines, True) == [[(4,), (8,), (5,)], [(9,), (18,)], [(19,)], [(0,), (0,)], [(1,)]]
    assert [len(some) for some in sizes_of([(2**20,), (2**21,), (2**21,), (2**20,)], True)] == [2, 2]
    assert sizes_of([], True) == []


def test_views_need_something_that_alters(image, tmp_path):
    found = Inputs.of(image, archive(tmp_path / "own.npz", x_train=3, x_test=2), "encode")
    still = type(image)(image.Options(flip=False))
    assert found.with_augmented(still, 0) is found
    with pytest.raises(UserError, match=r"augment 2: nothing alters image samples .*: leave it out, or train with one"):
        found.with_augmented(still, 2)
    with pytest.raises(UserError, match="augment -1: take 0"):
        found.with_augmented(image, -1)
    moving = type(image)(image.Options(flip=False, shift=1))
    assert len(found.with_augmented(moving, 2).samples) == 3 * 3 + 2


def test_a_view_that_has_the_name_of_a_sample_is_a_mistake(image, tmp_path):
    for name in ("1.png", "1~1.png"):
        image.write(torch.zeros(3, 4, 4), tmp_path / name[:-4])
    found = Inputs.of(image, [tmp_path / "1.png", tmp_path / "1~1.png"], "encode")
    with pytest.raises(UserError, match=r"1 names stand for two samples, such as .1~1\.png."):
        found.with_augmented(image, 1)
