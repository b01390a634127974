"""Sound on disk: every format, rate and number of channels; folders, lists and archives; damage of every kind."""

import io
import os
import pickle
import sys
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Unreadable
from vqmm.data.loader import Views, training_batches
from vqmm.plugins.audio import files
from vqmm.plugins.audio.files import SoundReading, as_written, read_sound, sound_samples, to_int16, write_sound
from vqmm.plugins.audio.loudness import loudness_lufs
from vqmm.plugins.audio.resampling import _resampler, resampled
from vqmm.utils.errors import UserError

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
torchaudio = pytest.importorskip("torchaudio", reason="the extra `audio` is not installed")

RATE = 16000
AS_IS = SoundReading(RATE, 1)
WRITERS = {  # name -> format, subtype, exact
    "wav": ("WAV", "PCM_16", True),
    "wide.wav": ("WAVEX", "PCM_24", True),
    "float.wav": ("WAV", "FLOAT", True),
    "rf64.wav": ("RF64", "PCM_16", True),
    "flac": ("FLAC", "PCM_16", True),
    "ogg": ("OGG", "VORBIS", False),
    "opus": ("OGG", "OPUS", False),
    "mp3": ("MP3", "MPEG_LAYER_III", False),
}


def sine(hz=440.0, seconds=1.0, rate=RATE, level=0.5):
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def encoded(values, name="wav", rate=RATE):
    buffer = io.BytesIO()
    soundfile.write(buffer, values, rate, format=WRITERS[name][0], subtype=WRITERS[name][1])
    return buffer.getvalue()


SOUND = np.round((sine() + 0.02 * np.random.default_rng(0).standard_normal(RATE)) * 32768) / 32768


def refused(source, reading=AS_IS, name="x.wav"):
    with pytest.raises(Unreadable) as caught:
        read_sound(source, reading, name)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(f"{name}: ") and len(said) > len(name) + 2
    return said


def found(path, reading=AS_IS):
    return [(sample.key, sample.label, sample.split) for sample in sound_samples(path, reading)]


def mistaken(path, reading=AS_IS):
    with pytest.raises(UserError) as caught:
        list(sound_samples(path, reading))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(folder, *names):
    """Short sounds that can be told apart: number i holds i + 1 at its first place."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.full(100, 100, np.int16)
        values[0] = i + 1
        soundfile.write(folder / name, values, RATE, format="FLAC" if name.lower().endswith("flac") else "WAV")


def packed(path, folder, top=""):
    inside = sorted(file for file in folder.rglob("*") if file.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as opened:
            for file in inside:
                opened.write(file, top + file.relative_to(folder).as_posix())
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}") as opened:
            for file in inside:
                opened.add(file, top + file.relative_to(folder).as_posix())
    return path


# Formats, rates and channels


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read(name, tmp_path, capfd):
    path = tmp_path / f"a.{name}"
    path.write_bytes(encoded(SOUND, name))
    sound = read_sound(path, AS_IS)
    assert sound.dtype == torch.int16 and sound.shape == (1, RATE)
    error = np.abs(sound[0].numpy() / 32768 - SOUND)
    assert error.max() == 0 if WRITERS[name][2] else np.sqrt((error**2).mean()) < 0.03
    assert torch.equal(read_sound(path.read_bytes(), AS_IS, "a"), sound)
    assert capfd.readouterr() == ("", "")


def test_what_a_file_holds_counts_and_not_its_name(tmp_path):
    (tmp_path / "a.mp3").write_bytes(encoded(SOUND, "flac"))
    assert torch.equal(read_sound(tmp_path / "a.mp3", AS_IS)[0], torch.tensor(SOUND * 32768).short())
    buffer = io.BytesIO()
    soundfile.write(buffer, SOUND, RATE, format="AIFF")
    assert "not a WAV, FLAC, Ogg, Opus or MP3 file" in refused(buffer.getvalue())


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "mp3"])
def test_blocks_make_no_difference(name, monkeypatch, capfd):
    data = encoded(np.tile(SOUND, 3), name)
    for reading in (AS_IS, SoundReading(11025, 1)):
        whole = read_sound(data, reading)
        with monkeypatch.context() as patch:
            patch.setattr(files, "BLOCK", 1013)
            in_blocks = read_sound(data, reading)
        assert in_blocks.shape == whole.shape and (in_blocks.int() - whole.int()).abs().max() <= 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("old", "new", "count"), [(44100, 16000, 9000), (8000, 16000, 777), (16000, 8000, 777), (48000, 44100, 5000)]
)
def test_resampling_in_blocks_is_resampling_the_whole(old, new, count):
    sound = torch.randn(2, count) * 0.2
    whole = _resampler(old, new)[0](sound)
    assert whole.shape[1] == -(-count * new // old)
    for size in (1, 250, 1000, count):
        joined = torch.cat(list(resampled(iter(sound.split(size, 1)), old, new)), 1)
        assert joined.shape == whole.shape and (joined - whole).abs().max() < 1e-6


def test_resampling_keeps_what_fits_and_nothing_else():
    for hz, kept in ((440, True), (3500, True), (4200, False), (7900, False)):
        sound = read_sound(encoded(sine(hz)), SoundReading(8000, 1)) if kept else None
        if sound is None:  # what is above the new Nyquist frequency is gone, and does not fold back
            sound = read_sound(encoded(sine(hz) + sine(440, level=0.1)), SoundReading(8000, 1))
        expected = sine(hz, rate=8000) if kept else sine(440, rate=8000, level=0.1)
        assert np.abs(sound[0].numpy() / 32768 - expected)[400:-400].max() < 3e-4, hz
    assert "rate of 11127 Hz has too little in common with modality.sample_rate_hz=16000" in refused(
        encoded(sine(), rate=11127)
    )
    assert read_sound(encoded(np.array([0.5]), rate=48000), SoundReading(8000, 1)).shape == (1, 1)


def test_channels_are_mixed_repeated_or_refused():
    left, right = np.full(50, 0.5), np.full(50, -0.25)
    two, one, six = np.stack([left, right], 1), left, np.stack([left] * 3 + [right] * 3, 1)
    mean = torch.full((1, 50), 4096, dtype=torch.int16)
    assert torch.equal(read_sound(encoded(two), AS_IS), mean)
    kept = read_sound(encoded(two), SoundReading(RATE, 2, mix=False))
    assert kept.shape == (2, 50) and kept[:, 7].tolist() == [16384, -8192] and kept.is_contiguous()
    assert torch.equal(read_sound(encoded(one), SoundReading(RATE, 2)), torch.full((2, 50), 16384, dtype=torch.int16))
    assert torch.equal(read_sound(encoded(six), SoundReading(RATE, 2)), mean.repeat(2, 1))
    said = refused(encoded(two), SoundReading(RATE, 1, mix=False))
    assert said == (
        "x.wav: it has 2 channels, and modality.channels is 1: set modality.mix=true to bring it to 1 channel, or "
        "modality.channels=2"
    )
    assert "has 1 channel, and modality.channels is 2" in refused(encoded(one), SoundReading(RATE, 2, mix=False))
    assert refused(encoded(six), SoundReading(RATE, 1, mix=False)).endswith("to bring it to 1 channel")


# Loudness


def test_peaks_are_brought_to_nine_tenths():
    for level in (0.001, 0.3, 1.0):
        sound = read_sound(encoded(sine(level=level), "float.wav"), SoundReading(RATE, 1, loudness="peak"))
        assert abs(sound.abs().max().item() / 32768 - 0.9) < 1e-3
    over = encoded(sine(level=3.0), "float.wav")
    assert read_sound(over, AS_IS).max() == 32767 and read_sound(over, AS_IS).min() == -32768
    assert read_sound(over, SoundReading(RATE, 1, loudness="peak")).max() < 29_500


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_loudness_is_that_of_bs_1770(rate):
    """997 Hz at full scale in one channel is -3.01 LKFS at 48 kHz; filters made for other rates differ a little."""
    full = torch.tensor(sine(997, 3, rate, 1.0), dtype=torch.float32)[None]
    assert loudness_lufs(iter([full]), rate) == pytest.approx(-3.01, abs=0.2)
    assert loudness_lufs(iter(full.split(999, 1)), rate) == pytest.approx(loudness_lufs(iter([full]), rate), abs=1e-3)
    assert loudness_lufs(iter([full.repeat(2, 1)]), rate) == pytest.approx(0, abs=0.2)  # two channels: 3 dB more
    half = torch.cat([full * 0.1, torch.zeros(1, 20 * rate), full[:, :rate] * 0.001], 1)
    assert loudness_lufs(iter([half]), rate) == pytest.approx(-23.1, abs=0.6)  # pauses and whispers do not count
    known = torchaudio.functional.loudness(half * 0.9, rate)
    assert loudness_lufs(iter([half * 0.9]), rate) == pytest.approx(float(known), abs=0.05)
    assert loudness_lufs(iter([full * 1e-6]), rate) == -70


def test_sounds_are_brought_to_one_loudness():
    how = SoundReading(RATE, 1, loudness="loudness")
    for level, seconds in ((0.02, 3), (0.9, 3), (0.5, 0.25), (0.3, 0.011)):
        sound = read_sound(encoded(sine(997, seconds, level=level)), how).float() / 32768
        assert loudness_lufs(iter([sound]), RATE) == pytest.approx(-23, abs=0.1)
    click = np.zeros(RATE)
    click[5000] = 0.5  # to be as loud as that it would have to clip
    assert read_sound(encoded(click), how).max().item() == pytest.approx(0.9 * 32768, abs=2)
    hum = read_sound(encoded(sine(level=1e-4, seconds=2), "float.wav"), how)
    assert 500 < hum.max().item() < 900  # under the gate: raised by 47 dB and no more


# Damage


@pytest.mark.parametrize("name", WRITERS)
def test_files_cut_short_are_unreadable(name):
    whole = encoded(np.tile(SOUND, 4), name)
    right = read_sound(whole, AS_IS)
    may_lack = 2304 if name == "mp3" else 0  # its header counts blocks of 1,152, so less than two of them can hide
    refusals = 0
    for length in [*range(0, len(whole) - 1, len(whole) // 60), len(whole) - 1]:
        try:
            sound = read_sound(whole[:length], AS_IS)
            assert right.shape[1] - sound.shape[1] <= may_lack, f"{length} of {len(whole)} bytes"
            assert torch.equal(sound[:, :-1152], right[:, : sound.shape[1] - 1152])
        except Unreadable as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals >= 58


def test_what_is_missing_is_told():
    sound = np.tile(SOUND, 4)
    assert refused(encoded(SOUND)[:20_000]) == (
        "x.wav: cut short: its header promises 32000 bytes of sound, and there are 19956"
    )
    assert "cut short or damaged: it promises 64000 frames, and " in refused(encoded(sound, "flac")[:50_000])
    for name in ("ogg", "opus"):
        whole = encoded(sound, name)
        for length in (len(whole) * 3 // 4, whole.rfind(b"OggS")):  # within a page, and between two
            assert "the last page of the Ogg stream is missing" in refused(whole[:length])
    assert "cut short or damaged: it promises 64000 frames" in refused(encoded(sound, "mp3")[:9_000])


def test_changed_bytes_are_read_or_unreadable():
    generator = np.random.default_rng(1)
    for name in ("wav", "rf64.wav", "flac", "ogg", "opus"):
        whole = encoded(SOUND[:6000], name)
        for _ in range(60):
            damaged = np.frombuffer(whole, np.uint8).copy()
            damaged[generator.integers(min(len(damaged), 600), size=3)] = generator.integers(256, size=3)
            try:
                assert read_sound(damaged.tobytes(), AS_IS).shape[0] == 1
            except Unreadable as error:
                assert "\n" not in str(error)


def test_lengths_that_a_pipe_did_not_know_are_no_damage():
    right = torch.tensor(SOUND * 32768).short()[None]
    for size in (0xFFFFFFFF, 0x7FFFF000, 0x80000000):
        data = bytearray(encoded(SOUND))
        data[4:8] = data[40:44] = size.to_bytes(4, "little")
        assert torch.equal(read_sound(bytes(data), AS_IS), right)
    data = bytearray(encoded(SOUND, "flac"))
    data[21] &= 0xF0  # the 36 bits that hold the number of frames
    data[22:26] = bytes(4)
    assert torch.equal(read_sound(bytes(data), AS_IS), right)
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    assert "promises 68719476735 frames, and 16000 can be read" in refused(bytes(data))


@pytest.mark.parametrize("loudness", ["as is", "peak", "loudness"])
def test_nothing_to_hear_is_unreadable(loudness):
    reading = SoundReading(RATE, 1, loudness=loudness)
    assert "silent: every value is 0" in refused(encoded(np.zeros(5000)), reading)
    assert "silent: every value is 0" in refused(encoded(np.full(5000, 1e-6), "float.wav"), reading)
    assert "silent" in refused(encoded(np.stack([SOUND, -SOUND], 1)), reading)  # the mean of both channels
    assert "holds no frames of sound" in refused(encoded(SOUND[:0]), reading)
    for wrong in (np.nan, np.inf):
        values = SOUND.copy()
        values[[7, 9000]] = wrong
        assert "2 of its values are NaN or infinite" in refused(encoded(values, "float.wav"), reading)


def test_what_is_no_sound_is_unreadable(tmp_path):
    generator = np.random.default_rng(0)
    for i, content in enumerate([b"", b"\0", b"hello", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3\4\0\0\0\0\0\0"]):
        (tmp_path / f"{i}.wav").write_bytes(content)
    for i in range(20):
        (tmp_path / f"noise{i}.mp3").write_bytes(generator.bytes(int(generator.integers(1, 2000))))
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for ever
    (tmp_path / "link.wav").symlink_to(tmp_path / "nowhere")
    for path in [*tmp_path.iterdir(), tmp_path / "missing.wav", tmp_path / "0.wav" / "below.wav"]:
        refused(path, name=str(path))
    odd = tmp_path / os.fsdecode(b"a\xff\nb.wav")
    odd.write_bytes(b"hello")
    with pytest.raises(Unreadable, match="not a WAV") as caught:
        read_sound(odd, AS_IS)
    assert str(caught.value).isascii() and "\n" not in str(caught.value)
    odd.write_bytes(encoded(SOUND))
    assert read_sound(odd, AS_IS).shape == (1, RATE)


# Where sounds are looked for


def test_folders_give_labels_and_splits(tmp_path):
    put(tmp_path, "train/cat/1.wav", "train/dog/1.FLAC", "test/cat/.x.wav", "test/cat/2.WAV")
    (tmp_path / "test" / "cat" / "notes.txt").write_text("no sound")
    assert found(tmp_path) == [
        ("test/cat/2.WAV", "cat", "test"),
        ("train/cat/1.wav", "cat", "train"),
        ("train/dog/1.FLAC", "dog", "train"),
    ]
    assert found(tmp_path / "train/cat/1.wav") == [("1.wav", None, None)]
    assert [sample.read()[0, 0].item() for sample in sound_samples(tmp_path, AS_IS)] == [4, 1, 2]


@pytest.mark.parametrize("kind", ["tar", "tar.bz2", "zip"])
def test_archives_give_what_folders_do(kind, tmp_path):
    put(tmp_path / "in", "train/cat/1.wav", "train/dog/1.flac", "test/cat/2.wav")
    told = [
        ("test/cat/2.wav", "cat", "test"),
        ("train/cat/1.wav", "cat", "train"),
        ("train/dog/1.flac", "dog", "train"),
    ]
    assert found(packed(tmp_path / f"flat.{kind}", tmp_path / "in")) == told
    below = packed(tmp_path / f"below.{kind}", tmp_path / "in", "sounds-1.0/recordings/")
    assert found(below) == [(f"sounds-1.0/recordings/{key}", label, split) for key, label, split in told]
    samples = list(sound_samples(below, AS_IS))
    assert [sample.read()[0, 0].item() for sample in pickle.loads(pickle.dumps(samples))] == [3, 1, 2]


def test_the_folder_that_holds_everything_is_no_label(tmp_path):
    put(tmp_path / "in", "a.wav", "b.wav")
    assert found(packed(tmp_path / "a.zip", tmp_path / "in", "recordings/")) == [
        ("recordings/a.wav", None, None),
        ("recordings/b.wav", None, None),
    ]
    put(tmp_path / "one", "cat/a.wav")
    assert found(packed(tmp_path / "b.zip", tmp_path / "one")) == [("cat/a.wav", None, None)]


def test_a_list_leads_to_files_and_into_archives(tmp_path):
    put(tmp_path / "in", "a.wav", "b.wav")
    packed(tmp_path / "x.tar.bz2", tmp_path / "in", "r/")
    path = tmp_path / "list.csv"
    path.write_text("path,label,split,text\nx.tar.bz2/r/b.wav,two,test,hello\nin/a.wav,one,train,\n")
    samples = list(sound_samples(path, AS_IS))
    assert [(s.key, s.label, s.split, s.read()[0, 0].item()) for s in samples] == [
        ("x.tar.bz2/r/b.wav", "two", "test", 2),
        ("in/a.wav", "one", "train", 1),
    ]
    path.write_text("path\nx.tar.bz2/r/b.wav\nx.tar.bz2/r/c.wav\n")
    said = mistaken(path)
    assert "names 2 sound files, and 1 are missing, first" in said and "x.tar.bz2/r/c.wav (line 3)" in said


def test_expressions_give_labels_and_the_test_split(tmp_path):
    put(tmp_path, "a/3_anna_0.wav", "a/7_ben_11.wav", "b/x.wav")
    how = SoundReading(RATE, 1, label=r"(\d)_[a-z]+_\d+", test=r"_[0-4]\.wav$")
    assert found(tmp_path, how) == [
        ("a/3_anna_0.wav", "3", "test"),
        ("a/7_ben_11.wav", "7", "train"),
        ("b/x.wav", None, "train"),
    ]
    assert [label for _, label, _ in found(tmp_path, SoundReading(RATE, 1, label="anna|ben"))] == ["anna", "ben", None]
    assert [label for _, label, _ in found(tmp_path, SoundReading(RATE, 1, test="^b/"))] == ["a", "a", "b"]
    (tmp_path / "list.csv").write_text("path,label,split\na/3_anna_0.wav,three,train\na/7_ben_11.wav,seven,train\n")
    assert found(tmp_path / "list.csv", how) == [("a/3_anna_0.wav", "3", "test"), ("a/7_ben_11.wav", "7", "train")]
    with pytest.raises(UserError, match=r"matches none of 1 keys, such as 'x\.wav'"):
        found(tmp_path / "b/x.wav", how)
    assert found(tmp_path / "b/x.wav", replace(how, insist=False)) == [("x.wav", None, "train")]


def test_expressions_that_cannot_be_meant_are_refused(tmp_path):
    put(tmp_path, "a/1.wav", "a/2.wav")
    for name in ("label", "test"):
        with pytest.raises(UserError, match=rf"modality\.{name}: '\(a' is not a regular expression: missing \)"):
            SoundReading(RATE, 1, **{name: "(a"})
        said = mistaken(tmp_path, SoundReading(RATE, 1, **{name: "_0"}))
        assert said == f"modality.{name}: '_0' matches none of 2 keys, such as 'a/1.wav'"


def test_places_without_sound_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert mistaken(tmp_path).endswith("for .wav, .flac, .ogg, .opus, .mp3; an archive is given by its own name")
    assert "notes.txt is no sound file: take a file .wav, .flac" in mistaken(tmp_path / "notes.txt")
    empty = packed(tmp_path / "empty.zip", tmp_path)
    assert "holds no sound file" in mistaken(empty)
    (tmp_path / "bad.tar.gz").write_bytes(b"hello")
    assert "bad.tar.gz cannot be read as an archive: " in mistaken(tmp_path / "bad.tar.gz")


def test_a_damaged_member_is_one_unreadable_item(tmp_path):
    put(tmp_path / "in", "a.wav", "b.wav")
    path = packed(tmp_path / "x.zip", tmp_path / "in")
    data = bytearray(path.read_bytes())
    data[data.find(b"RIFF") + 60] ^= 1  # the zip's own check sum finds it
    path.write_bytes(data)
    first, second = sound_samples(path, AS_IS)
    with pytest.raises(Unreadable, match=r"x\.zip/a\.wav: Bad CRC-32"):
        first.read()
    assert second.read()[0, 0] == 2


class Plain(Modality):
    name, rank, channels = "plain", 1, 1


@pytest.mark.parametrize("kind", ["tar", "tar.bz2", "zip"])
def test_workers_read_archives(kind, tmp_path):
    put(tmp_path / "in", *(f"{i}.wav" for i in range(12)))
    samples = list(sound_samples(packed(tmp_path / f"x.{kind}", tmp_path / "in"), AS_IS))
    samples[0].read()
    batches = training_batches(Views(Plain(), samples, {}), 4, 0, workers=2)
    seen = {key: int(x[0, 0]) for batch, _ in (next(batches) for _ in range(3)) for key, x in zip(batch.key, batch.x)}  # noqa: B905
    assert seen == {sample.key: sample.read()[0, 0].item() for sample in samples}


# To disk and back


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_is_read_back_to_the_bit(channels, tmp_path):
    sample = torch.randn(channels, 5001) * 0.5  # some of it over full scale
    sample[0, :6] = torch.tensor([0.5 / 32768, 1.5 / 32768, -0.5 / 32768, 1.0, -1.0, 2.0])
    file = write_sound(sample, tmp_path / "a.b", RATE)
    assert file == tmp_path / "a.b.wav" and soundfile.info(str(file)).subtype == "PCM_16"
    again = read_sound(file, SoundReading(RATE, channels, mix=False))
    assert torch.equal(again, to_int16(sample)) and torch.equal(again.float() / 32768, as_written(sample))
    assert again[0, :6].tolist() == [0, 2, 0, 32767, -32768, 32767]
    assert torch.equal(as_written(as_written(sample)), as_written(sample))
    assert write_sound(torch.zeros(1, 0), tmp_path / "none", RATE).stat().st_size == 44
    for wrong in (float("nan"), float("inf")):
        sample[0, 3] = wrong
        with pytest.raises(UserError, match=rf"1 of {sample.numel()} values of a sound are NaN or infinite"):
            write_sound(sample, tmp_path / "c", RATE)
    assert not (tmp_path / "c.wav").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    put(tmp_path, "a.wav")
    _resampler.cache_clear()
    for module, rate in (("soundfile", RATE), ("torchaudio", 8000)):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            (sample,) = sound_samples(tmp_path, SoundReading(rate, 1))  # finding needs neither
            with pytest.raises(UserError, match=rf'sound needs {module}, .*: pip install "vqmm\[audio\]"') as caught:
                sample.read()
            assert not isinstance(caught.value, Unreadable)
    assert sample.read().shape == (1, 50)


def test_spoken_digits(data):
    how = SoundReading(8000, 1, label=r"/(\d)_", test=r"_[0-4]\.wav$")
    digits = list(sound_samples(data / "audio" / "fsdd.tar.bz2", how))
    assert len(digits) == 2800 and {sample.label for sample in digits} == set("0123456789")
    assert sum(sample.split == "test" for sample in digits) == 300
    assert all(sample.read().shape[1] > 1000 for sample in digits[::40])


def test_clips(data):
    clips = list(sound_samples(data / "audio" / "clips16k.tar.bz2", AS_IS))
    assert {sample.label for sample in clips} == {"speech", "music", "environment"}
    assert sum(sample.read().shape[1] for sample in clips) / RATE == pytest.approx(463.9, abs=0.1)
