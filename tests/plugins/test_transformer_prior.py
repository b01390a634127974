"""The transformer prior: its promises, what it sees, and that a step gives what the whole gives."""

import re

import pytest
import torch
from torch import nn

from vqmm.contracts.grammar import Grammar
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.generation.sampling import Draw, sample
from vqmm.plugins import priors
from vqmm.plugins.priors.transformer import Transformer, coordinates, norm, rotate, unit
from vqmm.registry import Registry
from vqmm.testing import check_prior, example_sequences
from vqmm.utils.errors import UserError

SMALL = {"width": 16, "depth": 2, "heads": 2}
WORDS = (
    Vocabulary()
    .add("label", [[10]], grids=[[1]])
    .add("text", [[5]], longest=6)
    .add("sound", [[6, 7]], longest=4)
    .add("picture", [[3], [4, 8]], grids=[[1, 2], [2, 4]])
)


def made(vocabulary: Vocabulary = WORDS, large: float = 1.0, **options: object) -> Transformer:
    torch.manual_seed(0)
    prior = Transformer(vocabulary, vocabulary.longest, Transformer.Options(**{**SMALL, **options})).eval()
    with torch.no_grad():
        for weight in prior.parameters():
            weight *= large
    return prior


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        {**SMALL, "tied": False, "heads": 4},
        {"width": 24, "depth": 1, "heads": 1, "hidden": 7, "dropout": 0.0, "learned_positions": True},
    ],
    ids=str,
)
def test_it_keeps_the_promises_of_a_prior(options):
    check_prior(Transformer, Transformer.Options(**options))


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary().add("text", [[50]], longest=9),
        Vocabulary().add("film", [[4]], grids=[[2, 2, 3]]),
        Vocabulary().add("label", [[2]], grids=[[1]]).add("one", [[1, 1]], longest=1),
    ],
    ids=lambda vocabulary: vocabulary.ranges[-1].name,
)
def test_it_keeps_them_over_lines_and_films(vocabulary):
    if vocabulary.ranges[-1].name == "one":  # has no choice but the label's
        prior = made(vocabulary)
        assert {tuple(block.tolist()) for block in sample(prior, "one", 3)} == {(6, 8, 9, 7)}
        return
    check_prior(Transformer, Transformer.Options(**SMALL), vocabulary)


def test_the_gradient_of_a_position_by_a_later_one_is_exactly_zero():
    prior = made(large=2.0)
    ids = example_sequences(WORDS, 2)
    embedded = []
    prior.ids.register_forward_hook(lambda *told: embedded.append(told[2].requires_grad_()))
    features = prior.features(ids, prior.grammar.places(ids))
    for position in range(ids.shape[1]):
        (pull,) = torch.autograd.grad(features[:, position].square().sum(), embedded[0], retain_graph=True)
        assert (pull[:, position + 1 :] == 0).all()
        assert (pull[:, : position + 1].abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("lengths", [[1], [4, 1, 1, 7], [3, 2]], ids=str)
def test_steps_of_any_length_give_what_the_whole_gives(batch, lengths):
    prior = made(width=32, depth=3, large=2.0)
    ids = example_sequences(WORDS, batch)
    places = prior.grammar.places(ids)
    state, parts, at = prior.start(batch, ids.shape[1]), [], 0
    while at < ids.shape[1]:
        some = slice(at, at + lengths[len(parts) % len(lengths)])
        parts.append(prior.step(ids[:, some], places[:, some], state))
        at += parts[-1].shape[1]
    whole = prior.score(prior.features(ids, places))
    assert whole.std() > 0.1 and (prior.score(torch.cat(parts, dim=1)) - whole).abs().max() < 1e-4


def test_a_state_is_of_one_run():
    prior = made()
    ids = example_sequences(WORDS, 2)
    places = prior.grammar.places(ids)
    one = prior.start(2, ids.shape[1])
    first = prior.step(ids[:, :5], places[:, :5], one)
    prior.step(ids[:, :9], places[:, :9], prior.start(2, ids.shape[1]))
    again = prior.step(ids[:, :5], places[:, :5], prior.start(2, ids.shape[1]))
    assert torch.equal(first, again) and one.filled == 5


def test_a_sequence_longer_than_the_context_is_refused():
    prior = Transformer(WORDS, 12, Transformer.Options(**SMALL)).eval()
    ids = torch.zeros(1, 13, dtype=torch.int64)
    with pytest.raises(UserError, match="a sequence of 13 ids: this prior's context is 12"):
        prior.features(ids, ids)
    state = prior.start(1, 13)
    prior.step(ids[:, :12], ids[:, :12], state)
    with pytest.raises(UserError, match="a sequence of 13 ids"):
        prior.step(ids[:, 12:], ids[:, 12:], state)
    with pytest.raises(UserError, match=re.escape("20 of 'picture', a sequence of 20 ids: this prior's context is 12")):
        sample(prior, "picture")


@pytest.mark.parametrize("options", [{"width": 30, "heads": 4}, {"width": 24, "heads": 4}, {"width": 6, "heads": 1}])
def test_heads_that_do_not_fit_are_refused(options):
    with pytest.raises(UserError, match="must divide by 4"):
        made(**options)


def test_a_coarser_map_lies_in_the_middle_of_what_it_covers():
    grammar = Grammar(WORDS)
    own = WORDS["picture"]
    at = coordinates(grammar)[int(grammar.anchor[own.begin]) :][: own.block]
    assert at[1:3].tolist() == [[0.5, 0.5, 0], [0.5, 2.5, 0]]
    assert at[3:7].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]]  # two stages of each
    assert at[0].tolist() == at[-1].tolist() == [0, 0, 0]


def test_attention_knows_distances_on_the_grid_and_in_the_sequence():
    """Turned queries and keys: their product depends on the difference of index and coordinates alone."""
    prior = made(Vocabulary().add("picture", [[4]], grids=[[5, 6]]), width=32, heads=1)
    turns = torch.view_as_complex(prior.by_index)[:, None] * torch.view_as_complex(prior.by_place)
    query, key = torch.randn(3, 1, 32), torch.randn(3, 1, 32)

    def product_at(i, j):  # (index, row, column)
        placed = [rotate(x, turns[at[0], 3 + 6 * at[1] + at[2]]) for x, at in ((query, i), (key, j))]
        assert torch.equal(placed[0][2], query[2])  # values are not turned
        return (placed[0][0] * placed[1][1]).sum().item()

    here = product_at((9, 2, 3), (5, 1, 4))
    assert product_at((20, 4, 1), (16, 3, 2)) == pytest.approx(here, abs=1e-4)
    for other in ((9, 2, 3), (4, 1, 4)), ((9, 2, 3), (5, 0, 4)), ((9, 2, 3), (5, 1, 5)):
        assert abs(product_at(*other) - here) > 1e-3


def test_norms_agree_and_survive_zeros():
    x = torch.cat([torch.randn(3, 20), 1e-3 * torch.randn(1, 20), torch.zeros(1, 20)])
    assert torch.allclose(unit(x) * 20**0.5, norm(x), atol=1e-5) and norm(x)[-1].eq(0).all()
    assert norm(x)[:4].square().mean(dim=1).tolist() == pytest.approx([1] * 4, rel=1e-4)


def test_bfloat16_autocast_scores_in_float32_near_the_plain_ones():
    prior = made(width=32).train()
    ids = example_sequences(WORDS, 4)
    prior.drop.p = 0.0
    for block in prior.blocks:
        block.drop.p = 0.0
    plain = prior.loss(ids).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scored = prior.loss(ids)
        assert prior.score(prior.features(ids, prior.grammar.places(ids))).dtype == torch.float32
        assert len(sample(prior, "picture", 3)[2]) == WORDS["picture"].block
    assert scored.loss.dtype == torch.float32 and scored.loss.item() == pytest.approx(plain.item(), rel=0.02)
    scored.loss.backward()
    assert all(weight.grad.isfinite().all() for weight in prior.parameters())


def test_it_starts_almost_uniform_and_its_layers_keep_the_size_of_what_goes_through():
    uniform = Transformer(WORDS, WORDS.longest, Transformer.Options(width=64, depth=8, heads=2)).eval()
    ids = example_sequences(WORDS, 8)
    sizes = (uniform.grammar.high - uniform.grammar.low)[uniform.grammar.places(ids)][:, :-1]
    counted = uniform.grammar.counted[uniform.grammar.places(ids)][:, :-1]
    assert uniform.loss(ids).nats.sum() == pytest.approx(sizes[counted].log().sum().item(), rel=0.1)


def test_dropout_is_on_in_training_alone():
    prior = made(dropout=0.5)
    ids = example_sequences(WORDS, 2)
    assert prior.loss(ids).loss == prior.loss(ids).loss
    prior.train()
    assert prior.loss(ids).loss != prior.loss(ids).loss


def test_a_tied_head_is_the_embedding():
    prior, other = made(), made(tied=False)
    assert prior.head.weight is prior.ids.weight and other.head.weight is not other.ids.weight
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in prior.parameters()) + len(WORDS) * 16


def test_it_learns_which_picture_belongs_to_which_word():
    vocabulary = Vocabulary().add("text", [[4]], longest=3).add("picture", [[9]], grids=[[3, 3]])
    torch.manual_seed(0)
    text = [vocabulary["text"].join([torch.randint(4, (1, 1, length))])[0] for length in (1, 2, 3, 3)]
    pictures = vocabulary["picture"].join([torch.randint(9, (4, 1, 3, 3))])
    ids = nn.utils.rnn.pad_sequence([torch.cat(pair) for pair in zip(text, pictures, strict=True)], batch_first=True)
    prior = Transformer(vocabulary, 16, Transformer.Options(width=64, depth=2, heads=2, dropout=0.0))
    optimizer = torch.optim.AdamW(prior.parameters(), 3e-3)
    given = torch.tensor([len(line) for line in text])
    for _ in range(60):
        optimizer.zero_grad()
        prior.loss(ids, given).loss.backward()
        optimizer.step()
    assert prior.loss(ids, given).loss < 0.1
    found = sample(prior, "picture", 4, given=text, draw=Draw(top_k=1))
    assert torch.equal(torch.stack(found), pictures)


def test_it_is_offered_as_a_plugin():
    registry = Registry()
    registry.add(priors, "priors")
    found, options = registry.part("prior", {"name": "transformer", "width": 32})
    assert found is Transformer and (options.width, options.depth) == (32, 6)
    with pytest.raises(UserError, match="heads: 0 does not fit"):
        registry.part("prior", {"name": "transformer", "heads": 0})


def test_codes_of_like_vectors_begin_with_like_embeddings():
    vocabulary = Vocabulary().add("picture", [[6, 4]], grids=[[2, 2]]).add("word", [[5]], longest=3)
    prior = made(vocabulary, learned_positions=True)
    untouched = prior.ids.weight.clone()
    prior.init_embeddings({})
    assert torch.equal(prior.ids.weight, untouched)
    first = torch.randn(6, 8)
    first[1] = first[0] + 1e-3
    prior.init_embeddings({"picture": [first, torch.randn(4, 8)]})
    begin = vocabulary["picture"].end + 1
    weight = prior.ids.weight.detach()
    codes = weight[begin : begin + 6] - weight[begin : begin + 6].mean(dim=0)
    near = torch.nn.functional.cosine_similarity(codes[0], codes[1:], dim=1)
    assert int(near.argmax()) == 0 and float(near[0]) > 0.5
    word = weight[vocabulary["word"].end + 1 : vocabulary["word"].stop]
    assert 0.02 < float(word.std()) < 0.2 and 0.2 < float(prior.places.weight.detach().std()) < 0.4


def test_as_many_vectors_are_taken_as_the_prior_has_stages():
    vocabulary = Vocabulary().add("picture", [[6]], grids=[[2, 2]])
    prior = made(vocabulary)
    prior.init_embeddings({"picture": [torch.randn(6, 3), torch.randn(6, 3)]})
    assert prior.ids.weight.isfinite().all()
