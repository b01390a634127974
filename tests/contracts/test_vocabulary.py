"""Layout: codes as one sequence. Vocabulary: ranges of ids."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.vocabularies import blocks, ranges, vocabularies
from vqmm.contracts.batch import Codes
from vqmm.contracts.vocabulary import Layout, Range, Vocabulary
from vqmm.utils.errors import UserError


def test_a_layout_by_hand():
    layout = Layout(grids=((1,), (2,)), sizes=((4,), (8, 8)))
    assert len(layout) == 5
    assert layout.positions == ((0, 0, (0,)), (1, 0, (0,)), (1, 1, (0,)), (1, 0, (1,)), (1, 1, (1,)))
    maps = (torch.tensor([[[3]]]), torch.tensor([[[4, 6], [5, 7]]]))
    assert layout.join(maps).tolist() == [[3, 4, 5, 6, 7]]


grids = st.integers(1, 3).flatmap(
    lambda rank: st.lists(
        st.tuples(st.tuples(*[st.integers(1, 3)] * rank), st.lists(st.integers(1, 9), min_size=1, max_size=3)),
        min_size=1,
        max_size=3,
    )
)


@given(grids, st.integers(0, 3))
def test_split_is_the_inverse_of_join_and_positions_name_each_id(maps, count):
    layout = Layout(tuple(grid for grid, _ in maps), tuple(tuple(sizes) for _, sizes in maps))
    codes = Codes(
        tuple(torch.randint(9, (count, len(sizes), *grid)) for grid, sizes in maps),
        torch.zeros(count, len(maps[0][0]), dtype=torch.int64),
    )
    assert Layout.of(codes, layout.sizes) == layout
    ids = layout.join(codes.maps)
    assert ids.shape == (count, len(layout)) and len(layout.positions) == len(layout)
    assert all(map(torch.equal, layout.split(ids), codes.maps))
    for column, (which, stage, place) in enumerate(layout.positions):
        assert torch.equal(ids[:, column], codes.maps[which][(slice(None), stage, *place)])


def test_ids_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"must be \(B, 4\)"):
        Layout(((2, 2),), ((5,),)).split(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="2 grids for 1 maps"):
        Layout(((2,), (4,)), ((5,),))


WORDS = Vocabulary().add("label", [[10]], grids=[[1]]).add("text", [[5]], longest=3, fingerprint="ab")


def test_a_vocabulary_by_hand():
    label, text = WORDS.ranges
    assert (label.begin, label.end, label.firsts, label.stop, label.block) == (2, 3, ((4,),), 14, 3)
    assert (text.begin, text.end, text.firsts, text.stop, text.block) == (14, 15, ((16,),), 21, 5)
    assert len(WORDS) == 21 and WORDS.longest == 8 and WORDS.dtype == np.uint8
    assert label.join([torch.tensor([[[9]]])]).tolist() == [[2, 13, 3]]
    assert text.join([torch.tensor([[[4, 0]], [[1, 1]]])]).tolist() == [[14, 20, 16, 15], [14, 17, 17, 15]]
    assert text.join([torch.empty(0, 1, 2, dtype=torch.int64)]).shape == (0, 4)


def test_stages_of_a_frame_stand_together_each_with_ids_of_its_own():
    sound = Vocabulary().add("sound", [[6, 7]], longest=3)["sound"]
    assert sound.join([torch.tensor([[[5, 1], [6, 0]]])]).tolist() == [[2, 4 + 5, 10 + 6, 4 + 1, 10 + 0, 3]]
    assert sound.split(torch.tensor([9, 16, 5, 10]))[0].tolist() == [[5, 1], [6, 0]]


@given(vocabularies(), st.data())
def test_maps_come_back_from_their_ids(vocabulary, data):
    for own in vocabulary.ranges:
        maps = data.draw(blocks(own, count=2))
        ids = own.join(maps)
        assert ids.shape == (2, 2 + sum(one[0].numel() for one in maps)) and ids.shape[1] <= own.block
        assert (ids[:, 0] == own.begin).all() and (ids[:, -1] == own.end).all()
        assert (ids[:, 1:-1] > own.end).all() and (ids < own.stop).all()
        for line, *one in zip(ids, *maps, strict=True):
            assert all(map(torch.equal, own.split(line[1:-1]), one))


@given(vocabularies(), ranges, st.data())
def test_adding_a_modality_moves_no_old_id(vocabulary, another, data):
    sizes, shape = another
    larger = vocabulary.add("another", sizes, **shape)
    assert larger.ranges[:-1] == vocabulary.ranges and larger["another"].begin == len(vocabulary)
    for own in vocabulary.ranges:
        maps = data.draw(blocks(own))
        assert torch.equal(own.join(maps), larger[own.name].join(maps))


@given(vocabularies())
def test_ranges_follow_one_another_and_fit_the_integer(vocabulary):
    at = 2
    for own in vocabulary.ranges:
        assert own.begin == at and own.stop - own.begin == 2 + sum(map(sum, own.sizes))
        at = own.stop
    assert np.iinfo(vocabulary.dtype).max >= len(vocabulary) - 1


@pytest.mark.parametrize(
    ("codes", "dtype"), [(252, np.uint8), (253, np.uint16), (65_532, np.uint16), (65_533, np.uint32)]
)
def test_the_integer_is_the_smallest_that_holds_every_id(codes, dtype):
    assert Vocabulary().add("x", [[codes]], longest=1).dtype == dtype


@given(vocabularies())
def test_a_vocabulary_comes_back_from_its_file(vocabulary):
    assert Vocabulary.of(json.loads(json.dumps(vocabulary.described()))) == vocabulary


def test_a_vocabulary_is_saved_and_a_damaged_one_refused(tmp_path):
    file = tmp_path / "vocabulary.json"
    WORDS.save(file)
    assert Vocabulary.load(file) == WORDS
    told = json.loads(file.read_text())
    for name, wrong in {"begin": 5, "sizes": [[0]], "grids": 3, "more": 1, "name": "text"}.items():
        other = json.loads(file.read_text())
        other["ranges"][0][name] = wrong
        with pytest.raises(UserError, match=r"vocabulary\.json is damaged"):
            Vocabulary.of(other, file)
    for text in ("", "[]", '{"format": 2}', json.dumps({**told, "ranges": 7})):
        file.write_text(text)
        with pytest.raises(UserError, match=r"vocabulary\.json"):
            Vocabulary.load(file)
    with pytest.raises(UserError, match="no vocabulary"):
        Vocabulary.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("own", "maps", "said"),
    [
        ("text", [torch.zeros(1, 1, 4)], "'text' of 4 frames: the vocabulary has room for 1 to 3"),
        ("text", [torch.zeros(1, 1, 0)], "'text' of 0 frames"),
        ("text", [torch.zeros(1, 1, 2, 2)], "'text' of 2 x 2 frames"),
        ("text", [torch.zeros(1, 2, 3)], "the stages [2]"),
        ("text", [torch.zeros(1, 1, 3)] * 2, "the stages [1, 1]"),
        (
            "text",
            [torch.tensor([[[0, 5]]])],
            "map 0 of 'text': codes from 0 to 5 in stage 0, where the codebook has 0 to 4",
        ),
        ("text", [torch.tensor([[[0]], [[-1]]])], "map 0 of 'text': codes from -1 to 0 in stage 0"),
        ("label", [torch.zeros(1, 1, 2)], "on the grids ((2,),)"),
    ],
)
def test_codes_that_do_not_fit_are_refused_with_their_values(own, maps, said):
    with pytest.raises(UserError, match=re.escape(said)):
        WORDS[own].join([one.long() for one in maps])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(sizes=[], longest=3), "every map has a stage"),
        (dict(sizes=[[]], longest=3), "every map has a stage"),
        (dict(sizes=[[4, 0]], longest=3), "every stage a code"),
        (dict(sizes=[[4]]), "give the one or the other"),
        (dict(sizes=[[4]], longest=3, grids=[[3]]), "give the one or the other"),
        (dict(sizes=[[4], [4]], longest=3), "a free length needs one map"),
        (dict(sizes=[[4]], longest=0), "at least one frame"),
        (dict(sizes=[[4]], grids=[[3], [3]]), "the grids"),
        (dict(sizes=[[4]], grids=[[]]), "all of 1"),
        (dict(sizes=[[4]], grids=[[1, 1, 1, 1]]), "all of 1"),
        (dict(sizes=[[4], [4]], grids=[[2], [2, 2]]), "all of 1"),
        (dict(sizes=[[4]], grids=[[0, 2]]), "the grids"),
    ],
)
def test_ranges_that_cannot_be_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Vocabulary().add("x", **options)


def test_a_modality_comes_once_and_another_is_named():
    with pytest.raises(UserError, match="each modality comes once"):
        WORDS.add("text", [[5]], longest=3)
    with pytest.raises(UserError, match=r"no modality of this prior is called 'txt'.*Did you mean 'text'"):
        WORDS["txt"]
    with pytest.raises(UserError, match="ranges begin at"):
        Vocabulary((Range("x", ((4,),), longest=3, begin=7),))


def test_tokens_of_another_tokenizer_are_refused():
    assert WORDS.require("text", "ab", "tokens/") is WORDS.ranges[1]
    with pytest.raises(UserError, match="tokens/ has codes of the tokenizer cd, and the 'text' of this prior is of ab"):
        WORDS.require("text", "cd", "tokens/")


def test_what_is_known_of_a_block_keeps_its_places():
    own = Vocabulary().add("picture", [[3], [4, 4]], grids=[[1, 2], [2, 2]])["picture"]
    maps = [torch.tensor([[[[2, 1]]]]), torch.arange(8).view(1, 2, 2, 2) % 4]
    whole = own.join(maps)[:, 1:-1]
    upper = [torch.tensor([[True, True]]), torch.tensor([[True, True], [False, False]])]
    assert torch.equal(own.known(maps, upper), torch.where(torch.arange(10) < 6, whole, 0))
    first_stage = [torch.tensor([[False, True]]), torch.tensor([True, False])[:, None, None]]
    assert own.known(maps, first_stage)[0].nonzero().flatten().tolist() == [1, 2, 4, 6, 8]
