"""Encoder and decoder of a bare `nn.Sequential`, as plugins may return them: trained, encoded, and not streamed."""

import numpy as np
import pytest
import torch
from torch import nn

import vqmm
from tests.lines import Line, noise
from vqmm.nn.network import as_network
from vqmm.registry import Registry
from vqmm.tokenizer import long_signals
from vqmm.tokenizer.inputs import may_pad
from vqmm.tokenizer.long_signals import decode_long, encode_long

PLUGIN = """
from torch import nn
import vqmm
from tests.lines import Line

@vqmm.hookimpl
def register_modalities(register):
    register(Bare)

class Bare(Line):
    name = "bare"

    def build_encoder(self, dim):
        return nn.Sequential(nn.Conv1d(1, dim, 12, 12), nn.SiLU(), nn.Conv1d(dim, dim, 1))

    def build_decoder(self, dim):
        return nn.Sequential(nn.SiLU(), nn.ConvTranspose1d(dim, 1, 12, 12))
"""
SETTINGS = ["quantizer.dim=8", "quantizer.codebook_size=16", "train.batch_size=4", "train.device=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer, and the folder of data and the plugin that it came from."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "bare.py").write_text(PLUGIN)
    (folder / "data").mkdir()
    for number in range(12):
        np.save(folder / "data" / f"{number:02}.npy", noise(40 + number, seed=number).numpy())
    plugins = [str(folder / "bare.py")]
    vqmm.train(
        "bare", folder / "data", folder / "run", steps=4, settings=SETTINGS, plugins=plugins, quiet=True, report=False
    )
    return vqmm.Tokenizer.load(folder / "run", Registry.discover(plugins)), folder, plugins


def test_it_trains_and_keeps_the_names_of_its_weights(trained):
    tokenizer, _, _ = trained
    assert type(tokenizer.encoder) is nn.Sequential and type(tokenizer.decoder.network) is nn.Sequential
    names = {name for name in tokenizer.state_dict() if not name.startswith("quantizer")}
    assert {"encoder.0.weight", "encoder.2.bias", "decoder.network.1.weight"} <= names and len(names) == 6
    assert as_network(tokenizer.encoder).receptive_field is None


def test_it_encodes_and_decodes(trained, tmp_path):
    _, folder, plugins = trained
    said = vqmm.encode(folder / "run", [folder / "data"], tmp_path / "tokens", plugins=plugins)
    assert said["samples"] == 12 and said["codes"] == sum(-(-(40 + number) // 12) for number in range(12))
    vqmm.decode(folder / "run", tmp_path / "tokens", tmp_path / "out", plugins=plugins)
    assert np.load(next(iter(sorted((tmp_path / "out").rglob("*.npy"))))).shape == (1, 40)


def test_lines_of_several_lengths_go_through_alone_and_whole(trained, monkeypatch):
    """Nothing is known of how far it sees, nor that it skips padding."""
    tokenizer, _, _ = trained
    assert not may_pad(tokenizer)
    batch = tokenizer.modality.collate([noise(600)], ["long"])
    lengths = []
    hook = tokenizer.encoder.register_forward_hook(lambda module, given, output: lengths.append(given[0].shape[2]))
    monkeypatch.setattr(long_signals, "PIECE_VALUES", 24)
    codes = encode_long(tokenizer, batch)
    hook.remove()
    assert lengths == [600]
    assert torch.equal(codes.maps[0], tokenizer.encode(batch).maps[0])
    (output,) = decode_long(tokenizer, codes)
    assert output.shape == (1, 600)


def test_it_does_not_stream_and_says_why(trained):
    tokenizer, _, _ = trained
    with pytest.raises(vqmm.UserError, match=r"the encoder of this tokenizer \(Sequential\) needs a sample as a whole"):
        vqmm.StreamingEncoder(tokenizer)
    with pytest.raises(vqmm.UserError, match=r"the decoder of this tokenizer \(Sequential\) needs a sample as a whole"):
        vqmm.StreamingDecoder(tokenizer)


def test_a_module_within_the_modality_contract(trained):
    _, _, plugins = trained
    from vqmm.testing import check_modality

    bare = Registry.discover(plugins).modality("bare")
    assert issubclass(bare, Line)
    check_modality(bare)
