"""Codes as bytes under a prior: they come back, take what the prior says, and bear floats that differ a little."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generators import LABELS, PICTURE, SOUND, everything, tokenizer
from vqmm.compression import with_prior as prior_coding
from vqmm.compression.container import pack, unpack
from vqmm.compression.with_prior import ONE, STEP, UNITS, PriorCoder, best_offset, chance, units
from vqmm.contracts.vocabulary import NULL, Vocabulary
from vqmm.generation.generator import Generator
from vqmm.generation.prompts import LABEL
from vqmm.plugins.priors.lstm import LSTM
from vqmm.plugins.priors.pixelcnn import PixelCNN, PixelSNAIL
from vqmm.plugins.priors.transformer import Transformer
from vqmm.plugins.priors.wavenet import WaveNet
from vqmm.tokens.shards import Row
from vqmm.utils.errors import UserError

SMALL = {
    PixelCNN: {"width": 8, "depth": 2},
    PixelSNAIL: {"width": 8, "depth": 2, "heads": 2, "attention": 2},
    WaveNet: {"width": 8, "blocks": 3},
    LSTM: {"width": 8, "depth": 2},
    Transformer: {"width": 16, "depth": 1, "heads": 2},
}
TWO = {**PICTURE, "quantizer": {"name": "hierarchical", "dim": 4, "inner": {"name": "vector", "codebook_size": 5}}}


def coder(
    kind=PixelCNN, config=PICTURE, label=True, grids=((5, 7),), longest=None, sharp=40.0, labels=LABELS, **changed
):
    """A tokenizer, and an untrained prior with clear preferences over its codes."""
    own = tokenizer(config, **changed)
    vocabulary = Vocabulary().add(LABEL, [[len(labels)]], grids=[[1]]) if label else Vocabulary()
    shape = {"longest": longest} if longest else {"grids": grids}
    sizes = own.quantizer.sizes
    vocabulary = vocabulary.add(own.modality.name, sizes, **shape, fingerprint=own.code_fingerprint())
    torch.manual_seed(1)
    prior = kind(vocabulary, vocabulary.longest, kind.Options(**SMALL[kind])).eval()
    with torch.no_grad():
        prior.head.weight.mul_(sharp)
    made = Generator(prior, {own.modality.name: own}, labels if label else ())
    return own, made, PriorCoder(made, own, "runs/prior")


def maps_of(own, generator, frames=None, seed=0):
    """Codes that the prior itself has drawn."""
    torch.manual_seed(seed)
    (maps,) = generator.codes(own.modality.name, seed=seed)
    return [one.numpy()[:, :frames] for one in maps]


CASES = [
    (PixelCNN, dict()),
    (PixelCNN, dict(label=False)),
    (PixelCNN, dict(config=TWO, grids=((2, 2), (4, 4)))),
    (PixelSNAIL, dict()),
    (Transformer, dict()),
    (LSTM, dict(label=False)),
    (WaveNet, dict(config=SOUND, grids=((9,),))),
    (WaveNet, dict(config=SOUND, longest=12)),
    (Transformer, dict(config=SOUND, longest=12)),
]


@pytest.mark.parametrize("label", [None, "2"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_codes_come_back_and_take_what_the_prior_says(kind, options, label):
    own, generator, made = coder(kind, **options)
    frames = 7 if options.get("longest") else None
    maps = maps_of(own, generator, frames)
    packed = made.pack(maps, label)
    again = made.unpack(packed.data, [one.shape for one in maps], label)
    assert len(again) == len(maps) and all(map(np.array_equal, again, maps))
    assert packed.bits < 8 * (len(packed.data) - 1) + 8 and 8 * (len(packed.data) - 1) <= packed.bits * 1.01 + 10
    if options.get("longest") is None:  # there the loss counts the end, which the file's header tells
        block = made.own.join([torch.from_numpy(one)[None] for one in maps])
        prompt = torch.zeros(1, 0, dtype=torch.int64)
        if options.get("label", True):
            prompt = generator.ids(LABEL, [label])[0][None] if label else torch.full((1, 3), NULL)
        ids = torch.cat([prompt, block], dim=1)
        nats = generator.prior.loss(ids, torch.tensor([prompt.shape[1]])).nats.sum()
        assert packed.bits == pytest.approx(float(nats) / math.log(2), rel=1e-4)


def test_bits_are_within_a_hundredth_of_the_priors_rate_and_of_one_byte():
    own, generator, made = coder(grids=((24, 24),), sharp=60.0)
    packed = made.pack(maps_of(own, generator))
    assert packed.bits > 500 and packed.margin > 1e-5
    assert packed.bits - 8 < 8 * (len(packed.data) - 1) < packed.bits * 1.01, "the offset's byte apart"


def test_every_segment_has_a_grid_of_its_own(monkeypatch):
    own, generator, made = coder()
    maps = maps_of(own, generator)
    whole = made.pack(maps)
    monkeypatch.setattr(prior_coding, "SEGMENT", 10)
    packed = made.pack(maps)
    assert len(set(packed.data[:4])) > 1 and packed.margin > whole.margin and packed.bits == whole.bits
    assert len(whole.data) + 3 - 1 <= len(packed.data) <= len(whole.data) + 3 + 1
    assert np.array_equal(made.unpack(packed.data, [maps[0].shape])[0], maps[0])


@pytest.mark.parametrize("kind", [PixelCNN, Transformer])
def test_another_machines_floats_do_not_matter_within_the_margin(kind, monkeypatch):
    own, generator, made = coder(kind)
    maps = maps_of(own, generator)
    packed = made.pack(maps)
    shapes = [one.shape for one in maps]
    scores = PriorCoder._scores
    noise = np.random.default_rng(0)

    def elsewhere(amount):
        def disturbed(self, *told):
            found = scores(self, *told)
            return found + noise.uniform(-amount, amount, found.shape)

        monkeypatch.setattr(PriorCoder, "_scores", disturbed)
        return all(map(np.array_equal, made.unpack(packed.data, shapes), maps))

    assert packed.margin > 1e-4
    assert all(elsewhere(packed.margin * 0.49) for _ in range(10)), "a logit is the difference of two"
    assert not all(elsewhere(1.0) for _ in range(3))
    data = pack(own, Row("", None, (10, 14), tuple(maps)), packed)
    with pytest.raises(UserError, match=r"gives codes of the checksum .* whose floats are further from those here"):
        unpack(own, data, "it.vqmm", made)


def test_a_prior_whose_steps_are_not_the_whole_writes_nothing(monkeypatch):
    own, generator, made = coder()
    maps = maps_of(own, generator)
    step = PixelCNN.step
    monkeypatch.setattr(PixelCNN, "step", lambda self, *told: -step(self, *told))
    with pytest.raises(UserError, match=r"the scores of runs/prior step by step are more than \S+ from those"):
        made.pack(maps)


def test_float32_would_be_too_coarse_and_is_not_used():
    own, generator, made = coder()
    assert next(generator.prior.parameters()).dtype == torch.float32
    ids = made.own.join([torch.from_numpy(one)[None] for one in maps_of(own, generator)])
    places = made.prior.grammar.places(ids)
    with torch.inference_mode():
        features = made.prior.features(ids, places)
        state = made.prior.start(1, ids.shape[1])
        steps = torch.cat([made.prior.step(ids[:, i, None], places[:, i, None], state) for i in range(37)], dim=1)
    assert features.dtype == torch.float64 and (features - steps).abs().max() < 1e-13


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-20, 20), min_size=0, max_size=30))
def test_the_offset_is_the_best_there_is(logits):
    found, margin = best_offset(np.array(logits))

    def gap(offset):
        border = offset * STEP / 256
        return min(
            (abs((min(max(x, -14), 14) - border + STEP / 2) % STEP - STEP / 2) for x in logits), default=STEP / 2
        )

    assert margin == pytest.approx(gap(found), abs=1e-12)
    assert margin == pytest.approx(max(map(gap, range(256))) if logits else STEP / 2, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.floats(-20, 20), st.integers(0, 255))
def test_a_middle_is_that_of_the_logits_cell(logit, offset):
    (middle,) = units(np.array([logit]), offset).tolist()
    assert abs(middle * STEP / UNITS - min(max(logit, -14), 14)) <= STEP / 2
    assert (middle - UNITS // 2 - 2 * offset) % UNITS == 0


def test_probabilities_are_what_they_have_always_been():
    """They are part of the format: another machine has to make the same."""
    assert [chance(middle) for middle in (0, 1, 700, -700, 28672, -28672, 40000)] == [
        ONE // 2,
        8390656,
        9808412,
        ONE - 9808412,
        ONE - 14,
        14,
        ONE - 1,
    ]
    assert chance(3000) == round(ONE / (1 + math.exp(-3000 * STEP / UNITS)))


def test_codes_that_are_certain_take_no_bits():
    _, _, made = coder(quantizer={"codebook_size": 1})
    packed = made.pack([np.zeros((1, 5, 7), dtype=np.int64)])
    assert packed.data == b"\0" and packed.bits == 0 and packed.margin == STEP / 2


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 9, bytes(range(200))])
def test_other_bytes_give_other_codes(data):
    _, _, made = coder(quantizer={"codebook_size": 6})
    (found,) = made.unpack(data, [(1, 5, 7)])
    assert found.shape == (1, 5, 7) and found.min() >= 0 and found.max() < 6


def test_a_class_is_used_and_a_class_never_seen_is_refused():
    own, generator, made = coder()
    maps = maps_of(own, generator)
    assert len({round(made.pack(maps, label).bits, 6) for label in (None, *LABELS)}) == 4
    with pytest.raises(UserError, match=r"no label is called '3'\. There is: 0, 1, 2"):
        made.pack(maps, "3")


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ([np.zeros((1, 4, 4))], "on the grids ((4, 4),): the vocabulary has [1] on ((5, 7),)"),
        ([np.zeros((2, 5, 7))], "with the stages [2]"),
        ([np.full((1, 5, 7), 8)], "map 0 of 'image': codes from 8 to 8"),
    ],
)
def test_maps_that_the_prior_has_not_learnt_are_refused(maps, said):
    _, _, made = coder()
    with pytest.raises(UserError, match=re.escape(said)):
        made.pack(maps)


def test_scores_that_leave_no_margin_are_refused(monkeypatch):
    own, generator, made = coder()
    monkeypatch.setattr(prior_coding, "LEAST_MARGIN", 0.2)
    with pytest.raises(UserError, match="the scores of runs/prior leave a margin of"):
        made.pack(maps_of(own, generator))


def test_scores_that_are_no_numbers_are_refused():
    own, generator, _ = coder()
    maps = maps_of(own, generator)
    with torch.no_grad():
        generator.prior.head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="the scores of runs/prior are no numbers"):
        PriorCoder(generator, own, "runs/prior").pack(maps)


def test_a_fingerprint_is_of_everything_that_decides_the_scores():
    own, generator, made = coder()
    assert PriorCoder(generator, own, "elsewhere").fingerprint == made.fingerprint
    with torch.no_grad():
        generator.prior.head.weight[-1, 0] += 1e-6
    found = {made.fingerprint, PriorCoder(generator, own, "").fingerprint}
    found |= {coder(**options)[2].fingerprint for options in (dict(label=False), dict(grids=((7, 5),)))}
    found |= {coder(labels=("0", "1", "3"))[2].fingerprint, coder(PixelSNAIL)[2].fingerprint}
    assert len(found) == 6 and all(len(each) == 8 for each in found)


def test_a_prior_of_another_tokenizer_is_refused():
    _, generator, _ = coder()
    with pytest.raises(UserError, match=r"this run has codes of the tokenizer \w+, and the 'image' of this prior"):
        PriorCoder(generator, tokenizer(PICTURE, quantizer={"codebook_size": 9}), "it")
    with pytest.raises(UserError, match="no modality of this prior is called 'audio'"):
        PriorCoder(generator, tokenizer(SOUND), "it")


def test_a_prior_of_several_modalities_serves_each():
    joint = everything()
    for name in ("image", "audio"):
        own = joint.tokenizers[name]
        made = PriorCoder(joint, own, "joint")
        maps = maps_of(own, joint)
        packed = made.pack(maps)
        assert all(map(np.array_equal, made.unpack(packed.data, [one.shape for one in maps]), maps))


def test_as_many_stages_as_the_prior_knows():
    own = tokenizer(SOUND)
    vocabulary = Vocabulary().add("audio", [[6]], longest=9, fingerprint=own.code_fingerprint())
    prior = LSTM(vocabulary, vocabulary.longest, LSTM.Options(width=8)).eval()
    made = PriorCoder(Generator(prior, {"audio": own}), own, "it")
    assert made.stages == 1 and made.pack([np.zeros((1, 4), dtype=np.int64)]).bits > 0
    with pytest.raises(UserError, match=re.escape("with the stages [2]")):
        made.pack([np.zeros((2, 4), dtype=np.int64)])
