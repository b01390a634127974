"""The loss of a prior: what is counted, how it is weighted, and that illegal ids have no part in it."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.contracts.vocabularies import sequences, vocabularies
from tests.prior_fakes import Recurrent, made
from vqmm.contracts.prior import without_condition
from vqmm.contracts.vocabulary import NULL, PAD, Vocabulary
from vqmm.testing import check_prior, example_sequences
from vqmm.utils.errors import UserError

WORDS = (
    Vocabulary()
    .add("label", [[10]], grids=[[1]])
    .add("text", [[5]], longest=3)
    .add("picture", [[3], [4, 8]], grids=[[1, 1], [1, 2]])
)
LABEL = WORDS["label"].join([torch.tensor([[[7]]])])[0]
TEXT = WORDS["text"].join([torch.tensor([[[4, 0]]])])[0]
LONG = WORDS["text"].join([torch.tensor([[[1, 2, 3]]])])[0]
PICTURE = WORDS["picture"].join([torch.tensor([[[[2]]]]), torch.tensor([[[[3, 1]], [[7, 0]]]])])[0]


def padded(*lines: torch.Tensor) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([*lines], batch_first=True, padding_value=PAD)


def uniform() -> Recurrent:
    prior = Recurrent(WORDS, 30)
    nn.init.zeros_(prior.head.weight)
    return prior


def test_a_prior_without_attention_keeps_the_promises():
    check_prior(Recurrent)


def test_the_loss_of_a_uniform_prior_by_hand():
    five, six = math.log(5), math.log(6)  # before a frame but the first, the end is possible as well
    text = (five + six + six) / 3  # two codes and the end
    picture = (math.log(3) + 2 * math.log(4) + 2 * math.log(8)) / 5  # its end is certain, and not counted
    scored = uniform().loss(torch.cat([TEXT, PICTURE])[None])
    assert scored.loss.item() == pytest.approx((text + picture) / 2)
    assert scored.counts.tolist() == [0, 3, 5]
    assert scored.nats.tolist() == pytest.approx([0, 3 * text, 5 * picture])
    longest = uniform().loss(LONG[None])
    assert longest.loss.item() == pytest.approx((five + 2 * six) / 4)  # the end of the longest is certain, but counted


def test_samples_weigh_the_same_however_long_they_are():
    one, two = (uniform().loss(line[None]).loss for line in (TEXT, torch.cat([LABEL, PICTURE])))
    both = uniform().loss(padded(TEXT, torch.cat([LABEL, PICTURE]))).loss
    assert both.item() == pytest.approx((one.item() + two.item()) / 2)
    none = uniform().loss(padded(TEXT, torch.cat([LABEL, PICTURE]), LABEL), torch.tensor([0, 0, 3])).loss
    assert none.item() == pytest.approx(both.item())  # where nothing counts there is no sample


def test_what_is_given_or_null_is_not_counted():
    ids = torch.cat([LABEL, TEXT])[None]
    assert uniform().loss(ids).counts.tolist() == [1, 3, 0]
    assert uniform().loss(ids, torch.tensor([3])).counts.tolist() == [0, 3, 0]
    assert uniform().loss(ids, torch.tensor([5])).counts.tolist() == [0, 2, 0]  # a begun text is given
    dropped = without_condition(ids, torch.tensor([3]), torch.tensor([True]))
    assert dropped[0, :3].tolist() == [NULL] * 3 and torch.equal(dropped[:, 3:], ids[:, 3:])
    assert uniform().loss(dropped).counts.tolist() == [0, 3, 0]


def test_a_condition_is_dropped_where_it_was_asked_for_and_padding_stays():
    ids = padded(torch.cat([LABEL, TEXT]), torch.cat([LABEL, TEXT]), LABEL)
    given_ids, dropped = torch.tensor([3, 3, 5]), torch.tensor([True, False, True])
    found = without_condition(ids, given_ids, dropped)
    assert found[0, :4].tolist() == [NULL, NULL, NULL, TEXT[0]]
    assert torch.equal(found[1], ids[1])
    assert found[2].tolist() == [NULL] * 3 + [PAD] * 4


@settings(max_examples=40, deadline=None)
@given(vocabularies(), st.data())
def test_the_loss_is_that_of_the_masked_logits_and_illegal_ids_have_probability_zero(vocabulary, data):
    lines = [data.draw(sequences(vocabulary))[0] for _ in range(2)]
    ids = padded(*lines)
    prior = made(vocabulary)
    prior.context = ids.shape[1]
    grammar = prior.grammar
    before = grammar.places(ids)[:, :-1]
    counted = grammar.counted[before]
    if not counted.any():
        return
    share = prior.logits(ids)[:, :-1].softmax(dim=-1)
    every = torch.arange(len(vocabulary))
    inside = grammar.low[before] < grammar.high[before]
    illegal = (every < grammar.low[before][..., None]) | (every >= grammar.high[before][..., None])
    assert (share[inside[..., None] & illegal] == 0).all()
    nats = -share.gather(2, ids[:, 1:, None])[..., 0].log()
    scored = prior.loss(ids)
    assert scored.nats.sum().item() == pytest.approx(nats[counted].sum().item(), rel=1e-4, abs=1e-5)
    assert scored.counts.sum() == counted.sum()


def test_ids_that_are_not_legal_get_no_gradient_and_change_nothing():
    prior = made(WORDS)
    ids = torch.cat([TEXT, PICTURE])[None]
    loss = prior.loss(ids).loss
    loss.backward()
    pull = prior.head.weight.grad.abs().sum(dim=1)
    own = WORDS["picture"]
    assert pull[: WORDS["text"].end].tolist() == [0] * WORDS["text"].end  # of a label, padding, null, begin
    assert pull[[own.begin, own.end]].tolist() == [0, 0]
    assert (pull[WORDS["text"].end : own.begin] > 0).all() and (pull[own.end + 1 :] > 0).all()
    with torch.no_grad():
        prior.head.weight[pull == 0] = 1e4
    assert prior.loss(ids).loss == loss


def test_padding_changes_nothing():
    prior = made(WORDS)
    short = prior.loss(TEXT[None])
    long = prior.loss(padded(TEXT, torch.cat([TEXT, PICTURE]))[:1])
    assert long.loss.item() == pytest.approx(short.loss.item(), rel=1e-6)
    assert torch.equal(long.counts, short.counts)


def test_wrapped_modules_give_the_loss():
    prior = made(WORDS)
    assert prior(TEXT[None]).loss == prior.loss(TEXT[None]).loss


@pytest.mark.parametrize(
    ("ids", "given_ids", "error", "said"),
    [
        (
            torch.zeros(1, 31).long(),
            None,
            UserError,
            "a sequence of 31 ids: this prior's context is 30: give fewer, or train a prior with a longer",
        ),
        (TEXT, None, UserError, "must be (B, L)"),
        (TEXT[None], torch.tensor([4]), UserError, "nothing to learn in 1 sequences of 4 ids"),
        (torch.full((2, 5), NULL), None, UserError, "nothing to learn"),
        (TEXT[None, :1], None, UserError, "nothing to learn"),
        (torch.cat([TEXT[:2], LABEL])[None], None, ValueError, "id 2 is not legal at (0, 2)"),
        (padded(TEXT[:3], TEXT), None, ValueError, "id 0 is not legal at (0, 3)"),
    ],
)
def test_sequences_that_cannot_be_learnt_from_are_refused(ids, given_ids, error, said):
    with pytest.raises(error, match=re.escape(said)):
        uniform().loss(ids, given_ids)


def test_a_prior_needs_a_context_and_a_modality():
    with pytest.raises(UserError, match="a context of 1 ids"):
        Recurrent(WORDS, 1)
    with pytest.raises(UserError, match="over 0 modalities"):
        Recurrent(Vocabulary(), 10)


def test_the_checks_of_a_prior_name_the_promise_that_is_broken():
    class Peeks(Recurrent):
        def features(self, ids, places):
            return super().features(ids, places) + 1e-6 * self.ids(ids).sum(dim=1, keepdim=True)

    class Forgets(Recurrent):
        def step(self, ids, places, state):
            return super().step(ids, places, self.start(len(ids), 0))

    class Noisy(Recurrent):
        def features(self, ids, places):
            return super().features(ids, places) + torch.randn(())

    class Idle(Recurrent):
        def __init__(self, *told):
            super().__init__(*told)
            self.unused = nn.Parameter(torch.zeros(3))

    for broken, said in {Peeks: "sees a later id", Forgets: "steps of 1", Noisy: "two answers", Idle: "unused"}.items():
        with pytest.raises(AssertionError, match=said):
            check_prior(broken)


def test_example_sequences_are_legal():
    ids = example_sequences(WORDS, 4)
    prior = made(WORDS)
    assert ids.shape == (4, WORDS.longest) and prior.grammar.follows(ids).all()
