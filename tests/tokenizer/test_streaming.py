"""Chunks of any length give the codes and samples of the whole; what cannot stream says why."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import vqmm
from tests.fakes import TwoMaps
from tests.lines import DIM, Line, exceptions, line_tokenizer, noise
from vqmm.decoders.direct import DirectDecoder
from vqmm.decoders.wavenet import WaveNetDecoder
from vqmm.nn import Network, as_network
from vqmm.plugins.image import Image
from vqmm.quantizers.none import NoQuantizer
from vqmm.quantizers.vector import VectorQuantizer
from vqmm.tokenizer import long_signals
from vqmm.tokenizer.streaming import Stream, StreamingDecoder, StreamingEncoder
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError

CODE = 12  # samples of one
CLOSE = dict(atol=1e-5, rtol=1e-5)
RARE = 1e-3  # of the codes may differ, where two are equally near but for rounding


@pytest.fixture(scope="module")
def tokenizer():
    return line_tokenizer()


@pytest.fixture(scope="module")
def recurrent():
    return line_tokenizer(bottleneck="lstm", activation="elu", channels=2, strides=(2, 2, 3))


def stream_codes(tokenizer, samples, sizes, stages=None):
    """Codes of chunks of these sizes, the last the rest: (stages, t), and the size that the encoder says."""
    encoder = StreamingEncoder(tokenizer, stages)
    parts = [encoder.push(part) for part in samples.split([*sizes, samples.shape[1] - sum(sizes)], dim=1)]
    return torch.cat([*parts, encoder.flush()], dim=1), encoder.size


def whole_codes(tokenizer, samples, stages=None):
    return tokenizer.encode(tokenizer.modality.collate([samples], ["one"]), stages)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), max_size=8),
    rest=st.integers(0, 40),
    stages=st.sampled_from([None, 1, 2]),
    lstm=st.booleans(),
)
@example(sizes=[1] * 25, rest=0, stages=None, lstm=False)
@example(sizes=[], rest=5, stages=None, lstm=True)
@example(sizes=[0, 24, 0], rest=0, stages=None, lstm=False)
def test_chunks_of_any_length_are_the_whole(tokenizer, recurrent, sizes, rest, stages, lstm):
    tokenizer = recurrent if lstm else tokenizer
    samples = noise(sum(sizes) + rest, tokenizer.modality.channels)
    found, size = stream_codes(tokenizer, samples, sizes, stages)
    assert size == samples.shape[1] and found.shape == (stages or 3, -(-size // CODE)) and found.dtype == torch.int64
    if not size:
        return
    whole = whole_codes(tokenizer, samples, stages)
    assert exceptions(found, whole.maps[0][0].long()) <= RARE
    decoder = StreamingDecoder(tokenizer)
    *first, last = found.split(1 + len(sizes), dim=1)
    parts = [*(decoder.push(part) for part in first), decoder.flush(last, size)]
    (expected,) = tokenizer.decode(vqmm.Codes((found.unsqueeze(0),), torch.tensor([[size]])))
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, **CLOSE)
    assert decoder.size == size


def test_one_sample_gives_the_same_codes_alone_among_64_and_in_chunks(recurrent, record_property):
    """Counted over 64 samples of 30 to 93 codes, three stages each."""
    samples = [noise(360 + 12 * i - i % 12, 2, seed=i) for i in range(64)]
    together = recurrent.encode(recurrent.modality.collate(samples, [str(i) for i in range(64)]))
    wrong = dict(batch=0, chunks=0)
    total = 0
    for i, sample in enumerate(samples):
        alone = whole_codes(recurrent, sample).maps[0][0].long()
        chunks, _ = stream_codes(recurrent, sample, [7, 100, 1, 0, 50])
        wrong["batch"] += int((together.maps[0][i, :, : alone.shape[1]] != alone).sum())
        wrong["chunks"] += int((chunks != alone).sum())
        total += alone.numel()
    record_property("exceptions", f"{wrong} of {total}")
    assert total > 10_000 and max(wrong.values()) <= RARE * total, f"{wrong} of {total} codes differ"


def test_codes_come_as_soon_as_they_are_known(tokenizer):
    encoder = StreamingEncoder(tokenizer)
    assert encoder.latency_samples == CODE and StreamingDecoder(tokenizer).latency_samples == 0
    counts = [encoder.push(noise(1)).shape[1] for _ in range(2 * CODE)]
    assert counts == [*[0] * (CODE - 1), 1] * 2
    assert encoder.flush().shape == (3, 0)


def test_integer_samples_are_brought_to_the_range_of_the_batch(tokenizer):
    samples = (noise(100) * 32767).to(torch.int16)
    found, _ = stream_codes(tokenizer, samples, [13, 40])
    assert exceptions(found, whole_codes(tokenizer, samples).maps[0][0].long()) <= RARE
    encoder = StreamingEncoder(tokenizer)
    encoder.push(samples[:, :3])
    with pytest.raises(UserError, match=r"torch.float32 after torch.int16"):
        encoder.push(noise(3))


def test_a_caller_may_fill_the_same_buffer_again(tokenizer):
    samples, buffer, encoder = noise(70), torch.zeros(1, 7), StreamingEncoder(tokenizer)
    parts = []
    for chunk in samples.split(7, dim=1):
        buffer.copy_(chunk)
        parts.append(encoder.push(buffer))
    found = torch.cat([*parts, encoder.flush()], dim=1)
    assert exceptions(found, whole_codes(tokenizer, samples).maps[0][0].long()) <= RARE


def test_nothing_moves_and_nothing_is_kept_for_a_gradient():
    tokenizer = line_tokenizer(dropout=1.0)  # in training fewer stages would be used
    tokenizer.train()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    found, size = stream_codes(tokenizer, noise(200), [50])
    decoder = StreamingDecoder(tokenizer)
    parts = [decoder.push(found[:, :4]), decoder.flush(found[:, 4:], size)]
    assert tokenizer.training and all(module.training for module in tokenizer.modules())
    assert not any(part.requires_grad for part in parts)
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    assert exceptions(found, whole_codes(tokenizer.eval(), noise(200)).maps[0][0].long()) <= RARE


def test_the_stream_ends_where_the_sample_ended(tokenizer):
    codes, size = stream_codes(tokenizer, noise(50), [])
    decoder = StreamingDecoder(tokenizer)
    assert decoder.push(codes[:, :4]).shape == (1, 48)
    with pytest.raises(ValueError, match="size 47: 48 samples were given already, and the codes end at 60"):
        StreamingDecoder.flush(decoder, codes[:, 4:], 47)
    decoder = StreamingDecoder(tokenizer)
    decoder.push(codes[:, :4])
    assert decoder.flush(codes[:, 4:], size).shape == (1, 2)
    with pytest.raises(ValueError, match="codes end at 60"):
        StreamingDecoder(tokenizer).flush(codes, 61)
    assert StreamingDecoder(tokenizer).flush(codes).shape == (1, 60)
    assert StreamingDecoder(tokenizer).flush().shape == (1, 0)


def test_a_stream_that_ended_takes_no_more(tokenizer):
    encoder, decoder = StreamingEncoder(tokenizer), StreamingDecoder(tokenizer)
    encoder.flush(), decoder.flush()
    with pytest.raises(ValueError, match="has ended"):
        encoder.push(noise(3))
    with pytest.raises(ValueError, match="has ended"):
        decoder.push(torch.zeros(3, 1, dtype=torch.int64))


def test_a_decoder_that_is_told_labels():
    tokenizer = line_tokenizer(labels=("bass", "drum"))
    codes, size = stream_codes(tokenizer, noise(70), [])
    of_whole = vqmm.Codes((codes.unsqueeze(0),), torch.tensor([[size]]), label=torch.tensor([1]))
    (expected,) = tokenizer.decode(of_whole)
    torch.testing.assert_close(StreamingDecoder(tokenizer, "drum").flush(codes, size), expected, **CLOSE)
    with pytest.raises(UserError, match="this stream: no label is given, and the decoder needs one"):
        StreamingDecoder(tokenizer)
    with pytest.raises(UserError, match=r"this stream: no label is called 'drums'.* Did you mean 'drum'"):
        StreamingDecoder(tokenizer, "drums")


class Late(Network):
    """Each output is made of the present cell and the `ahead` next ones. Steps give it that many cells late. What
    follows the end is nothing, which differs from a silent sample."""

    takes_mask = causal = True

    def __init__(self, channels, outputs, cell, ahead, up):
        super().__init__()
        self.cell, self.ahead, self.up, self.lookahead = cell, ahead, up, ahead * cell
        size = channels if up else channels * cell
        self.mix = nn.Conv1d(size, outputs * cell if up else outputs, ahead + 1)

    def cells(self, x, mask):
        x = x + 0.25
        x = x if mask is None else torch.where(mask.unsqueeze(1), x, 0)
        return x if self.up else x.unflatten(2, (-1, self.cell)).transpose(2, 3).flatten(1, 2)

    def out(self, cells):
        y = self.mix(cells)
        return y.unflatten(1, (-1, self.cell)).transpose(2, 3).flatten(2) if self.up else y

    def forward(self, x, mask=None):
        return self.out(F.pad(self.cells(x, mask), (0, self.ahead)))

    def start(self, batch):
        return self.mix.weight.new_zeros(batch, self.mix.in_channels, self.ahead)

    def step(self, x, position, state, mask=None):
        line = torch.cat([state, self.cells(x, mask)], dim=2)
        return self.out(line), line[:, :, line.shape[2] - self.ahead :]


class Ahead(Line):
    """A line whose networks wait for the next two codes."""

    def build_encoder(self, dim):
        return Late(1, dim, CODE, 2, up=False)

    def build_decoder(self, dim):
        return Late(dim, 1, CODE, 2, up=True)


@pytest.mark.parametrize("length", [1, 12, 25, 200])
@pytest.mark.parametrize("sizes", [[], [1], [5, 0, 12, 3]])
def test_networks_that_look_ahead_come_late_and_in_place(length, sizes):
    tokenizer = line_tokenizer(modality=Ahead())
    samples = noise(length)
    sizes = sizes if sum(sizes) <= length else []
    encoder = StreamingEncoder(tokenizer)
    assert encoder.latency_samples == 3 * CODE
    found, _ = stream_codes(tokenizer, samples, sizes)
    assert exceptions(found, whole_codes(tokenizer, samples).maps[0][0].long()) <= RARE
    decoder = StreamingDecoder(tokenizer)
    assert decoder.latency_samples == 2 * CODE
    parts = [*(decoder.push(code) for code in found.split(1, dim=1)), decoder.flush(size=length)]
    (expected,) = tokenizer.decode(vqmm.Codes((found.unsqueeze(0),), torch.tensor([[length]])))
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, **CLOSE)
    assert [part.shape[1] for part in parts[:-1]] == [*[0] * 2, *[CODE] * len(parts)][: len(parts) - 1]


def test_a_lookahead_that_is_no_whole_number_of_codes():
    network = Late(1, DIM, CODE, 1, up=False)
    network.lookahead = 7
    with pytest.raises(ValueError, match="7 samples are no multiple of the 12 of a code"):
        Stream(network, CODE, 1)


class Soft(Line):
    """A line whose outputs can be brought softly into the range of samples."""

    def output_activation(self, output):
        return output.tanh()


@pytest.mark.parametrize("modality", [Soft(), type("SoftAhead", (Soft, Ahead), {})()], ids=["prompt", "late"])
def test_outputs_are_bounded_in_streams_and_pieces_as_in_the_whole(modality, monkeypatch):
    torch.manual_seed(0)
    decoder = DirectDecoder(modality, DIM, DirectDecoder.Options(bounded=True))
    tokenizer = Tokenizer(modality, vectors(), decoder).eval()
    codes = torch.randint(16, (1, 20))
    whole = vqmm.Codes((codes[None],), torch.tensor([[20 * CODE]]))
    (expected,) = tokenizer.decode(whole)
    assert expected.abs().max() > 0.3, "loud enough for what is bounded to differ from what is not"
    stream = StreamingDecoder(tokenizer)
    torch.testing.assert_close(
        torch.cat([stream.push(codes[:, :7]), stream.flush(codes[:, 7:])], dim=1), expected, **CLOSE
    )
    monkeypatch.setattr(long_signals, "PIECE_VALUES", 60)
    (pieced,) = long_signals.decode_long(tokenizer, whole)
    torch.testing.assert_close(pieced, expected, **CLOSE)


def made(modality, quantizer, decoder=DirectDecoder):
    return Tokenizer(modality, quantizer, decoder(modality, DIM))


def vectors(rank=1):
    return VectorQuantizer(VectorQuantizer.Options(dim=DIM, codebook_size=16), rank)


def refused():
    line = Line()
    yield made(Image(Image.Options(width=8)), vectors(2)), "image has 2 axes"
    yield made(line, NoQuantizer(NoQuantizer.Options(dim=DIM), 1)), "has no codes"
    yield made(line, TwoMaps(TwoMaps.Options(dim=DIM), 1)), "2 maps of codes"
    centred = Line(Line.Options(causal=False))
    yield made(centred, vectors()), r"coder of this tokenizer \(Waveform\w+coder\) needs a sample as a whole"


@pytest.mark.parametrize("number", range(4))
def test_what_cannot_stream_says_why(number):
    tokenizer, said = [*refused()][number]
    for kind in (StreamingEncoder, StreamingDecoder):
        with pytest.raises(UserError, match=said):
            kind(tokenizer)


def test_a_decoder_that_draws_does_not_stream(tokenizer):
    drawing = made(Line(), vectors(), WaveNetDecoder)
    with pytest.raises(UserError, match="'wavenet' does not stream"):
        StreamingDecoder(drawing)
    StreamingEncoder(drawing)  # its encoder does


def test_wrong_samples_codes_and_stages(tokenizer):
    encoder, decoder = StreamingEncoder(tokenizer), StreamingDecoder(tokenizer)
    for wrong in (torch.zeros(2, 10), torch.zeros(10), torch.zeros(1, 1, 10)):
        with pytest.raises(UserError, match=r"a chunk of line is \(1, T\)"):
            encoder.push(wrong)
    with pytest.raises(UserError, match="samples 0 to 12 of the stream are not all finite"):
        encoder.push(torch.full((1, 12), float("nan")))
    assert encoder.size == 0 and encoder.push(noise(12)).shape == (3, 1)
    with pytest.raises(UserError, match="9 stages"):
        StreamingEncoder(tokenizer, 9)
    for wrong in (torch.zeros(3, 2), torch.zeros(4, 2).long(), torch.zeros(0, 2).long(), torch.zeros(3).long()):
        with pytest.raises(UserError, match="integers"):
            decoder.push(wrong)
    for wrong in (-1, 32):
        with pytest.raises(
            UserError, match=f"a chunk: codes from {wrong} to {wrong} in stage 1, where the codebook has 0 to 31"
        ):
            decoder.push(torch.tensor([[0], [wrong]]))


def test_which_networks_step(tokenizer):
    assert as_network(tokenizer.encoder).causal and as_network(tokenizer.decoder.network).causal
    assert not as_network(nn.Conv1d(1, 1, 1)).causal and not as_network(line_tokenizer(causal=False).encoder).causal
