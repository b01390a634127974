"""Generator: samples of every modality from nothing and from others, what stays as it is, and its folder."""

import json
import re
import shutil

import pytest
import torch

import vqmm
from tests.generators import (
    LABELS,
    PICTURE,
    REGISTRY,
    SOUND,
    TEXT,
    WORDS,
    equal,
    everything,
    speaking,
    tokenizer,
)
from vqmm.contracts.vocabulary import PAD, Vocabulary
from vqmm.generation.generator import Generator, own_weights
from vqmm.generation.sampling import Draw
from vqmm.plugins.priors.transformer import Transformer
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

KITTEN = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
CLICK = torch.sin(torch.arange(400) / 3)[None]


@pytest.fixture
def saved(tmp_path):
    everything().save(tmp_path / "run" / "prior")
    return tmp_path / "run"


# Ids


def test_blocks_of_samples_are_those_of_their_codes():
    made = everything()
    own = made.vocabulary["image"]
    (block,) = made.ids("image", [KITTEN])
    (maps,) = made.tokenizers["image"].encode(made.tokenizers["image"].modality.collate([KITTEN], ["k"])).maps
    assert torch.equal(block, own.join([maps])[0]) and block.dtype == torch.int64
    assert torch.equal(made.maps("image", KITTEN)[0], maps[0])


def test_ids_do_not_depend_on_the_neighbours_and_take_samples_as_they_are_read():
    made = everything()
    sounds = [CLICK, CLICK[:, :333], CLICK[:, :80]]
    together = made.ids("audio", sounds)
    assert [len(block) for block in together] == [2 + 2 * 5, 2 + 2 * 5, 2 + 2]
    assert equal(together, [made.ids("audio", [sound])[0] for sound in sounds])
    as_read = (KITTEN * 127.5 + 127.5).round().to(torch.uint8)
    assert equal(made.ids("image", [as_read]), made.ids("image", [as_read.float() / 127.5 - 1]))
    assert made.ids("image", []) == []


def test_labels_and_texts_are_given_by_name():
    made = everything()
    own = made.vocabulary["label"]
    blocks = [block.tolist() for block in made.ids("label", ["0", 2])]
    assert blocks == [[own.begin, own.begin + 2 + number, own.end] for number in (0, 2)]
    (block,) = made.ids("text", ["two"])
    (maps,) = made.prior.grammar.split(block)["text"]
    assert made.tokenizers["text"].modality.text_of(maps) == "two"


def test_as_many_stages_as_the_prior_knows():
    sound = tokenizer(SOUND)
    words = Vocabulary().add("audio", [[6]], longest=5, fingerprint=sound.code_fingerprint())
    made = Generator(Transformer(words, 20, Transformer.Options(width=16, depth=1)), {"audio": sound})
    (block,) = made.ids("audio", [CLICK])
    assert torch.equal(block[1:-1] - 4, everything().maps("audio", CLICK)[0][0])
    (found,) = made.generate("audio")
    assert found.shape[1] % 80 == 0


# Samples


@pytest.mark.parametrize("want", ["image", "audio", "text"])
def test_a_sample_of_many_is_the_same_alone(want):
    made = everything()
    given = {name: value for name, value in {"label": "1", "text": "two", "image": KITTEN}.items() if name != want}
    options = dict(given=given, draw=Draw(guidance=1.5), seed=4)
    every = made.generate(want, 5, **options)
    for place, sample in enumerate(every):
        (alone,) = made.generate(want, 1, first=place, **options)
        torch.testing.assert_close(alone, sample, atol=1e-5, rtol=1e-5)
    assert len({tuple(sample.flatten().tolist()) for sample in every}) > 1
    assert not equal(every, made.generate(want, 5, given=given, seed=5))


def test_samples_are_finished_ones_of_their_modality():
    made = everything()
    pictures = made.generate("image", 3)
    assert all(p.shape == (1, 8, 8) and p.min() >= -1 and p.max() <= 1 for p in pictures)
    assert {s.shape[1] % 80 for s in made.generate("audio", 5)} == {0}
    for text in made.generate("text", 5):
        assert text.dtype == torch.int64 and text.shape[0] == 1 and 1 <= text.shape[1] <= 6
        assert isinstance(made.tokenizers["text"].modality.text_of(text), str)


def test_more_than_are_drawn_at_once_and_none():
    made = everything()
    last = made.codes("text", 70, seed=1)[-1]
    assert equal(last, made.codes("text", 1, seed=1, first=69)[0])
    assert made.generate("image", 0) == []


def test_each_sample_goes_by_its_own_condition():
    made = everything()
    given = [{"text": word, "label": label} for word, label in zip(WORDS, LABELS, strict=True)]
    codes = made.codes("image", given=given, seed=2)
    for place, own in enumerate(given):
        assert equal(codes[place], made.codes("image", given=own, seed=2, first=place)[0])
    flat = [tuple(maps[0].flatten().tolist()) for maps in made.codes("image", 20, given={"text": "one"})]
    other = [tuple(maps[0].flatten().tolist()) for maps in made.codes("image", 20, given={"text": "two"})]
    assert flat != other


def test_a_label_comes_first_and_the_rest_as_given():
    made = everything()
    (prompt,) = made._prompts("image", [{"text": "one", "audio": CLICK, "label": "1"}])
    assert list(made.prior.grammar.split(prompt)) == ["label", "text", "audio"]


def test_nothing_given_is_what_training_left_out():
    always_told, joint = speaking(tokenizer(PICTURE)), speaking(tokenizer(PICTURE), tokenizer(TEXT))
    assert always_told._prompts("image", [{}])[0].tolist() == [1, 1, 1], "a NULL for begin, class and end of the label"
    assert joint._prompts("image", [{}])[0].tolist() == []
    assert len(always_told.generate("image", 2)) == 2


def test_a_decoder_that_is_told_labels_is_told_the_given_one():
    made = speaking(tokenizer(PICTURE, conditional=True), label=False)
    one, two = (made.generate("image", given={"label": label}, seed=1)[0] for label in ("0", "2"))
    codes = [made.codes("image", given={"label": label}, seed=1)[0] for label in ("0", "2")]
    assert equal(*codes) and not torch.equal(one, two), "of one prior that knows no labels"
    with pytest.raises(UserError, match="the tokenizer of 'image': no label is given, and the decoder needs one"):
        made.generate("image")
    with pytest.raises(UserError, match=r"the tokenizer of \'image\': no label is called \'3\'\. There is: 0, 1, 2"):
        made.generate("image", given={"label": "3"})


def test_a_decoder_that_draws_draws_by_the_samples_place():
    drawing = tokenizer({**PICTURE, "decoder": {"name": "flow", "width": 8, "depth": 1}})
    made = speaking(drawing)
    every = made.generate("image", 3, known=made.known("image", KITTEN, 0.9), draw=Draw(top_k=1))
    (third,) = made.generate("image", first=2, known=made.known("image", KITTEN, 0.9), draw=Draw(top_k=1))
    torch.testing.assert_close(every[2], third)
    assert not torch.allclose(every[0], every[1])


def test_a_hierarchy_of_two_maps():
    two = tokenizer({**PICTURE, "quantizer": {"name": "hierarchical", "dim": 4, "inner": {"name": "vector"}}})
    made = speaking(two)
    (maps,) = made.codes("image", seed=3)
    assert [tuple(one.shape) for one in maps] == [(1, 2, 2), (1, 4, 4)]
    assert made.generate("image", seed=3)[0].shape == (1, 8, 8)
    known = made.known("image", KITTEN, 0.5)
    (done,) = made.codes("image", known=known, seed=3)
    own = made.maps("image", KITTEN)
    assert torch.equal(done[0][:, :1], own[0][:, :1]) and torch.equal(done[1][:, :2], own[1][:, :2])


# Completion


def test_the_upper_part_of_a_picture_stays():
    made = everything()
    (own,) = made.maps("image", KITTEN)
    for keep, count in ((0.5, 8), (0.3, 5), (0.05, 1)):
        known = made.known("image", KITTEN, keep)
        assert int((known != PAD).sum()) == count
        for (found,) in made.codes("image", 4, known=known):
            assert torch.equal(found.flatten()[:count], own.flatten()[:count])


def test_a_sound_and_a_text_go_on():
    made = everything()
    (own,) = made.maps("audio", CLICK)
    for (found,) in made.codes("audio", 4, known=made.known("audio", CLICK, 0.4)):
        assert torch.equal(found[:, :2], own[:, :2])
    text_of = made.tokenizers["text"].modality.text_of
    texts = {text_of(text) for text in made.generate("text", 8, known=made.known("text", "tw", 1))}
    assert all(text.startswith("tw") for text in texts) and len(texts) > 1


@pytest.mark.parametrize(
    ("name", "value", "keep", "said"),
    [
        ("image", KITTEN, 1.0, "keep 1 of 'image', 16 codes: nothing is left to be drawn of at most 16"),
        ("image", KITTEN, 0.01, "keep 0.01 of 'image', 16 codes: no code is kept"),
        ("image", KITTEN, 0.0, "above 0 and at most 1"),
        ("image", KITTEN, 1.1, "above 0 and at most 1"),
        ("image", KITTEN, float("nan"), "above 0 and at most 1"),
        ("text", "twotwo", 1.0, "nothing is left to be drawn of at most 6"),
        ("label", "1", 0.5, "keep 0.5 of 'label'"),
    ],
)
def test_a_share_that_keeps_nothing_or_all(name, value, keep, said):
    with pytest.raises(UserError, match=re.escape(said)):
        everything().known(name, value, keep)


# Mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(want="pictures"), "no modality of this prior is called 'pictures'. There is: audio, image, label, text."),
        (dict(want="label"), "'label' cannot be wanted, only given. Want image or audio or text"),
        (dict(want="image", given={"image": KITTEN}), "'image' is wanted and given"),
        (dict(want="image", given={"sound": CLICK}), "no modality of this prior is called 'sound'"),
        (dict(want="image", given={"label": "one"}), "no label is called 'one'. There is: 0, 1, 2."),
        (
            dict(want="audio", given={"image": KITTEN[:, :6]}),
            "'image' of 6 x 8 is given, and this prior speaks 'image' of 8 x 8",
        ),
        (dict(want="audio", given={"image": KITTEN[0]}), "'image' of shape (8, 8) is given: must be (1, "),
        (dict(want="audio", given={"image": KITTEN.repeat(3, 1, 1)}), "of shape (3, 8, 8) is given: must be (1, "),
        (dict(want="audio", given={"image": "nowhere.png"}), "there is nothing at nowhere.png"),
        (dict(want="image", given={"text": "seventeen"}), "'text' of 9 frames: the vocabulary has room for 1 to 6"),
        (dict(want="image", given={"text": ""}), "'text' of 0 frames"),
        (dict(want="image", given={"text": "@nowhere.txt"}), "the text nowhere.txt cannot be read: No such file"),
        (dict(want="image", count=2, given=[{"text": "one"}]), "1 conditions for 2 samples"),
        (dict(want="image", count=-1), "count -1"),
        (dict(want="image", draw=Draw(guidance=2)), "guidance 2 without a condition"),
    ],
)
def test_mistakes_are_answered_with_their_values(options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        everything().generate(**options)


def test_a_prompt_that_is_too_long_for_the_context():
    made = speaking(tokenizer(PICTURE), tokenizer(TEXT), context=24)
    with pytest.raises(
        UserError, match=r"10 given ids and 18 of 'image', a sequence of 28 ids: this prior's context is 24"
    ):
        made.generate("image", given={"label": "1", "text": "twotw"})
    assert len(made.generate("image", given={"text": "two"})) == 1


def test_tokenizers_that_are_not_the_priors():
    prior, own = everything().prior, everything().tokenizers
    with pytest.raises(UserError, match="with tokenizers of image: its prior speaks audio, image, text"):
        Generator(prior, {"image": own["image"]}, LABELS)
    other = tokenizer(PICTURE, quantizer={"codebook_size": 9})
    with pytest.raises(UserError, match=r"the tokenizer of 'image' has codes of the tokenizer \w+, and the 'image'"):
        Generator(prior, {**own, "image": other}, LABELS)
    with pytest.raises(UserError, match="2 names of labels for a prior that has 3"):
        Generator(prior, own, LABELS[:2])


def test_tokenizers_stay_as_they_are():
    fresh = tokenizer(PICTURE)
    assert fresh.training
    made = speaking(fresh)
    made.tokenizers["image"].train()
    assert not fresh.training and not any(weight.requires_grad for weight in fresh.parameters())


# On disk


def test_what_was_saved_generates_the_same(saved):
    made = everything()
    for folder in (saved, saved / "prior"):
        again = Generator.load(folder)
        assert again.labels == LABELS and again.prior.context == 80
        for want in ("image", "audio", "text"):
            assert equal(made.generate(want, 3, given={"label": "2"}), again.generate(want, 3, given={"label": "2"}))
    names = {str(file.relative_to(saved / "prior")) for file in (saved / "prior").rglob("*.json")}
    assert names >= {"config.json", "vocabulary.json", "tokenizers/image/config.json", "tokenizers/text/config.json"}


def test_tied_weights_are_written_once(saved):
    made = everything()
    assert made.prior.head is made.prior.ids and "head.weight" not in own_weights(made.prior)
    again = Generator.load(saved).prior
    assert again.head is again.ids and torch.equal(again.head.weight, made.prior.head.weight)


def test_what_is_loaded_stays_as_it_is_whatever_train_is_called_on(saved):
    made = Generator.load(saved)
    before = {name: made.tokenizers[name].fingerprint() for name in made.tokenizers}
    assert not made.prior.training
    for module in (made.prior, *made.tokenizers.values()):
        module.train()
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(module.training for each in made.tokenizers.values() for module in each.modules())
    assert equal(made.generate("image", 2), everything().generate("image", 2)), "not even dropout comes back"
    assert before == {name: made.tokenizers[name].fingerprint() for name in made.tokenizers}


def test_a_folder_is_replaced_whole_or_not_at_all(saved, monkeypatch):
    def fails(self, folder):
        raise RuntimeError("no room")

    before = sorted(saved.rglob("*"))
    monkeypatch.setattr(vqmm.Tokenizer, "save", fails)
    with pytest.raises(RuntimeError, match="no room"):
        everything().save(saved / "prior")
    assert sorted(saved.rglob("*")) == before
    Generator.load(saved)


def test_a_missing_plugin_is_named(saved):
    empty = Registry()
    for kind in ("modality", "quantizer", "decoder"):
        empty.offers[kind] = REGISTRY.offers[kind]
    with pytest.raises(UserError, match=r"no prior is called 'transformer'.*--plugin"):
        Generator.load(saved, empty)
    empty.offers["prior"] = REGISTRY.offers["prior"]
    empty.offers["modality"] = {k: v for k, v in REGISTRY.offers["modality"].items() if k != "audio"}
    with pytest.raises(UserError, match="no modality is called 'audio'"):
        Generator.load(saved, empty)


def change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-5])


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


DAMAGE = {
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json is damaged"),
    "config lacks": (lambda f: change(f / "config.json", context="x"), "config.json is damaged: it lacks context"),
    "prior without name": (lambda f: change(f / "config.json", prior={}), "it lacks prior.name"),
    "another format": (lambda f: change(f / "config.json", format=2), "has the format 2"),
    "an option": (lambda f: change(f / "config.json", prior={"name": "transformer", "with": 1}), "no such option"),
    "another prior": (
        lambda f: change(f / "config.json", prior={"name": "transformer", "width": 32, "depth": 1}),
        "does not fit the prior 'transformer'",
    ),
    "weights cut": (lambda f: cut_short(f / "prior.safetensors"), "prior.safetensors is damaged or of another version"),
    "a bit": (lambda f: flip(f / "prior.safetensors"), "its content is not what was saved"),
    "vocabulary": (lambda f: (f / "vocabulary.json").write_text("{}"), "vocabulary.json is damaged"),
    "a tokenizer gone": (lambda f: shutil.rmtree(f / "tokenizers" / "image"), "image holds no tokenizer"),
    "a tokenizer changed": (lambda f: flip(f / "tokenizers" / "image" / "model.safetensors"), "was changed after"),
    "labels": (lambda f: change(f / "config.json", labels=["0"]), "1 names of labels for a prior that has 3"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(saved, name):
    damage, said = DAMAGE[name]
    damage(saved / "prior")
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        Generator.load(saved)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_vocabulary_is_refused(saved):
    tokenizer(PICTURE, quantizer={"codebook_size": 9}).save(saved / "prior" / "tokenizers" / "image")
    with pytest.raises(UserError, match="and the 'image' of this prior is of"):
        Generator.load(saved)


def test_a_folder_without_a_prior(tmp_path):
    with pytest.raises(UserError, match="holds no prior: give the folder of a run made by vqmm prior"):
        Generator.load(tmp_path)
