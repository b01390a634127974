"""Pixel priors, WaveNet and LSTM: their promises, what they see, that a step gives what the whole gives; sampling."""

import re

import pytest
import torch
from torch import nn

from tests.prior_fakes import drawn_without_cache
from vqmm.contracts.prior import without_condition
from vqmm.contracts.vocabulary import NULL, PAD, Vocabulary
from vqmm.generation.sampling import Draw, _uniform, sample
from vqmm.plugins import priors
from vqmm.plugins.priors.grid import Coarser, GridPrior
from vqmm.plugins.priors.lstm import LSTM
from vqmm.plugins.priors.pixelcnn import PixelCNN, PixelSNAIL
from vqmm.plugins.priors.wavenet import WaveNet
from vqmm.registry import Registry
from vqmm.testing import check_prior, example_sequences
from vqmm.utils.errors import UserError

ALONE = Vocabulary()
CLASSES = ALONE.add("label", [[3]], grids=[[1]])
SMALL = {
    PixelCNN: {"width": 8, "depth": 2},
    PixelSNAIL: {"width": 8, "depth": 2, "heads": 2, "attention": 1},
    WaveNet: {"width": 8, "blocks": 3, "doublings": 2},
    LSTM: {"width": 8, "depth": 1},
}
PICTURES = {
    "odd": ([[5]], {"grids": [[3, 5]]}),
    "stages": ([[5, 4, 3]], {"grids": [[3, 2]]}),
    "one": ([[6]], {"grids": [[1, 1]]}),
    "row": ([[6]], {"grids": [[1, 4]]}),
    "column": ([[6]], {"grids": [[4, 1]]}),
    "levels": ([[3], [4]], {"grids": [[2, 2], [4, 4]]}),
    "uneven levels": ([[3, 2], [4], [2]], {"grids": [[1, 2], [2, 3], [3, 5]]}),
}
LINES = {
    "line": ([[7]], {"grids": [[6]]}),
    "frames": ([[4, 3, 5]], {"grids": [[5]]}),
    "levels of lines": ([[4], [3, 2]], {"grids": [[2], [5]]}),
}
FREE = {"free": ([[5]], {"longest": 6}), "free frames": ([[4, 3]], {"longest": 4})}
SERVED = {PixelCNN: PICTURES | LINES, PixelSNAIL: PICTURES | LINES, WaveNet: LINES | FREE, LSTM: PICTURES | FREE}
CASES = pytest.mark.parametrize(
    ("kind", "shape"), [(kind, name) for kind, shapes in SERVED.items() for name in shapes], ids=lambda x: str(x)[-20:]
)


def words(shape: str, conditioned: bool = True) -> Vocabulary:
    sizes, form = (PICTURES | LINES | FREE)[shape]
    return (CLASSES if conditioned else ALONE).add("it", sizes, **form)


def made(kind, vocabulary, large=1.0, context=None, **options):
    torch.manual_seed(0)
    prior = kind(vocabulary, context or vocabulary.longest, kind.Options(**{**SMALL[kind], **options})).eval()
    with torch.no_grad():
        prior.head.weight.mul_(30 * large)
    return prior


def in_front(vocabulary, count, frames=None):
    """Sequences as in training: a class or NULLs, then a block; all of one length."""
    own = vocabulary["it"]
    grids = own.grids or ((frames or own.longest,),)
    maps = [
        torch.stack([torch.randint(size, (count, *grid)) for size in stages], dim=1)
        for stages, grid in zip(own.sizes, grids, strict=True)
    ]
    block = own.join(maps)
    if len(vocabulary.ranges) == 1:
        return block
    ids = torch.cat([vocabulary["label"].join([torch.randint(3, (count, 1, 1))]), block], dim=1)
    return without_condition(ids, torch.full((count,), 3), torch.arange(count) % 3 == 2)


@pytest.mark.parametrize(
    ("kind", "shape", "conditioned"),
    [(kind, name, True) for kind, shapes in SERVED.items() for name in shapes if name != "one"]  # has no code before it
    + [(PixelCNN, "odd", False), (PixelSNAIL, "uneven levels", False), (WaveNet, "free frames", False)]
    + [(WaveNet, "levels of lines", False), (LSTM, "stages", False), (LSTM, "free", False)],
    ids=lambda x: str(x)[-20:],
)
def test_they_keep_the_promises_of_a_prior(kind, shape, conditioned):
    check_prior(kind, kind.Options(**SMALL[kind]), words(shape, conditioned))


def test_an_lstm_serves_any_vocabulary():
    check_prior(LSTM, LSTM.Options(width=8, depth=2))


@pytest.mark.parametrize("lengths", [[1], [4, 1, 1, 3], [5, 1]], ids=str)
@CASES
def test_steps_of_any_length_give_what_the_whole_gives(kind, shape, lengths, monkeypatch):
    """A class, or NULLs, in front; after that, all at one place: nothing may be computed anew."""
    for conditioned in (True, False):
        vocabulary = words(shape, conditioned)
        prior = made(kind, vocabulary)
        ids = in_front(vocabulary, 4)
        places = prior.grammar.places(ids)
        whole = prior.score(prior.features(ids, places))
        with monkeypatch.context() as patch:
            if kind is not LSTM:
                patch.setattr(GridPrior, "features", None)
            state, parts, at = prior.start(4, ids.shape[1]), [], 0
            while at < ids.shape[1]:
                some = slice(at, at + lengths[len(parts) % len(lengths)])
                parts.append(prior.step(ids[:, some], places[:, some], state))
                at += parts[-1].shape[1]
        assert whole.abs().max() > 0.1 and (prior.score(torch.cat(parts, dim=1)) - whole).abs().max() < 1e-4


@CASES
def test_the_gradient_of_a_position_by_a_later_one_is_exactly_zero(kind, shape):
    prior = made(kind, words(shape), **({"dropout": 0.0} if kind is LSTM else {}))
    ids = in_front(prior.vocabulary, 3)
    embedded = []

    def remember(module, given, found):
        embedded.append(found.requires_grad_())

    prior.ids.register_forward_hook(remember)
    features = prior.features(ids, prior.grammar.places(ids))
    codes = next(each for each in embedded if each.ndim == 3)
    begin = 0 if kind is LSTM else 3  # the places of a grid's codes begin with `begin`, after which none is known
    for position in range(begin, ids.shape[1] - 2):
        (pull,) = torch.autograd.grad(features[:, position].square().sum(), codes, retain_graph=True, allow_unused=True)
        known = position - begin + (kind is LSTM)
        if pull is not None:  # a first level's first code sees its class alone
            assert (pull[:, known:] == 0).all()
        assert known == 0 or (pull[:, known - 1] != 0).any(), "the code before it is always seen"


@pytest.mark.parametrize("kind", SMALL)
def test_the_class_is_seen_by_every_code(kind):
    shape = "frames" if kind is WaveNet else "odd"
    prior = made(kind, words(shape))
    ids = in_front(prior.vocabulary, 1)
    label = prior.vocabulary["label"]
    kinds = [[NULL] * 3, *([label.begin, label.firsts[0][0] + number, label.end] for number in range(3))]
    every = torch.stack([torch.cat([torch.tensor(each), ids[0, 3:]]) for each in kinds])
    found = prior.features(every, prior.grammar.places(every))[:, 3:-2]
    for one in range(4):
        for other in range(one):
            assert ((found[one] - found[other]).abs().amax(dim=1) > 1e-6).all()


@pytest.mark.parametrize(("grid", "fine"), [((2, 3), (4, 6)), ((1, 2), (3, 5)), ((3,), (3,)), ((2,), (5,))], ids=str)
def test_a_finer_position_is_told_of_the_coarser_one_over_it(grid, fine):
    made = Coarser(1, grid, fine)
    made.inner, made.outer = nn.Identity(), nn.Identity()
    numbers = torch.arange(float(torch.tensor(grid).prod()))
    found = made(numbers.view(1, -1, 1, 1))[0, 0]
    for place in torch.cartesian_prod(*map(torch.arange, fine)).view(-1, len(fine)).tolist():
        over = tuple(at * less // more for at, less, more in zip(place, grid, fine, strict=True))
        assert found[tuple(place)] == numbers.view(grid)[over]


@pytest.mark.parametrize("kind", [PixelCNN, PixelSNAIL, WaveNet])
def test_every_finer_code_is_told_of_every_coarser_one(kind):
    prior = made(kind, words("levels of lines"))
    ids = in_front(prior.vocabulary, 1)
    own = prior.vocabulary["it"]
    for place in (4, 5):  # the two of the coarser map
        other = ids.clone()
        other[0, place] = own.firsts[0][0] + (other[0, place] - own.firsts[0][0] + 1) % 4
        one, two = (prior.features(each, prior.grammar.places(each))[0, 5:-2] for each in (ids, other))
        assert ((one - two).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("draw", [Draw(), Draw(guidance=2.5), Draw(temperature=0.7, top_k=3), Draw(top_p=0.8)], ids=str)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(PixelCNN, "odd"), (PixelCNN, "levels"), (PixelSNAIL, "stages"), (WaveNet, "free frames"), (LSTM, "odd")],
)
def test_what_is_drawn_is_what_is_drawn_without_a_cache(kind, shape, draw):
    prior = made(kind, words(shape))
    own, label = prior.vocabulary["it"], prior.vocabulary["label"]
    prompts = [label.join([torch.tensor([[[number]]])])[0] for number in (0, 2, 2)]
    found = sample(prior, "it", 3, given=prompts, draw=draw, seed=7)
    for place, (block, prompt) in enumerate(zip(found, prompts, strict=True)):
        numbers = _uniform(7, place, len(own.layout))
        known = torch.full((len(own.layout),), PAD)
        assert torch.equal(block, drawn_without_cache(prior, own, prompt, known, numbers, draw))


@pytest.mark.parametrize(("kind", "shape"), [(PixelCNN, "odd"), (PixelSNAIL, "levels"), (WaveNet, "frames")])
def test_a_masked_map_is_completed(kind, shape):
    """Any mask: a beginning, or holes."""
    prior = made(kind, words(shape))
    own = prior.vocabulary["it"]
    torch.manual_seed(1)
    block = in_front(prior.vocabulary, 1)[0, 3:]
    label = prior.vocabulary["label"].join([torch.tensor([[[1]]])])[0]
    for kept in (torch.arange(len(block) - 2) < 4, torch.rand(len(block) - 2) < 0.4):
        known = torch.where(kept, block[1:-1], PAD)[None]
        found = torch.stack(sample(prior, "it", 6, given=label, known=known, seed=3))
        assert (found[:, 1:-1][:, kept] == block[1:-1][kept]).all() and len(found.unique(dim=0)) > 1
        expected = drawn_without_cache(prior, own, label, known[0], _uniform(3, 5, len(own.layout)), Draw())
        assert torch.equal(found[5], expected)


@pytest.mark.parametrize("kind", SMALL)
def test_a_sample_does_not_depend_on_those_beside_it(kind):
    prior = made(kind, words("frames" if kind is WaveNet else "odd"))
    every = sample(prior, "it", 5, seed=2)
    assert torch.equal(sample(prior, "it", 1, seed=2, first=4)[0], every[4])


@pytest.mark.parametrize("kind", SMALL)
def test_they_learn_which_class_has_which_codes(kind):
    shape = "frames" if kind is WaveNet else "odd"
    vocabulary = words(shape)
    own, label = vocabulary["it"], vocabulary["label"]
    torch.manual_seed(0)
    lines = torch.cat([label.join([torch.arange(3).view(3, 1, 1)]), in_front(words(shape, False), 3) + 5], dim=1)
    assert vocabulary["it"].begin == words(shape, False)["it"].begin + 5
    prior = kind(vocabulary, vocabulary.longest, kind.Options(**{**SMALL[kind], "width": 32, "dropout": 0.0}))
    optimizer = torch.optim.AdamW(prior.parameters(), 1e-2)
    given = torch.full((3,), 3)
    for _ in range(60):
        optimizer.zero_grad()
        prior.loss(lines, given).loss.backward()
        optimizer.step()
    assert prior.loss(lines, given).loss < 0.1
    found = sample(prior, "it", 3, given=list(lines[:, :3]), draw=Draw(top_k=1))
    assert torch.equal(torch.stack(found), lines[:, 3:]) and own.block == lines.shape[1] - 3


def test_sequences_at_different_places_are_computed_anew_and_right():
    prior = made(PixelCNN, words("odd"))
    ids = example_sequences(prior.vocabulary, 6)
    assert len({int(line[0]) for line in ids}) == 2, "label first in some, last in others"
    places = prior.grammar.places(ids)
    state = prior.start(6, ids.shape[1])
    steps = [prior.step(ids[:, i : i + 1], places[:, i : i + 1], state) for i in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), prior.features(ids, places), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_padding_and_shorter_ones_beside_it_change_nothing(kind):
    prior = made(kind, words("free" if kind in (WaveNet, LSTM) else "odd"))
    free = kind in (WaveNet, LSTM)
    one, other = (in_front(prior.vocabulary, 1, frames)[0] for frames in ((2, 6) if free else (None, None)))
    joined = nn.utils.rnn.pad_sequence([one, other, one[3:]], batch_first=True, padding_value=PAD)
    found = prior.loss(joined, torch.tensor([3, 3, 0]))
    alone = [prior.loss(line[None], torch.tensor([given])) for line, given in ((one, 3), (other, 3), (one[3:], 0))]
    assert float(found.nats.sum()) == pytest.approx(sum(float(each.nats.sum()) for each in alone), rel=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_a_sequence_longer_than_the_context_is_refused(kind):
    prior = made(kind, words("frames" if kind is WaveNet else "odd"), context=12)
    ids = torch.full((1, 13), NULL)
    with pytest.raises(UserError, match="a sequence of 13 ids: this prior's context is 12"):
        prior.features(ids, ids)
    state = prior.start(1, 13)
    prior.step(ids[:, :12], ids[:, :12], state)
    with pytest.raises(UserError, match="a sequence of 13 ids"):
        prior.step(ids[:, 12:], ids[:, 12:], state)


BOTH = CLASSES.add("text", [[5]], longest=4).add("picture", [[5]], grids=[[2, 2]])


@pytest.mark.parametrize(
    ("kind", "vocabulary", "said"),
    [
        (PixelCNN, BOTH, "prior 'pixelcnn' over label, text, picture: it serves one modality, alone or by label"),
        (WaveNet, CLASSES, "prior 'wavenet' over label: it serves one modality"),
        (PixelCNN, words("free"), "over lines of 'it' of 1 to 6 frames: it needs one grid for all; take wavenet"),
        (PixelSNAIL, words("free frames"), "prior 'pixelsnail' over lines of 'it' of 1 to 4 frames"),
        (WaveNet, words("odd"), "prior 'wavenet' over grids of 'it' with 2 axes: it serves 1;"),
        (PixelCNN, ALONE.add("film", [[4]], grids=[[2, 2, 2]]), "grids of 'film' with 3 axes: it serves 1 or 2;"),
        (PixelSNAIL, ALONE.add("it", [[4], [4]], grids=[[4, 4], [2, 4]]), "maps of 'it' of (4, 4) and (2, 4): a map"),
    ],
)
def test_a_vocabulary_that_it_does_not_serve_is_refused_in_one_line(kind, vocabulary, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        made(kind, vocabulary)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (PixelCNN, {"kernel": 4}, "prior.kernel: 4 is even, and must be odd: 3 or 5"),
        (PixelSNAIL, {"kernel": 6}, "prior.kernel: 6 is even"),
        (PixelSNAIL, {"heads": 3}, "prior.width: 8 with 3 heads: width / heads must be even"),
        (PixelSNAIL, {"heads": 8}, "prior.width: 8 with 8 heads"),
        (PixelSNAIL, {"attention": 3}, "prior.attention: after every 3 layers, of which there are 2: never"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        made(kind, words("odd"), **options)


def test_they_are_offered_as_plugins():
    registry = Registry()
    registry.add(priors, "priors")
    for kind in (PixelCNN, PixelSNAIL, WaveNet, LSTM):
        found, options = registry.part("prior", {"name": kind.name, "width": 32})
        assert found is kind and options.width == 32


@pytest.mark.parametrize("kind", SMALL)
def test_bfloat16_autocast_gives_losses_near_the_plain_ones_and_samples(kind):
    prior = made(kind, words("frames" if kind is WaveNet else "levels"), dropout=0.0).train()
    ids = in_front(prior.vocabulary, 4)[[0, 1, 3, 0]]  # the third has lost its class
    given = torch.full((4,), 3)
    plain = prior.loss(ids, given).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scored = prior.loss(ids, given)
        drawn = sample(prior, "it", 3, given=ids[:3, :3], draw=Draw(guidance=2.0))
        assert len(drawn[2]) == prior.vocabulary["it"].block
    assert scored.loss.dtype == torch.float32 and scored.loss.item() == pytest.approx(plain.item(), rel=0.03)
    scored.loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in prior.parameters())
