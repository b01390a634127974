"""Sound from the command line: trained, judged, encoded at a bitrate, decoded, compressed."""

import sys

import numpy as np
import pytest

from tests.processes import Program

soundfile = pytest.importorskip("soundfile")

SMALL = (
    "modality.sample_rate_hz=8000",
    "modality.stride=80",
    "modality.seconds=0.2",
    "modality.width=16",
    "modality.blocks=1",
)
SMALL += ("quantizer.stages=2", "quantizer.codebook_size=8", "quantizer.dim=8", "train.batch_size=4")
SET = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Twenty-four tones of 0.3 s, 2,400 samples each, and one file that is none."""
    folder = tmp_path_factory.mktemp("tones")
    t = np.arange(2400) / 8000
    for i in range(24):
        soundfile.write(folder / f"{i}.wav", 0.5 * np.sin(2 * np.pi * (200 + 40 * i) * t), 8000)
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    return folder


@pytest.fixture(scope="module")
def codec(tones, tmp_path_factory):
    from vqmm.commands.train import train

    out = tmp_path_factory.mktemp("runs") / "codec"
    train("audio", tones, out, "rvq", steps=10, settings=SMALL, quiet=True)
    return out


def test_train_and_eval_name_what_they_could_not_read(vqmm, tones, codec, tmp_path):
    done = vqmm("train", "audio", "--data", tones, "--out", tmp_path / "run", "--recipe", "rvq", "--steps", 3, *SET)
    assert done.code == 0 and "broken.wav" in done.err
    told = vqmm("eval", codec, "--data", tones, "--json").json
    metrics = told["metrics"]
    expected = {"stoi", "si_sdr_db", "mel_distance", "stft_distance", "bits_per_second", "entropy_bits_per_second"}
    assert expected <= metrics.keys() <= told["rules"].keys()
    assert metrics["bits_per_second"] == pytest.approx(2 * 3 * 100)


def test_views_longer_than_every_file_are_said_to_be(tones, tmp_path):
    arguments = ["train", "audio", "--data", tones, "--out", tmp_path / "run", "--recipe", "rvq", "--steps", "1", *SET]
    with Program(*arguments, "--set", "modality.seconds=2") as program:
        code, _, err = program.ended()
    assert code == 0, err
    said = "vqmm: modality.seconds: a training view is 2 s, and the longest of all sounds 0.3 s: each is taken whole"
    assert sum(line.startswith(said) for line in err.splitlines()) == 1


def test_encoded_and_decoded_files_play_and_have_their_length(vqmm, tones, codec, tmp_path):
    assert vqmm("encode", codec, tones, "--out", tmp_path / "tokens").code == 0
    assert vqmm("decode", codec, tmp_path / "tokens", "--out", tmp_path / "back").code == 0
    assert len([*(tmp_path / "back").glob("*.wav")]) == 24
    info = soundfile.info(tmp_path / "back" / "3.wav")
    assert (info.samplerate, info.frames, info.channels, info.subtype) == (8000, 2400, 1, "PCM_16")


def test_a_bitrate_is_stages_and_one_that_is_none_is_answered(vqmm, tones, codec, tmp_path):
    told = vqmm("encode", codec, tones, "--out", tmp_path / "low", "--bitrate-kbps", 0.5, "--json").json
    assert told["stages"] == 1 and told["bitrate_kbps"] == pytest.approx(0.3) and told["codes"] == 24 * 30
    refused = vqmm("encode", codec, tones, "--out", tmp_path / "lower", "--bitrate-kbps", 0.1)
    assert refused.code == 2 and "0.3" in refused.err and not (tmp_path / "lower").exists()


def test_compress_and_decompress(vqmm, tones, codec, tmp_path):
    assert vqmm("compress", codec, tones / "3.wav", "--out", tmp_path / "3.vqmm").code == 0
    assert vqmm("decompress", codec, tmp_path / "3.vqmm", "--out", tmp_path / "three").code == 0
    back, rate = soundfile.read(tmp_path / "three.wav", dtype="int16")
    vqmm("encode", codec, tones / "3.wav", "--out", tmp_path / "tokens")
    vqmm("decode", codec, tmp_path / "tokens", "--out", tmp_path / "back")
    assert rate == 8000 and np.array_equal(back, soundfile.read(tmp_path / "back" / "3.wav", dtype="int16")[0])


WITHOUT = {  # what is typed after the name of the run
    "eval": ("--data", "nowhere"),
    "encode": ("nowhere", "--out", "OUT"),
    "decode": ("nowhere", "--out", "OUT"),
    "reconstruct": ("nowhere", "--out", "OUT"),
    "compress": ("nowhere", "--out", "OUT"),
    "decompress": ("nowhere", "--out", "OUT"),
}


@pytest.mark.parametrize("library", ["torchaudio", "soundfile", "pystoi"])
@pytest.mark.parametrize("verb", WITHOUT)
def test_a_library_that_does_not_load_is_said_before_anything_is_read(
    vqmm, codec, tmp_path, monkeypatch, verb, library
):
    monkeypatch.setitem(sys.modules, library, None)
    said = vqmm.refuses(verb, codec, *(tmp_path / "out" if word == "OUT" else word for word in WITHOUT[verb]))
    assert said.startswith(
        f"vqmm: the modality 'audio' needs {library}, which is not installed: pip install \"vqmm[audio]"
    )
    assert not list(tmp_path.iterdir())
