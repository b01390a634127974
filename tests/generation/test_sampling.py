"""Drawing blocks: legal whatever the prior says, each sample by itself, as without a cache."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.vocabularies import blocks, sequences, vocabularies
from tests.prior_fakes import drawn_without_cache, made
from vqmm.contracts.vocabulary import NULL, PAD, Vocabulary
from vqmm.generation.sampling import Draw, _uniform, sample
from vqmm.utils.errors import UserError

WORDS = (
    Vocabulary()
    .add("label", [[10]], grids=[[1]])
    .add("text", [[5]], longest=6)
    .add("sound", [[6, 7]], longest=4)
    .add("picture", [[3], [4, 8]], grids=[[1, 2], [2, 2]])
)
LABEL = WORDS["label"].join([torch.tensor([[[7]]])])[0]
TEXT = WORDS["text"].join([torch.tensor([[[4, 0, 1]]])])[0]


def equal(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


draws = st.builds(
    Draw,
    temperature=st.sampled_from([0.3, 1.0, 5.0]),
    top_k=st.sampled_from([None, 1, 2]),
    top_p=st.sampled_from([None, 0.4, 1.0]),
)


@settings(max_examples=40, deadline=None)
@given(vocabularies(), draws, st.data())
def test_what_is_drawn_is_what_is_drawn_without_a_cache_and_legal(vocabulary, draw, data):
    prior = made(vocabulary)
    own = data.draw(st.sampled_from(vocabulary.ranges))
    prompts = []
    for _ in range(2):
        _, maps = data.draw(sequences(vocabulary))
        kept = [vocabulary[name].join(found)[0] for name, found in maps.items() if name != own.name]
        prompts.append(torch.cat([torch.empty(0).long(), *kept]))
    if all(len(prompt) for prompt in prompts):
        draw = replace(draw, guidance=data.draw(st.sampled_from([1.0, 0.0, 2.5])))
    whole = own.join(data.draw(blocks(own, count=2)))[:, 1:-1]
    keep = torch.rand(whole.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    known = torch.where(keep.int().cummin(dim=1).values.bool() if own.free else keep, whole, PAD)
    found = sample(prior, own.name, 2, given=prompts, known=known, draw=draw, seed=5)
    room = torch.nn.functional.pad(known, (0, len(own.layout) - known.shape[1]))
    for i, block in enumerate(found):
        uniform = _uniform(5, i, len(own.layout))
        assert torch.equal(block, drawn_without_cache(prior, own, prompts[i], room[i], uniform, draw))
        assert [*prior.grammar.split(torch.cat([prompts[i], block]))][-1] == own.name


@pytest.mark.parametrize("want", ["text", "sound", "picture", "label"])
def test_a_prior_that_wants_something_illegal_never_gets_it(want):
    prior = made(WORDS)
    own = WORDS[want]
    with torch.no_grad():  # everything outside of the range, and its begin, is a million times likelier
        away = torch.ones(len(WORDS), dtype=torch.bool)
        away[own.end : own.stop] = False
        prior.head.weight[away] = 0
        prior.head.weight[~away] -= 1e3
    for block in sample(prior, want, 50):
        assert [*prior.grammar.split(block)] == [want]


@pytest.mark.parametrize("want", ["text", "sound", "picture"])
@pytest.mark.parametrize("options", [{}, {"guidance": 3.0}, {"top_k": 3, "top_p": 0.9}])
def test_a_sample_is_the_same_alone_and_beside_others(want, options):
    prior, draw = made(WORDS, sharp=1.0), Draw(**options)
    prompts = [LABEL, WORDS["label"].join([torch.tensor([[[1]]])])[0]] * 3
    if want != "text":
        prompts[2] = torch.cat([TEXT, LABEL])
        prompts[5] = TEXT
    together = sample(prior, want, 6, given=prompts, draw=draw, seed=3)
    alone = [sample(prior, want, given=prompts[i], draw=draw, seed=3, first=i)[0] for i in range(6)]
    assert equal(together, alone)
    assert equal(together, sample(prior, want, 6, given=prompts, draw=draw, seed=3, at_once=2))
    assert not equal(together, sample(prior, want, 6, given=prompts, draw=draw, seed=4))
    assert len({tuple(block.tolist()) for block in sample(prior, want, 20, given=LABEL, seed=3)}) > 5


def test_uniform_numbers_are_turned_into_ids_in_proportion():
    logits = torch.tensor([[0.1, 0.5, 0.0, 0.4]]).log().expand(1000, 4)
    even = (torch.arange(1000) + 0.5) / 1000

    def shares(**options):
        return (torch.bincount(Draw(**options).pick(logits, even), minlength=4) / 1000).tolist()

    assert shares() == pytest.approx([0.1, 0.5, 0, 0.4], abs=2e-3)
    squares = [0.01 / 0.42, 0.25 / 0.42, 0, 0.16 / 0.42]
    assert shares(temperature=0.5) == pytest.approx(squares, abs=2e-3)
    assert shares(top_k=2) == pytest.approx([0, 5 / 9, 0, 4 / 9], abs=2e-3)
    assert shares(top_k=1) == [0, 1, 0, 0]
    assert shares(top_k=9) == shares()
    assert shares(top_p=0.5) == [0, 1, 0, 0]
    assert shares(top_p=0.51) == pytest.approx([0, 5 / 9, 0, 4 / 9], abs=2e-3)
    assert shares(top_k=2, top_p=0.55) == [0, 1, 0, 0]  # of the 0.9 that top_k leaves
    assert shares(top_p=1.0) == shares()


def test_the_ends_of_the_unit_interval_meet_no_impossible_id():
    logits = torch.tensor([[-torch.inf, 0.0, 3.0, -torch.inf]]).expand(2, 4)
    almost = torch.tensor([0.0, 1 - 2**-24])
    assert Draw().pick(logits, almost).tolist() == [1, 2]
    many = torch.zeros(1, 70_001)
    many[:, -1] = -torch.inf
    assert Draw().pick(many, almost[1:]).item() < 70_000


def test_a_likely_tie_keeps_all_that_are_in_it():
    logits = torch.zeros(400, 4)
    found = Draw(top_k=2).pick(logits, torch.arange(400) / 400)
    assert found.unique().tolist() == [0, 1, 2, 3]


def test_what_is_known_stays_and_what_comes_before_it_does_not_change():
    prior = made(WORDS, sharp=1.0)
    free = torch.stack(sample(prior, "picture", 4, seed=1))
    own = WORDS["picture"]
    known = torch.zeros(1, len(own.layout)).long()
    known[0, 5] = own.columns[5, 0] + 1
    found = torch.stack(sample(prior, "picture", 4, known=known, seed=1))
    assert (found[:, 6] == known[0, 5]).all()
    assert torch.equal(found[:, :6], free[:, :6])
    everything = free[:, 1:-1]
    assert torch.equal(torch.stack(sample(prior, "picture", 4, known=everything, seed=2)), free)


def test_a_text_goes_on_from_beginnings_of_any_length():
    prior = made(WORDS)
    own = WORDS["text"]
    codes = own.join([torch.tensor([[[4, 0, 1, 2]]])])[:, 1:-1].repeat(3, 1)
    codes[1, 2:] = PAD
    codes[2] = PAD
    for line, start in zip(sample(prior, "text", 3, known=codes), codes, strict=True):
        count = int((start != PAD).sum())
        assert torch.equal(line[1 : 1 + count], start[:count]) and len(line) >= count + 2


def test_the_longest_ends_where_it_must():
    prior = made(WORDS)
    every = sample(prior, "text", 40, draw=Draw(temperature=100.0))
    assert max(map(len, every)) == WORDS["text"].block == 8
    assert all(line[-1] == WORDS["text"].end and (line[:-1] != WORDS["text"].end).all() for line in every)


def test_guidance_follows_the_condition():
    prior = made(WORDS, sharp=1.0)
    one, two = (sample(prior, "picture", 3, given=LABEL, draw=Draw(guidance=g), seed=2) for g in (1.0, 4.0))
    assert not equal(one, two)
    void = torch.full_like(LABEL, NULL)
    without = sample(prior, "picture", 3, given=void, seed=2)
    assert equal(sample(prior, "picture", 3, given=LABEL, draw=Draw(guidance=0.0), seed=2), without)


def test_guidance_brings_up_nothing_that_is_unlikely_with_the_condition():
    there = torch.tensor([[0.9, 0.085, 0.015], [0.4, 0.3, 0.3]]).log()
    gone = torch.tensor([[0.999, 0.0005, 0.0005], [0.1, 0.8, 0.1]]).log()
    shares = Draw(guidance=3.0).guided(there, gone).softmax(-1)
    assert shares[0].tolist() == [1, 0, 0]  # the third is likelier thirty times over, and still nonsense
    expected = torch.tensor([0.4**3 / 0.1**2, 0.3**3 / 0.8**2, 0.3**3 / 0.1**2])
    assert torch.allclose(shares[1], expected / expected.sum())
    assert torch.allclose(Draw(guidance=0.5).guided(there, gone), (there + gone) / 2)


def test_given_padding_is_left_out_and_none_at_all_is_fine():
    prior = made(WORDS)
    batch = torch.nn.utils.rnn.pad_sequence([TEXT, torch.cat([TEXT, LABEL])], batch_first=True)
    assert equal(
        sample(prior, "picture", 2, given=batch), sample(prior, "picture", 2, given=[TEXT, torch.cat([TEXT, LABEL])])
    )
    assert sample(prior, "picture", 0) == [] and sample(prior, "picture", 0, given=TEXT) == []


def test_sampling_leaves_the_prior_as_it_was_and_gives_ids_to_train_on():
    prior = made(WORDS).train()
    prior.gru.eval()
    (block,) = sample(prior, "text")
    assert prior.training and not prior.gru.training
    assert all(parameter.grad is None for parameter in prior.parameters())
    prior.loss(block[None]).loss.backward()  # an inference tensor could not be
    assert block.dtype == torch.int64


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_prior_that_went_astray_is_refused(wrong):
    prior = made(WORDS)
    with torch.no_grad():
        prior.head.weight[WORDS["text"].end + 2] = wrong
    with pytest.raises(UserError, match="no numbers"):
        sample(prior, "text", 3)


PICTURE = dict(want="picture")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(want="pictures"), "no modality of this prior is called 'pictures'"),
        (dict(want="text", given=TEXT), "'text' is wanted and given"),
        (dict(**PICTURE, given=TEXT[:3]), "stops inside a block"),
        (dict(**PICTURE, given=TEXT[1:]), "cannot stand at position 0"),
        (dict(**PICTURE, given=torch.tensor([99])), "must be one line of ids from 0 to"),
        (dict(**PICTURE, given=[TEXT, LABEL]), "2 given sequences for 1 samples"),
        (dict(**PICTURE, draw=Draw(guidance=2)), "guidance 2 without a condition"),
        (dict(**PICTURE, given=torch.full((3,), NULL), draw=Draw(guidance=2)), "without a condition"),
        (dict(**PICTURE, given=torch.full((30,), NULL)), "30 given ids and 12 of 'picture', a sequence of 42 ids"),
        (dict(**PICTURE, known=torch.zeros(2, 3).long()), "known ids of shape (2, 3) for 1 blocks"),
        (dict(**PICTURE, known=torch.zeros(1, 11).long()), "at most 10"),
        (dict(**PICTURE, known=torch.tensor([[1]])), "known id 1 at place 0 of 'picture': must be from"),
        (dict(want="text", known=torch.tensor([[0, TEXT[1]]])), "give a beginning"),
        (dict(want="text", count=-1), "-1 samples, 64 at once"),
        (dict(want="text", at_once=0), "1 samples, 0 at once"),
    ],
)
def test_mistakes_are_answered_with_their_values(options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        sample(made(WORDS), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"guidance": -1.0},
        {"guidance": float("nan")},
    ],
    ids=str,
)
def test_draws_that_cannot_be_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=re.escape(f"{name} {value}: must be")):
        Draw(**options)
