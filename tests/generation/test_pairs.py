"""Examples of a prior: which items come together, in which order, what is dropped; and all of it by (seed, epoch,
number) alone."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.generation.prior_rows import rows
from tests.prior_fakes import made
from vqmm.contracts.grammar import Grammar
from vqmm.contracts.vocabulary import NULL, PAD, Vocabulary
from vqmm.generation.pairs import Aligned, ByClass, Examples, Item, Windows, _chances, label_rows

SOUND, PICTURE, TEXT = [(3,), (5,), (2,), (5,)], [(2, 3)] * 4, [(1,), (2,), (4,), (2,)]


def examples(names=("sound", "picture"), condition_dropout=0.0, token_dropout=0.0, seed=0, pairing=None, **more):
    grids = {"sound": SOUND, "picture": PICTURE, "text": TEXT}
    every = {name: rows(grids[name], stages=2 if name == "sound" else 1) for name in names if name != "label"}
    vocabulary = Vocabulary()
    for name in names:
        if name == "label":
            vocabulary = vocabulary.add("label", [[3]], grids=[[1]])
            every["label"] = label_rows(["a", "b", "c"])
        elif name == "picture":
            vocabulary = vocabulary.add(name, [[9]], grids=[[2, 3]])
        else:
            vocabulary = vocabulary.add(name, [[9, 9] if name == "sound" else [9]], longest=5)
    pairing = pairing or Aligned({name: [0, 1, 2, 1] if name == "label" else range(4) for name in names})
    return Examples(vocabulary, every, pairing, condition_dropout, token_dropout, seed, **more)


def split(found, line):
    """The maps of a sequence, by modality, in their order."""
    return Grammar(found.vocabulary).split(line)


def test_a_sequence_holds_the_codes_of_its_items_in_any_order():
    found = examples()
    orders = set()
    ids, given, _ = found.training([(epoch, number) for epoch in range(8) for number in range(4)])
    for line, number in zip(ids, [0, 1, 2, 3] * 8, strict=True):
        maps = split(found, line)
        orders.add(tuple(maps))
        for name, own in maps.items():
            assert np.array_equal(own[0].numpy(), found.rows[name][number].maps[0])
    assert orders == {("sound", "picture"), ("picture", "sound")} and not given.any()
    assert (ids[:, -1] == PAD).any() and not (ids[:, -1] == PAD).all()  # as wide as the longest needs


def test_one_modality_alone_is_one_block():
    found = examples(("sound",), condition_dropout=0.5)
    ids, given, _ = found.training([(0, 1), (0, 0)])
    assert [list(split(found, line)) for line in ids] == [["sound"], ["sound"]] and not given.any()
    assert not found.conditional and found.wanted == ["sound"]
    assert torch.equal(found.evaluated("sound", [1, 0]).ids, ids)


def test_three_modalities_come_in_pairs_and_triples():
    found = examples(("sound", "picture", "text"))
    ids, *_ = found.training([(epoch, 0) for epoch in range(300)])
    orders = Counter(tuple(split(found, line)) for line in ids)
    assert len(orders) == 6 + 6
    pairs = sum(count for order, count in orders.items() if len(order) == 2)
    assert 110 < pairs < 190  # half of them


def test_a_label_stands_first_and_is_never_what_is_asked_for():
    found = examples(("label", "sound", "picture"))
    ids, given, _ = found.training([(epoch, 3) for epoch in range(200)])
    orders = [tuple(split(found, line)) for line in ids]
    assert {len(order) for order in orders} == {2, 3} and all(order[-1] != "label" for order in orders)
    assert all("label" not in order[1:] for order in orders) and ("sound", "picture") in orders
    assert given.tolist() == [3 if order[0] == "label" else 0 for order in orders]  # it is a condition, not counted
    label = next(split(found, line)["label"] for line, order in zip(ids, orders, strict=True) if order[0] == "label")
    assert label[0].tolist() == [[1]] and found.wanted == ["sound", "picture"]


def test_a_dropped_condition_is_null_and_only_what_follows_counts():
    found = examples(("label", "sound", "picture"), condition_dropout=0.25)
    whole = examples(("label", "sound", "picture"))
    indices = [(epoch, number) for epoch in range(100) for number in range(4)]
    (ids, given, _), (kept, *_) = found.training(indices), whole.training(indices)
    dropped = (ids == NULL).any(dim=1)
    assert 60 < int(dropped.sum()) < 140
    for line, other, n, gone in zip(ids, kept, given.tolist(), dropped.tolist(), strict=True):
        assert (line[:n] == NULL).all() if gone else torch.equal(line, other)
        if gone:
            last = list(split(found, other))[-1]
            assert torch.equal(line[n:], other[n:]) and list(split(found, line[n:])) == [last]
    scored = made(found.vocabulary).loss(ids[dropped][:4], given[dropped][:4])
    names = [list(split(found, line))[-1] for line in kept[dropped][:4]]
    assert [bool(count) for count in scored.counts] == [own.name in names for own in found.vocabulary.ranges]


def test_codes_are_hidden_and_nothing_else():
    found = examples(("label", "sound", "picture"), token_dropout=0.3)
    indices = [(epoch, number) for epoch in range(100) for number in range(4)]
    ids, _, hidden = found.training(indices)
    assert not found.evaluated("sound", [0, 1]).hidden.any() and not examples().training(indices).hidden.any()
    edges = torch.tensor([PAD, *(edge for own in found.vocabulary.ranges for edge in (own.begin, own.end))])
    label = found.vocabulary["label"]
    assert not hidden[torch.isin(ids, edges) | ((label.begin <= ids) & (ids < label.stop))].any()
    codes = (ids >= label.stop) & ~torch.isin(ids, edges)
    shares = (hidden & codes).sum(dim=1) / codes.sum(dim=1)
    assert 0.25 < float(shares.mean()) < 0.35 and float(shares.min()) == 0 and float(shares.max()) > 0.5
    again = found.training(indices[7:9])
    assert torch.equal(again.hidden, hidden[7:9, : again.hidden.shape[1]])  # of the example, not of the batch


def test_a_condition_stays_whole_where_codes_are_hidden_from_the_last_block_alone():
    found = examples(("sound", "picture"), token_dropout=0.5, token_dropout_on="last")
    indices = [(epoch, number) for epoch in range(40) for number in range(4)]
    ids, _, hidden = found.training(indices)
    for line, gone in zip(ids, hidden, strict=True):
        names = list(split(found, line))
        first = found.vocabulary[names[0]]
        condition = (line >= first.begin) & (line < first.stop)
        assert len(names) == 2 and not (gone & condition).any()
    assert 0.1 < float(hidden.float().mean()) < 0.5


def test_the_loss_is_on_the_last_block_alone_if_so_wanted():
    names = ("label", "sound", "picture")
    indices = [(epoch, number) for epoch in range(40) for number in range(4)]
    last, every = (examples(names, loss_on=which).training(indices) for which in ("last", "all"))
    assert torch.equal(last.ids, every.ids), "nothing else changes"
    ranges = [examples(names).vocabulary[name] for name in names]
    begins = torch.tensor([own.begin for own in ranges])
    for line, given in zip(last.ids, last.given.tolist(), strict=True):
        assert torch.isin(line, begins).nonzero()[-1].item() == given, "so many come before the last block"
    assert set(every.given.tolist()) == {0, ranges[0].block}, "all but the label"


def test_pairs_alone_where_one_other_block_is_given_at_most():
    three = ("sound", "picture", "text")
    found = examples(three, given=1)
    lengths = {len(split(found, line)) for line in found.training([(e, n) for e in range(50) for n in range(4)]).ids}
    assert lengths == {2}
    assert {len(split(found, line)) for line in found.evaluated("sound", range(4)).ids} == {2}
    every = {len(split(examples(three), line)) for line in examples(three).training([(e, 0) for e in range(50)]).ids}
    assert every == {2, 3}


def test_each_example_hides_a_share_of_its_own_up_to_twice_the_mean():
    shares = [sum(chance < 0 for chance in _chances(0.3, 2000, 0, epoch, 0)) / 2000 for epoch in range(60)]
    assert min(shares) < 0.05 and 0.55 < max(shares) < 0.65 and 0.25 < sum(shares) / 60 < 0.35


def test_hidden_codes_are_not_shown_and_count_all_the_same():
    found = examples(("sound", "picture"), token_dropout=0.5)
    prior = made(found.vocabulary)
    ids, given, hidden = found.training([(epoch, 0) for epoch in range(8)])
    shown, features = [], prior.features
    prior.features = lambda ids, places: shown.append(ids) or features(ids, places)
    whole, partly = prior.loss(ids, given), prior.loss(ids, given, hidden)
    assert torch.equal(whole.counts, partly.counts) and whole.loss != partly.loss
    assert torch.equal(shown[1] == NULL, hidden[:, :-1]) and not (shown[0] == NULL).any()


def test_an_example_is_a_function_of_seed_epoch_and_number():
    def line(seed=0, epoch=0, number=0, among=()):
        found = examples(("sound", "picture", "text"), condition_dropout=0.3, seed=seed, pairing=by_class(seed))
        ids, *_ = found.training([(epoch, number), *among])
        return ids[0][ids[0] != PAD].tolist()

    first = [line(number=number) for number in range(6)]
    assert first == [line(number=number, among=[(3, 1), (0, 2)]) for number in range(6)]
    assert first != [line(number=number, epoch=1) for number in range(6)]
    assert first != [line(number=number, seed=1) for number in range(6)]


def by_class(seed=0, numbers=None):
    members = {
        "sound": {"a": [0, 1], "b": [2, 3]},
        "picture": {"a": [3], "b": [0, 1, 2]},
        "text": {"a": [2, 0, 1, 3, 2, 2, 2], "b": [1, 2, 3]},
    }
    return ByClass(members, numbers or {}, seed)


def test_items_of_one_class_come_together_afresh_in_each_epoch():
    pairing = by_class(numbers={"a": 1, "b": 2})
    assert len(pairing) == 10  # as many as the largest modality has
    met = Counter()
    for epoch in range(40):
        for number in range(10):
            items = pairing.items(epoch, number)
            label = "ab"[items["label"].row - 1]
            assert all(items[name].row in pairing.members[name][label] for name in pairing.members)
            met[label, items["sound"].row, items["picture"].row] += 1
    assert {label for label, *_ in met} == {"a", "b"} and sum(met.values()) == 400
    assert sum(count for (label, *_), count in met.items() if label == "a") == 200  # classes come equally often
    assert len(met) == 2 * 1 + 2 * 3  # every pair that there can be


def test_judging_looks_at_the_same_examples_each_time_whatever_the_seed():
    first, other = (examples(pairing=by_class(seed), seed=seed) for seed in (0, 7))
    for want in ("sound", "picture"):
        assert torch.equal(first.evaluated(want, range(10)).ids, other.evaluated(want, range(10)).ids)


def test_an_even_choice_of_examples_has_all_classes():
    classes = {str(i): [i] for i in range(10)}
    pairing = ByClass({"sound": {**classes, "9": list(range(9, 100))}}, {name: int(name) for name in classes}, 0)
    chosen = [pairing.items(None, i * len(pairing) // 10)["label"].row for i in range(10)]
    assert len(pairing) == 100 and chosen == list(range(10))


@pytest.mark.parametrize("want", ["sound", "picture", "text"])
def test_what_is_judged_comes_last_with_its_condition_and_without(want):
    found = examples(("label", "sound", "picture", "text"))
    (ids, given, _), (bare, same, _) = (found.evaluated(want, range(4), conditioned) for conditioned in (True, False))
    assert torch.equal(given, same) and (given > 0).all()
    for line, other, n in zip(ids, bare, given.tolist(), strict=True):
        assert list(split(found, line))[-1] == want and (other[:n] == NULL).all()
        assert torch.equal(line[n:], other[n:]) and list(split(found, other)) == [want]
    counts = made(found.vocabulary).loss(ids, given).counts
    assert [own.name for own, count in zip(found.vocabulary.ranges, counts, strict=True) if count] == [want]


def test_windows_cover_a_long_line_in_judging_and_begin_anywhere_in_training():
    lengths = [7, 3, 12]
    pairing = Windows("sound", {"sound": [4, 5, 6]}, lengths, 5, seed=0)
    assert [pairing.items(None, number)["sound"] for number in range(len(pairing))] == [
        Item(4, 0),
        Item(4, 2),  # as far back as it has to, to be whole
        Item(5, 0),
        Item(6, 0),
        Item(6, 5),
        Item(6, 7),
    ]
    starts = {pairing.items(epoch, 3)["sound"].start for epoch in range(100)}
    assert starts == set(range(8)) and {pairing.items(epoch, 2)["sound"].start for epoch in range(9)} == {0}


def test_windows_are_cut_out_of_the_codes():
    line = rows([(7,)], stages=2)
    found = Examples(
        Vocabulary().add("sound", [[9, 9]], longest=5), {"sound": line}, Windows("sound", {"sound": [0]}, [7], 5, 0)
    )
    ids = found.evaluated("sound", [0, 1]).ids
    maps = [split(found, each)["sound"][0].numpy() for each in ids]
    assert np.array_equal(maps[0], line[0].maps[0][:, :5]) and np.array_equal(maps[1], line[0].maps[0][:, 2:])


def test_a_longer_line_is_cut_at_its_end_and_a_picture_is_not():
    vocabulary = Vocabulary().add("sound", [[9]], longest=4).add("picture", [[9]], grids=[[2, 3]])
    found = Examples(vocabulary, {"sound": rows([(6,)]), "picture": rows([(2, 3)])}, Aligned({}))
    assert [len(found.blocks(own, [Item(0)])[0]) for own in vocabulary.ranges] == [4 + 2, 6 + 2]
