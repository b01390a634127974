"""Tokenizer: there and back, staying as it is, and the folder it lives in."""

import json

import pytest
import torch

import vqmm
from vqmm.registry import Registry

REGISTRY = Registry.discover()


def make(quantizer="vector", labels=(), conditional=False, **options):
    torch.manual_seed(0)
    config = {
        "modality": {"name": "image", "width": 16, "size": 16, "channels": 1},
        "quantizer": {"name": quantizer, "dim": 8, **options},
        "decoder": {"name": "direct"},
    }
    found, chosen = REGISTRY.part("modality", config["modality"])
    return vqmm.Tokenizer.build(config, found(chosen), REGISTRY, labels, conditional, [16, 16])


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return vqmm.Batch(torch.rand(3, 1, 16, 16) * 2 - 1, ("a", "b", "c"), label=torch.tensor([0, 1, 0]))


def test_samples_of_any_size_come_back_at_their_own(batch):
    tokenizer = make()
    odd = tokenizer.modality.collate([torch.rand(1, 13, 16), torch.rand(1, 5, 9)], ["x", "y"])
    codes = tokenizer.encode(odd)
    assert codes.size.tolist() == [[13, 16], [5, 9]]
    assert [tuple(sample.shape) for sample in tokenizer.decode(codes)] == [(1, 13, 16), (1, 5, 9)]


def test_codes_of_a_sample_are_the_same_alone_and_beside_a_larger_one():
    tokenizer = make(codebook_size=64)
    small, large = torch.rand(1, 9, 6) * 2 - 1, torch.rand(1, 20, 16) * 2 - 1
    alone = tokenizer.encode(tokenizer.modality.collate([small], ["s"]))
    beside = tokenizer.encode(tokenizer.modality.collate([small, large], ["s", "l"]))
    assert torch.equal(beside.maps[0][:1, :, :3, :2], alone.maps[0])
    torch.testing.assert_close(tokenizer.decode(beside)[0], tokenizer.decode(alone)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quantizer", ["none", "gaussian"])
def test_a_bottleneck_without_codes_refuses_to_encode_and_still_reconstructs(quantizer, batch):
    tokenizer = make(quantizer)
    with pytest.raises(vqmm.UserError, match=f"'{quantizer}' has no codes"):
        tokenizer.encode(batch)
    samples, codes = tokenizer.reconstruct(batch)
    assert codes is None and samples[0].shape == (1, 16, 16)


def test_only_a_bottleneck_with_a_prior_of_its_own_can_be_sampled():
    first, second = (make("gaussian").sample(2, seed=5) for _ in range(2))
    assert first[0].shape == (1, 16, 16) and all(map(torch.equal, first, second))
    with pytest.raises(vqmm.UserError, match="'vector' cannot be sampled by itself"):
        make().sample(1)


def test_a_label_reaches_the_decoder_and_not_the_codes(batch):
    tokenizer = make(labels=["x", "y"], conditional=True)
    other = vqmm.Batch(batch.x, batch.key, label=1 - batch.label)
    codes, others = tokenizer.encode(batch), tokenizer.encode(other)
    assert torch.equal(codes.maps[0], others.maps[0])
    assert not torch.equal(tokenizer.decode(codes)[0], tokenizer.decode(others)[0])
    with pytest.raises(vqmm.UserError, match="these samples: no label is given, and the decoder needs one"):
        tokenizer.reconstruct(vqmm.Batch(batch.x, batch.key))


def test_a_loaded_tokenizer_never_moves(batch, tmp_path):
    """Promise 5: whatever train() is called on."""
    make().save(tmp_path / "t")
    tokenizer = vqmm.Tokenizer.load(tmp_path / "t", REGISTRY)
    before = tokenizer.fingerprint()
    around = torch.nn.ModuleList([tokenizer]).train()
    with torch.enable_grad():
        output = tokenizer(batch)
    assert not output.loss.requires_grad and not around[0].training
    tokenizer.quantizer.after_step(lambda value: value, 0.5)
    assert tokenizer.fingerprint() == before
    assert tokenizer.unfreeze().train().training


def test_encode_keeps_the_training_modes_it_found(batch):
    tokenizer = make().train()
    tokenizer.decoder.eval()
    tokenizer.encode(batch)
    assert tokenizer.encoder.training and not tokenizer.decoder.training


def test_fine_tuning_the_decoder_leaves_the_code_fingerprint(batch):
    tokenizer = make()
    codes, whole = tokenizer.code_fingerprint(), tokenizer.fingerprint()
    with torch.no_grad():
        next(tokenizer.decoder.parameters()).add_(1)
    assert tokenizer.code_fingerprint() == codes and tokenizer.fingerprint() != whole
    with torch.no_grad():
        tokenizer.quantizer.codebook.add_(1)
    assert tokenizer.code_fingerprint() != codes


def test_an_option_that_came_later_changes_no_older_fingerprint(tmp_path):
    """A tokenizer that was saved without it loads as before, under the same names."""
    Image = REGISTRY.modality("image")
    assert {"shift", "affine"} <= Image.Options.added and not {"shift", "affine"} & Image.Options().to_config().keys()
    assert Image.Options(shift=2).to_config()["shift"] == 2 and Image.Options().to_config()["flip"] is True
    tokenizer = make()
    tokenizer.save(tmp_path / "t")
    assert "shift" not in json.loads((tmp_path / "t" / "config.json").read_text())["modality"]
    again = vqmm.Tokenizer.load(tmp_path / "t", REGISTRY)
    assert again.modality.options.shift == 0 and again.fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("lfq", ["assign", "degree", "refinement"]),
        ("bsq", ["assign", "degree", "refinement", "radius"]),
        ("simvq", ["matrix", "width", "falloff"]),
    ],
)
def test_a_quantizer_saved_before_it_had_an_option_loads(name, later):
    """As it was written then: with every option that there was, and the weights that there were."""
    kind = REGISTRY.offers["quantizer"][name]
    first = kind.Options(codebook_size=16, dim=8, commitment=0.02)
    assert not set(later) & first.to_config().keys()
    again = kind.Options(**first.to_config())
    assert again.to_config() == first.to_config()
    made = kind(again)
    assert made.map.weight.shape == (8, 8) if name == "simvq" else "project_in.weight" in made.state_dict()


def test_the_folder_holds_no_pickle_and_says_what_it_is(tmp_path):
    tokenizer = make()
    tokenizer.save(tmp_path / "t")
    assert sorted(file.name for file in (tmp_path / "t").iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    assert config["modality"]["name"] == "image" and config["code_fingerprint"] == tokenizer.code_fingerprint()
    assert list(tmp_path.iterdir()) == [tmp_path / "t"], "no temporary folder is left behind"


def test_saving_again_replaces_the_folder(tmp_path):
    first = make()
    first.save(tmp_path / "t")
    with torch.no_grad():
        next(first.parameters()).add_(1)
    first.save(tmp_path / "t")
    assert vqmm.Tokenizer.load(tmp_path / "t", REGISTRY).fingerprint() == first.fingerprint()
    assert list(tmp_path.iterdir()) == [tmp_path / "t"]


def damage_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_one_weight(folder):
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)


def name_a_missing_plugin(folder):
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"image"', '"hologram"'))


def name_an_unknown_class(folder):
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"Tokenizer"', '"Tokeniser"'))


def name_a_list_as_class(folder):
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"Tokenizer"', '["Tokenizer"]'))


def cut_the_config(folder):
    file = folder / "config.json"
    file.write_text(file.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_weights, "model.safetensors is damaged"),
        (damage_one_weight, "was changed after it was saved"),
        (name_a_missing_plugin, "no modality is called 'hologram'. There is: audio, image"),
        (cut_the_config, "config.json is damaged"),
        (name_an_unknown_class, "class 'Tokeniser' is none of Tokenizer, NoiseGenerator"),
        (name_a_list_as_class, "class \\['Tokenizer'\\] is none of Tokenizer, NoiseGenerator"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no tokenizer"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(damage, said, tmp_path):
    make().save(tmp_path / "t")
    damage(tmp_path / "t")
    with pytest.raises(vqmm.UserError, match=said) as caught:
        vqmm.Tokenizer.load(tmp_path / "t", REGISTRY)
    assert "\n" not in str(caught.value)
