"""Which id may follow which: the automaton against the rules written out one by one."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.vocabularies import sequences, vocabularies
from vqmm.contracts.grammar import Grammar
from vqmm.contracts.vocabulary import NULL, PAD, Vocabulary
from vqmm.utils.errors import UserError

SMALL = (
    Vocabulary()
    .add("text", [[5]], longest=2)
    .add("picture", [[3], [4, 4]], grids=[[1, 2], [1, 1]])
    .add("sound", [[6, 7]], longest=2)
)


def allowed(vocabulary, prefix):
    """The ids that may follow, by the rules in words."""
    present, inside, codes = [], None, 0
    for one in prefix:
        for own in vocabulary.ranges:
            if one == own.begin:
                present, inside, codes = [*present, own], own, 0
            elif inside is own and one == own.end:
                inside = None
            elif inside is own:
                codes += 1
    if inside is None:
        absent = {own.begin for own in vocabulary.ranges if own not in present}
        if not prefix or set(prefix) == {NULL}:
            return absent | {NULL}
        return {PAD} if prefix[-1] == PAD else absent | {PAD}
    if codes == len(inside.layout):
        return {inside.end}
    m, s, _ = inside.layout.positions[codes]
    first = inside.firsts[m][s]
    whole = inside.free and codes > 0 and s == 0
    return {*range(first, first + inside.sizes[m][s])} | ({inside.end} if whole else set())


@settings(max_examples=60, deadline=None)
@given(vocabularies(), st.data())
def test_along_a_legal_sequence_the_next_id_is_always_legal_and_the_mask_is_that_of_the_rules(vocabulary, data):
    ids, maps = data.draw(sequences(vocabulary))
    grammar = Grammar(vocabulary)
    assert grammar.follows(ids[None]).all()
    cursor = grammar.start(1)
    places = grammar.places(ids[None])[0]
    for i, one in enumerate(ids.tolist()):
        mask = grammar.legal(cursor)[0]
        assert mask[one]
        assert set(mask.nonzero().flatten().tolist()) == allowed(vocabulary, ids[:i].tolist())
        cursor = grammar.advance(cursor, ids[i : i + 1])
        assert cursor.place == places[i]
    found = grammar.split(ids)
    assert [*found] == [*maps]
    for name, some in maps.items():
        assert all(torch.equal(one, other[0]) for one, other in zip(found[name], some, strict=True))


@settings(max_examples=60, deadline=None)
@given(vocabularies(), st.data())
def test_any_other_id_is_seen_to_be_illegal(vocabulary, data):
    ids, _ = data.draw(sequences(vocabulary))
    grammar = Grammar(vocabulary)
    at = data.draw(st.integers(0, len(ids) - 1))
    for wrong in {*range(len(vocabulary))} - allowed(vocabulary, ids[:at].tolist()):
        other = ids.clone()
        other[at] = wrong
        follows = grammar.follows(other[None])[0]
        assert follows[:at].all() and not follows[at]
        with pytest.raises(UserError, match=rf"id {wrong} .* at position {at} "):
            grammar.split(other)


@settings(max_examples=30, deadline=None)
@given(vocabularies(), st.data())
def test_places_say_what_each_id_is(vocabulary, data):
    lines = [data.draw(sequences(vocabulary))[0] for _ in range(3)]
    ids = torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=PAD)
    grammar = Grammar(vocabulary)
    places = grammar.places(ids)
    for line, at in zip(ids, places, strict=True):
        for one, place in zip(line.tolist(), at.tolist(), strict=True):
            owner = int(grammar.range[place])
            if one in (PAD, NULL):
                assert (place, owner) == (one, -1)
                continue
            own = vocabulary.ranges[owner]
            assert own.begin <= one < own.stop
            m, s = int(grammar.map[place]), int(grammar.stage[place])
            if one in (own.begin, own.end):
                assert (m, s) == (-1, -1)
            else:
                assert own.firsts[m][s] <= one < own.firsts[m][s] + own.sizes[m][s]
    kinds = {tuple(each) for each in torch.stack([grammar.kind, grammar.range, grammar.map, grammar.stage], 1).tolist()}
    assert len({kind for kind, *_ in kinds}) == grammar.kinds <= len(kinds) + len(vocabulary.ranges)


def test_places_by_hand():
    grammar = Grammar(SMALL)
    picture = SMALL["picture"].join([torch.tensor([[[[2, 0]]]]), torch.tensor([[[[3]], [[1]]]])])
    text = SMALL["text"].join([torch.tensor([[[4]]])])
    ids = torch.cat([picture, text, torch.zeros(1, 2, dtype=torch.int64)], dim=1)
    places = grammar.places(ids)
    assert grammar.map[places].tolist() == [[-1, 0, 0, 1, 1, -1, -1, 0, -1, -1, -1]]
    assert grammar.stage[places].tolist() == [[-1, 0, 0, 0, 1, -1, -1, 0, -1, -1, -1]]
    assert grammar.coordinates[places][0, :4].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert grammar.counted[places].tolist() == [[True] * 4 + [False] * 2 + [True] * 2 + [False] * 3]


def test_a_free_length_ends_only_on_whole_frames_and_at_the_longest():
    grammar, sound = Grammar(SMALL), SMALL["sound"]
    low, high = sound.firsts[0]
    steps = [sound.begin, low, high, low, high, sound.end]
    ends = []
    cursor = grammar.start(1)
    for one in steps:
        ends.append(bool(grammar.legal(cursor)[0, sound.end]))
        cursor = grammar.advance(cursor, torch.tensor([one]))
    assert ends == [False, False, False, True, False, True]


def test_a_sequence_of_every_modality_can_only_be_followed_by_padding():
    grammar = Grammar(SMALL)
    parts = [
        SMALL["text"].join([torch.zeros(1, 1, 2).long()]),
        SMALL["sound"].join([torch.zeros(1, 2, 1).long()]),
        SMALL["picture"].join([torch.zeros(1, 1, 1, 2).long(), torch.zeros(1, 2, 1, 1).long()]),
    ]
    cursor = grammar.start(1)
    for one in torch.cat(parts, dim=1)[0]:
        cursor = grammar.advance(cursor, one[None])
    assert grammar.legal(cursor)[0].nonzero().tolist() == [[PAD]]
    cursor = grammar.advance(cursor, torch.tensor([PAD]))
    assert grammar.legal(cursor)[0].nonzero().tolist() == [[PAD]]


T = SMALL["text"]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (
            [T.begin, T.end],
            f"id {T.end} (end of text) cannot stand at position 1 of a sequence: there may be code 0 of",
        ),
        ([T.begin, T.end + 1, T.begin], "(begin of text) cannot stand at position 2"),
        ([T.begin, T.end + 1], "stops inside a block: end of text to code 4 of text, map 0, stage 0 is due"),
        ([PAD], "(padding) cannot stand at position 0"),
        ([NULL, PAD], "(padding) cannot stand at position 1"),
        ([T.begin, T.end + 1, T.end, NULL], "(null) cannot stand at position 3"),
        ([T.begin, T.end + 1, T.end, T.begin], "there may be begin of picture or begin of sound or padding"),
        ([T.begin, T.end + 1, T.end, PAD, SMALL["sound"].begin], "there may be padding"),
        ([T.end + 1], "(code 0 of text, map 0, stage 0) cannot stand at position 0"),
        ([len(SMALL)], "must be one line of ids from 0 to"),
        ([-1], "must be one line of ids from 0 to"),
        ([[T.begin]], "must be one line"),
    ],
)
def test_an_illegal_sequence_is_refused_in_words(ids, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Grammar(SMALL).split(torch.tensor(ids))


def test_nothing_but_nulls_or_nothing_at_all_has_no_maps():
    assert Grammar(SMALL).split(torch.tensor([NULL, NULL])) == {}
    assert Grammar(SMALL).split(torch.tensor([], dtype=torch.int64)) == {}


def test_every_id_has_a_description_of_its_own():
    words = [Grammar(SMALL).describe(one) for one in range(len(SMALL))]
    assert len(set(words)) == len(SMALL) and words[:4] == ["padding", "null", "begin of text", "end of text"]


def test_a_grammar_has_no_weights_and_saves_nothing():
    grammar = Grammar(SMALL)
    assert not [*grammar.parameters()] and not grammar.state_dict()
