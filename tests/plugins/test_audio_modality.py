"""The audio modality: its options, views, batches and networks."""

import pytest
import torch

import vqmm
from vqmm.plugins.audio import Audio
from vqmm.testing import check_modality
from vqmm.tokenizer import long_signals as chunks
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError

RATE = 8000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"channels": 2, "stride": 7, "window": 2, "envelope_weight": 1.0},
        {"network": "waveform", "blocks": 1, "width": 16},
        {"network": "waveform", "blocks": 2, "width": 16, "causal": True, "bottleneck": "lstm", "activation": "snake"},
        {"network": "waveform", "blocks": 1, "width": 16, "bottleneck": "attention", "weight_norm": False},
    ],
    ids=str,
)
def test_every_kind_of_network_keeps_the_promises(options):
    torch.manual_seed(0)
    check_modality(Audio(Audio.Options(**options)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stride": 0}, "modality.stride: 0 must be a number, at least 1"),
        ({"stride": ()}, r"modality.stride: \(\) must be"),
        ({"stride": (4, 0)}, r"modality.stride: \(4, 0\)"),
        ({"seconds": 0.001}, r"16 samples, a code spans 160 \(stride\): take 0.01 s or more"),
        ({"waveform_weight": 0, "mel_weight": 0, "envelope_weight": 0}, "are all 0: nothing to learn from"),
        ({"network": "waveform", "causal": True, "bottleneck": "attention"}, "attention looks ahead"),
        ({"label": "("}, "is not a regular expression"),
        ({"bottleneck": "lstm"}, "bottleneck: the spectral networks have no such option: .* modality.network=waveform"),
        ({"network": "waveform", "window": 2}, "window: the waveform networks have no such option: .*=spectral"),
        ({"attention": True}, "attention: the spectral networks have no such option: .*bottleneck=attention"),
    ],
)
def test_options_that_cannot_be_get_one_line(options, said):
    with pytest.raises(UserError, match=said) as caught:
        Audio(Audio.Options(**options))
    assert "\n" not in str(caught.value)


def test_a_stride_is_a_number_or_one_for_each_level():
    assert Audio(Audio.Options(stride=80)).strides == Audio(Audio.Options(stride=(2, 4, 5, 2))).strides == (80,)
    assert Audio(Audio.Options(stride=60)).levels_of_stride == (2, 2, 3, 5)
    assert Audio(Audio.Options(stride=(5, 4))).levels_of_stride == (5, 4)
    assert Audio(Audio.Options(stride=1)).levels_of_stride == ()


def test_views_are_random_stretches_in_training_and_the_beginning_in_evaluation():
    audio = Audio(Audio.Options(sample_rate_hz=RATE, stride=80, seconds=0.1, longest_seconds=0.5))
    sound = torch.arange(8000, dtype=torch.int16)[None]
    first, again, other = (audio.crop(sound, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (1, 800) and torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(audio.crop(sound, None), sound[:, :4000])
    assert audio.crop(sound[:, :300], torch.Generator()).shape == (1, 300)  # shorter than a view: taken whole
    assert audio.evaluation().size_in_units(torch.zeros(1, 4000)) == 0.5 and "first 0.5 s" in audio.evaluation().view


def test_a_batch_is_floats_padded_to_whole_codes():
    audio = Audio(Audio.Options(sample_rate_hz=RATE, stride=80))
    long, short = torch.full((1, 200), -32768, dtype=torch.int16), torch.full((1, 90), 16384, dtype=torch.int16)
    batch = audio.collate([long, short], ["long", "short"])
    assert batch.x.shape == (2, 1, 240) and batch.size.tolist() == [[200], [90]]
    assert batch.x[0, 0, 0] == -1 and batch.x[1, 0, 0] == 0.5 and batch.x[1, 0, 90:].abs().sum() == 0


def test_the_same_sound_gives_the_same_codes_alone_and_in_a_batch_of_64():
    torch.manual_seed(0)
    audio = Audio(Audio.Options(sample_rate_hz=RATE, stride=40, width=16, blocks=2))
    registry = vqmm.Registry.discover()
    config = {"quantizer": {"name": "residual", "dim": 8, "stages": 4}, "decoder": {"name": "direct"}}
    tokenizer = Tokenizer.build(config, audio, registry)
    lengths = torch.randint(200, 2000, (64,)).tolist()
    sounds = [torch.rand(1, length) * 2 - 1 for length in lengths]
    with torch.no_grad():
        tokenizer.quantizer.initialise(tokenizer.latents(audio.collate(sounds, [""] * 64))[0])
    together = tokenizer.encode(audio.collate(sounds, [str(i) for i in range(64)])).maps[0]
    different = total = 0
    for i, sound in enumerate(sounds):
        alone = tokenizer.encode(audio.collate([sound], ["one"])).maps[0][0]
        different += int((together[i, :, : alone.shape[1]] != alone).sum())
        total += alone.numel()
    assert total > 5000 and different == 0, f"{different} of {total} codes differ"


def test_a_trained_tokenizer_is_given_sounds_that_are_not_named_as_its_training_data(tmp_path):
    audio = Audio(Audio.Options(sample_rate_hz=RATE, stride=80, label="speaker-([a-z]+)"))
    file = audio.write(tone(440, 0.1) / 32_768, tmp_path / "somebody")
    with pytest.raises(UserError, match="speaker-"):
        list(audio.samples(file))
    audio.trained = True
    (sample,) = audio.samples(file)
    assert sample.label is None


def trained(causal, network="spectral", **options):
    """An untrained tokenizer whose codes were drawn from latents, so that many are used."""
    torch.manual_seed(0)
    audio = Audio(
        Audio.Options(sample_rate_hz=RATE, stride=40, width=16, blocks=2, causal=causal, network=network, **options)
    )
    config = {
        "quantizer": {"name": "residual", "dim": 8, "stages": 3, "codebook_size": 32},
        "decoder": {"name": "direct"},
    }
    tokenizer = Tokenizer.build(config, audio, vqmm.Registry.discover())
    noise = audio.collate([torch.rand(1, 40 * 400) * 2 - 1], ["noise"])
    with torch.no_grad():
        tokenizer.quantizer.initialise(tokenizer.latents(noise)[0])
    return tokenizer.freeze()


@pytest.mark.parametrize("network", ["spectral", "waveform"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_long_sound_in_pieces_gives_the_codes_and_samples_of_the_whole(causal, network, monkeypatch):
    tokenizer = trained(causal, network)
    sound = torch.rand(1, 40 * 300 - 17) * 2 - 1
    batch = tokenizer.modality.collate([sound], ["long"])
    whole = tokenizer.encode(batch)
    monkeypatch.setattr(chunks, "PIECE_VALUES", 40 * 50)
    codes = chunks.encode_long(tokenizer, batch)
    assert int((codes.maps[0] != whole.maps[0]).sum()) == 0
    (expected,) = tokenizer.decode(whole)
    (found,) = chunks.decode_long(tokenizer, codes)
    assert found.shape == sound.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", ["spectral", "waveform"])
def test_a_causal_tokenizer_streams_and_the_joined_result_is_the_whole(network):
    tokenizer = trained(True, network)
    sound = torch.rand(1, 40 * 100 - 17) * 2 - 1
    encoder, decoder = vqmm.StreamingEncoder(tokenizer), vqmm.StreamingDecoder(tokenizer)
    codes = [encoder.push(chunk) for chunk in sound.split([1, 700, 39, 41, 0, 1500, 1702], dim=1)]
    last = encoder.flush()
    played = [decoder.push(some) for some in codes] + [decoder.flush(last, encoder.size)]
    whole = tokenizer.encode(tokenizer.modality.collate([sound], ["whole"]))
    assert torch.equal(torch.cat([*codes, last], dim=1), whole.maps[0][0])
    torch.testing.assert_close(torch.cat(played, dim=1), tokenizer.decode(whole)[0], atol=1e-5, rtol=0)
    assert encoder.latency_samples + decoder.latency_samples == 40  # 5 ms at 8 kHz


def tone(hz, seconds):
    return (torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * RATE)) / RATE) * 20_000).round().short()[None]


def loudest_hz(sound):
    spectrum = torch.fft.rfft(sound[0, 200:-200].float() * torch.hann_window(sound.shape[1] - 400)).abs()
    return int(spectrum.argmax()) * RATE / (sound.shape[1] - 400)


def test_varied_sounds_begin_later_by_less_than_a_code():
    audio = Audio(Audio.Options(sample_rate_hz=RATE, stride=80))
    sound, late = tone(440, 0.1), set()
    for seed in range(400):
        found = audio.augment(sound, torch.Generator().manual_seed(seed))
        extra = found.shape[1] - sound.shape[1]
        late.add(extra)
        assert torch.equal(found[:, extra:], sound) and not found[:, :extra].any() and found.dtype == torch.int16
    assert audio.augments and min(late) == 0 and max(late) == 79 and len(late) > 70


def test_sounds_of_another_speed_are_shorter_and_higher_or_longer_and_lower():
    audio = Audio(Audio.Options(sample_rate_hz=RATE, stride=1, speed=0.2, seconds=0.5))
    sound, ratios = tone(440, 1.0), set()
    for seed in range(60):
        found = audio.augment(sound, torch.Generator().manual_seed(seed))
        assert found.dtype == torch.int16
        ratios.add(ratio := round(RATE / found.shape[1], 2))
        assert loudest_hz(found) == pytest.approx(440 * ratio, abs=2)
        floats = audio.augment(sound / 32_768, torch.Generator().manual_seed(seed))
        assert torch.allclose(floats * 32_768, found.float(), atol=0.51)
    assert 0.8 <= min(ratios) < 0.85 and 1.15 < max(ratios) <= 1.2
    assert audio.crop(sound, torch.Generator()).shape == (1, RATE // 2)  # a training view stays as long as it was
    assert torch.equal(audio.crop(sound, None), sound)
