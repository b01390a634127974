"""Long lines in pieces: what the whole gives, in flat memory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vqmm
from tests.lines import DIM, Line, exceptions, line_tokenizer, noise, peaks_of_memory
from tests.processes import SERVER
from vqmm.decoders.direct import DirectDecoder
from vqmm.decoders.wavenet import WaveNetDecoder
from vqmm.nn import ConvDecoder, ConvEncoder, Network, Stack
from vqmm.nn import receptive_field as reach
from vqmm.nn.causal import CausalConv, GatedBlock
from vqmm.nn.receptive_field import seen
from vqmm.quantizers.gaussian import GaussianQuantizer
from vqmm.quantizers.none import NoQuantizer
from vqmm.tokenizer import long_signals as chunks
from vqmm.tokenizer.long_signals import decode_long, encode_long, pieces, reconstruct_long
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import Remark

CLOSE = dict(atol=1e-5, rtol=1e-5)
RARE = 1e-3
KINDS = {
    "centred": dict(causal=False),
    "causal": dict(causal=True, channels=2, activation="elu"),
    "recurrent": dict(causal=True, bottleneck="lstm"),
}


class Plain(Line):
    """A line with the networks that a modality gets when it brings none."""

    channels = 1

    @property
    def strides(self):
        return (8,)

    def build_encoder(self, dim):
        return ConvEncoder(1, 1, dim, self.strides, 16, 2, False)

    def build_decoder(self, dim):
        return ConvDecoder(1, 1, dim, self.strides, 16, 2, False)


@pytest.fixture(scope="module")
def tokenizers():
    made = {name: line_tokenizer(**options) for name, options in KINDS.items()}
    return {**made, "plain": line_tokenizer(modality=Plain())}


@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=3), at_once=st.integers(1, 700))
@pytest.mark.parametrize("name", [*KINDS, "plain"])
def test_pieces_of_any_size_are_the_whole(tokenizers, name, lengths, at_once):
    """Encoded, decoded and both at once; alone, and with padding beside a longer one."""
    tokenizer = tokenizers[name]
    samples = [noise(n, tokenizer.modality.channels, seed=n) for n in lengths]
    batch = tokenizer.modality.collate(samples, [str(n) for n in range(len(samples))])
    expected = tokenizer.encode(batch)
    decoded = tokenizer.decode(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "PIECE_VALUES", at_once)
        found = encode_long(tokenizer, batch)
        inside = slice(None) if expected.mask is None else expected.mask.unsqueeze(1).expand(-1, 3, -1)
        assert exceptions(found.maps[0][inside], expected.maps[0][inside]) <= RARE
        assert torch.equal(found.size, expected.size)
        assert (found.mask is None) == (expected.mask is None)
        again = decode_long(tokenizer, expected)
        both, of_both = reconstruct_long(tokenizer, batch)
    for mine, right in zip(again, decoded, strict=True):
        torch.testing.assert_close(mine, right, **CLOSE)
    assert torch.equal(of_both.maps[0], found.maps[0])
    assert [one.shape for one in both] == [one.shape for one in samples]


class Counting(Network):
    """Notes how long the pieces are that come in."""

    def __init__(self, network):
        super().__init__()
        self.network, self.lengths = network, []
        self.takes_mask = True

    def forward(self, x, mask=None):
        self.lengths.append(x.shape[2])
        return self.network(x, mask)


def test_a_piece_has_its_true_surroundings_and_no_more(tokenizers):
    network = tokenizers["centred"].encoder
    counting = Counting(network)
    counting.receptive_field = network.receptive_field
    x = torch.randn(1, 1, 12 * 100)
    with torch.no_grad():
        parts = [*pieces(counting, x, None, 12, 1, 40, "cpu")]
        torch.testing.assert_close(torch.cat(parts, dim=2), network(x), **CLOSE)
    around = network.receptive_field
    assert counting.lengths == [12 * (40 + around), 12 * (40 + 2 * around), 12 * (20 + around)]
    assert [part.shape[2] for part in parts] == [40, 40, 20]


def test_a_network_that_says_nothing_gets_the_whole(tokenizers):
    counting = Counting(tokenizers["centred"].encoder)
    x = torch.randn(1, 1, 12 * 100)
    [*pieces(counting, x, None, 12, 1, 5, "cpu")]
    assert counting.lengths == [1200]


@pytest.mark.parametrize("options", [dict(causal=False, bottleneck="lstm"), dict(causal=False, bottleneck="attention")])
def test_a_reach_without_limit_is_said_and_results_are_near(options, monkeypatch):
    tokenizer = line_tokenizer(**options)
    batch = tokenizer.modality.collate([noise(12 * 900)], ["one"])
    expected, _ = tokenizer.reconstruct(batch)
    monkeypatch.setattr(chunks, "PIECE_VALUES", 12 * 300)
    with pytest.warns(Remark, match="Waveform.*coder looks at the whole of a sample.* 256 codes on both sides"):
        found, codes = reconstruct_long(tokenizer, batch)
    assert (found[0] - expected[0]).square().mean() < 0.05 * expected[0].square().mean()
    assert codes.maps[0].shape == (1, 3, 900)


@pytest.mark.parametrize("bottleneck", [NoQuantizer, GaussianQuantizer])
def test_without_codes_and_with_labels(bottleneck, monkeypatch):
    torch.manual_seed(0)
    modality = Line(Line.Options(causal=False))
    quantizer = bottleneck(bottleneck.Options(dim=DIM), 1)
    tokenizer = Tokenizer(modality, quantizer, DirectDecoder(modality, DIM), ("a", "b"), conditional=True).eval()
    batch = modality.collate([noise(500), noise(300)], ["0", "1"], [1, 0])
    expected, _ = tokenizer.reconstruct(batch)
    monkeypatch.setattr(chunks, "PIECE_VALUES", 100)
    found, codes = reconstruct_long(tokenizer, batch)
    assert codes is None
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, **CLOSE)
    with pytest.raises(vqmm.UserError, match="has no codes"):
        encode_long(tokenizer, batch)


def test_a_decoder_that_draws_is_given_all_its_codes(monkeypatch):
    torch.manual_seed(0)
    modality = Line(Line.Options(causal=False))
    quantizer = line_tokenizer().quantizer
    tokenizer = Tokenizer(modality, quantizer, WaveNetDecoder(modality, DIM, WaveNetDecoder.Options(blocks=1))).eval()
    codes = tokenizer.encode(modality.collate([noise(60)], ["one"]))
    monkeypatch.setattr(chunks, "PIECE_VALUES", 24)
    assert torch.equal(decode_long(tokenizer, codes, 3)[0], tokenizer.decode(codes, 3)[0])


def test_pictures_are_not_cut(monkeypatch):
    """Only a line is: a picture that large goes through whole."""
    from vqmm.plugins.image import Image

    modality = Image(Image.Options(width=8, channels=1))
    quantizer = line_tokenizer().quantizer
    tokenizer = Tokenizer(modality, quantizer, DirectDecoder(modality, DIM)).eval()
    counting = Counting(tokenizer.encoder)
    tokenizer.encoder = counting
    monkeypatch.setattr(chunks, "PIECE_VALUES", 16)
    encode_long(tokenizer, modality.collate([torch.zeros(1, 16, 16)], ["one"]))
    assert len(counting.lengths) == 1


# Files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("long")
    line_tokenizer(causal=False).save(home / "run" / "tokenizer")
    for name, length in (("a", 5000), ("b", 777)):
        np.save(home / f"{name}.npy", (noise(length, seed=length) * 32767).to(torch.int16).numpy())
    return home


def test_files_go_there_and_back_in_pieces(run, tmp_path, monkeypatch):
    told = dict(plugins=["tests.lines"])
    results = []
    for name, at_once in (("whole", 2**17), ("pieces", 1000)):
        monkeypatch.setattr(chunks, "PIECE_VALUES", at_once)
        home = tmp_path / name
        vqmm.encode(run / "run", [run / "a.npy", run / "b.npy"], home / "tokens", **told)
        vqmm.decode(run / "run", home / "tokens", home / "out", **told)
        vqmm.reconstruct(run / "run", [run / "a.npy"], home / "again", **told)
        vqmm.compress(run / "run", run / "a.npy", home / "a.vqmm", **told)
        lower = vqmm.encode(run / "run", run / "a.npy", home / "lower", stages=2, **told)
        assert lower["codes"] == 2 * 417  # 5,000 samples, 12 a code
        vqmm.decompress(run / "run", home / "a.vqmm", home / "one.npy", **told)
        results.append([np.load(file) for file in sorted(home.rglob("*.npy"))])
        assert sorted(one.shape[1] for one in results[-1]) == [777, 5000, 5000, 5000]
    for whole, in_pieces in zip(*results, strict=True):
        np.testing.assert_allclose(in_pieces, whole, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "centred"])
def test_ten_minutes_take_little_more_memory_than_one(kind, record_property):
    """At 8 kHz ten minutes are 18 MiB in float32. What may grow is some copies of that; a single layer of the networks
    over all of it, 8 channels wide, would take 146 MiB."""
    queue = SERVER.SimpleQueue()
    process = SERVER.Process(target=peaks_of_memory, args=(kind == "causal", queue))
    process.start()
    process.join()
    assert process.exitcode == 0
    one, ten = queue.get(), queue.get()
    record_property("peak_mib", [one, ten])
    assert ten - one < 110, f"peak memory: {one} MiB for a minute, {ten} MiB for ten"


# How far networks of the core see


@pytest.mark.parametrize("stride", [(1,), (2,), (8,), (4, 2), (1, 4)])
@pytest.mark.parametrize("blocks", [0, 2])
def test_the_reach_of_the_default_networks(stride, blocks):
    torch.manual_seed(0)
    rank = len(stride)
    encoder = ConvEncoder(rank, 1, 4, stride, 8, blocks, False).double()
    decoder = ConvDecoder(rank, 1, 4, stride, 8, blocks, False).double()
    middle = max(encoder.receptive_field, decoder.receptive_field) + 1
    codes = 2 * middle + 1
    x = torch.randn(1, 1, *(codes * s for s in stride), dtype=torch.float64, requires_grad=True)
    z = torch.randn(1, 4, *(codes for _ in stride), dtype=torch.float64, requires_grad=True)
    at = (..., *(middle for _ in stride))
    (pull,) = torch.autograd.grad(encoder(x)[at].sum(), x)
    assert distance(pull, stride, middle) == encoder.receptive_field
    cell = (..., *(slice(middle * s, (middle + 1) * s) for s in stride))
    (pull,) = torch.autograd.grad((decoder(z)[cell] * torch.rand(stride, dtype=torch.float64)).sum(), z)
    assert distance(pull, (1,) * rank, middle) == decoder.receptive_field


def distance(pull, cell, middle):
    """How many cells from the middle the farthest non-zero value lies, along any axis."""
    places = pull.abs().sum(dim=(0, 1)).nonzero() // torch.tensor(cell)
    return int((places - middle).abs().max())


def test_attention_has_no_limit():
    assert (
        ConvEncoder(1, 1, 4, (4,), 8, 1, True).receptive_field == math.inf
        and ConvDecoder(2, 1, 4, (4, 4), 8, 1, True).receptive_field == math.inf
    )


def test_what_single_layers_see():
    assert seen(CausalConv(1, 1, 1, 3, dilation=2), (5, 6)) == (1, 6)
    assert seen(CausalConv(1, 1, 1, 3, mask="A"), (5, 6)) == (2, 5)
    assert seen(CausalConv(1, 1, 1, 8, stride=4), (2, 2)) == (4, 11)
    assert seen(GatedBlock(1, 4, 3, dilation=4), (9, 9)) == (1, 9)
    assert seen(nn.Conv1d(1, 1, 5, stride=2, padding=1), (3, 3)) == (5, 9)
    assert seen(nn.ConvTranspose1d(1, 1, 4, 2, padding=1), (6, 7)) == (2, 4)
    assert (
        reach.receptive_field(Stack([nn.Conv1d(1, 1, 3, padding=1), nn.SiLU(), nn.Conv1d(1, 1, 8, 4, padding=2)]), 4, 1)
        == 1
    )
    with pytest.raises(TypeError, match=r"nothing is known of GRU: derive it from vqmm.nn.Layer, with a method seen\("):
        seen(nn.Sequential(nn.GRU(2, 2)), (0, 0))
