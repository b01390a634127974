"""Sound on disk: which files there are, and one as a tensor."""

import io
import math
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data import archive
from vqmm.data.archive import Archive, inside_archive, is_archive, open_archive
from vqmm.data.folder import Entry, Kind, csv_entries, folder_entries, sorted_out
from vqmm.plugins.audio.containers import check_whole
from vqmm.plugins.audio.extra import needed
from vqmm.plugins.audio.loudness import loudness_lufs
from vqmm.plugins.audio.resampling import resampled
from vqmm.utils.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")  # libsndfile's names: nothing else is taken
SOUNDS = Kind("sound file", SUFFIXES, "; an archive is given by its own name")
FULL = 32768  # int16 / FULL is a float in [-1, 1), here and wherever sound is read or written
PEAK = 0.9  # what loudness "peak" brings the largest value to: -0.9 dBFS
TARGET_LUFS = -23.0  # EBU R 128
BLOCK = 2**17  # frames decoded at once
SPARE = {"MP3": 2304}  # frames that may be missing: MP3 counts in blocks of 1,152, with a delay at both ends
UNKNOWN_LENGTH = 2**62  # what libsndfile says is longer where a header (of a FLAC written to a pipe) does not tell
NOT_SOUND = "not a WAV, FLAC, Ogg, Opus or MP3 file, or too damaged to tell"

Read = Callable[[], Tensor]


@dataclass(frozen=True)
class SoundReading:
    """How files are brought to samples.

    Attributes:
        sample_rate_hz: what is recorded at another rate is resampled.
        channels: 1 or 2.
        mix: bring other numbers of channels to that, by their mean, repeated for two; else such files are unreadable.
        loudness: "peak" brings the largest value of each file to 0.9; "loudness" brings each file to -23 LUFS, or to a
            largest value of 0.9 where that comes first.
        label: a regular expression, looked for in each key: the label is its first group, or all that it matches.
        test: a regular expression: keys that hold it are the test split, all others are trained on.

        insist: refuse a place where an expression finds nothing: a mistake in data to be trained on, and none in
            whatever a trained model is given.

    Both expressions win over what folders and lists say. Keys are written as on disk, with `/` between folders.
    """

    sample_rate_hz: int
    channels: int
    mix: bool = True
    loudness: Literal["as is", "peak", "loudness"] = "as is"
    label: str | None = None
    test: str | None = None
    insist: bool = True

    def __post_init__(self) -> None:
        for name, expression in (("label", self.label), ("test", self.test)):
            try:
                re.compile(expression or "")
            except re.error as error:
                raise UserError(f"modality.{name}: {expression!r} is not a regular expression: {error}") from None


# Which sounds there are


def sound_samples(path: Path, reading: SoundReading) -> Iterator[Sample]:
    """One sound file, a folder of them (recursive), an archive, or a CSV that lists them.

    Folders inside an archive tell label and split as they do on disk, but those that hold everything do not count
    (`recordings/` in `recordings/cats/1.wav`); keys keep them. A path in a CSV may lead into an archive:
    `sounds.tar.bz2/recordings/1.wav`.

    Raises:
        UserError: nothing of that kind there; an expression of `reading` that matches none of the keys of a folder,
            list or archive.
    """
    entries = list(_found(path, reading))
    keys = [entry.key for entry, _ in entries]
    labels = None if reading.label is None else _matches(keys, "label", reading.label, reading.insist)
    tests = None if reading.test is None else _matches(keys, "test", reading.test, reading.insist)
    for i, (entry, read) in enumerate(entries):
        label = entry.label if labels is None else _label(labels[i])
        split = entry.split if tests is None else "test" if tests[i] else "train"
        yield Sample(entry.key, read, label, split)


def _found(path: Path, reading: SoundReading) -> Iterator[tuple[Entry, Read]]:
    suffix = path.suffix.lower()
    if path.is_dir():
        for entry in folder_entries(path, SOUNDS):
            yield entry, partial(read_sound, entry.path, reading)
    elif is_archive(path):
        yield from _archive_entries(path, reading)
    elif suffix == ".csv":
        yield from _listed_entries(path, reading)
    elif suffix in SUFFIXES:
        yield Entry(path.name, path), partial(read_sound, path, reading)
    else:
        raise UserError(
            f"{path} is no sound file: take a file {', '.join(SUFFIXES)}, a folder of them, a CSV that lists them, or "
            f"an archive {', '.join(archive.SUFFIXES)}"
        )


def _archive_entries(path: Path, reading: SoundReading) -> Iterator[tuple[Entry, Read]]:
    opened = open_archive(path, SUFFIXES)
    if not opened.names:
        raise UserError(f"{path} holds no sound file: looked in it for {', '.join(SUFFIXES)}")
    for name, (label, split) in zip(opened.names, sorted_out(_below_common(opened.names)), strict=True):
        yield Entry(name, path / name, label, split), partial(_read_member, opened, name, reading)


def _below_common(names: Sequence[str]) -> list[str]:
    """The names without the folders that all of them lie in."""
    parts = [name.split("/") for name in names]
    common = 0
    while all(len(segments) > common + 1 and segments[common] == parts[0][common] for segments in parts):
        common += 1
    return ["/".join(segments[common:]) for segments in parts]


def _listed_entries(path: Path, reading: SoundReading) -> Iterator[tuple[Entry, Read]]:
    opened: dict[Path, Archive] = {}

    def exists(file: Path) -> bool:
        inside = inside_archive(file)
        if inside is None:
            return file.exists() or file.is_symlink()  # a link that leads nowhere is damage of one file
        where, name = inside
        if where not in opened:
            opened[where] = open_archive(where, SUFFIXES)
        return name in opened[where]

    for entry in csv_entries(path, SOUNDS, exists):
        inside = inside_archive(entry.path)
        if inside is None:
            yield entry, partial(read_sound, entry.path, reading)
        else:
            yield entry, partial(_read_member, opened[inside[0]], inside[1], reading)


def _matches(keys: Sequence[str], name: str, expression: str, insist: bool) -> list[re.Match[str] | None]:
    matches = [re.search(expression, key) for key in keys]
    if insist and not any(matches):
        raise UserError(f"modality.{name}: {expression!r} matches none of {len(keys)} keys, such as {keys[0]!r}")
    return matches


def _label(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    return match.group(1 if match.re.groups else 0) or None


# One sound


def _read_member(opened: Archive, name: str, reading: SoundReading) -> Tensor:
    full_name = f"{opened.path}/{name}"
    try:
        data = opened.read(name)
    except Exception as error:  # damaged bytes make decompressors raise all kinds
        raise _unreadable(full_name, error) from None
    return read_sound(data, reading, full_name)


def read_sound(source: Path | bytes, reading: SoundReading, name: str | None = None) -> Tensor:
    """int16 (channels, T): a file, or the bytes of one, at the rate and channels of `reading`.

    Decoded in float32 by libsndfile, whatever the name says. Channels are mixed before resampling. Values are rounded,
    and what is over full scale after that is clamped. Memory: the result (with two channels, twice) and a few blocks.

    Args:
        name: what errors call it.

    Raises:
        Unreadable: not a sound file, or cut short; no frames; values that are NaN or infinite; silence; channels that
            do not fit without `mix`.
        UserError: soundfile or torchaudio is missing.
    """
    needed("soundfile")
    default_name = str(source) if isinstance(source, Path) else "sound"
    try:
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise OSError("not a file")  # a folder; or a pipe, which would be waited for
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            return _read(file, reading)
    except UserError:
        raise
    except Exception as error:  # damaged bytes make decoders raise all kinds
        raise _unreadable(name or default_name, error) from None


def _read(file: BinaryIO, reading: SoundReading) -> Tensor:
    check_whole(file)
    gain = _gain(file, reading)
    values = bytearray()  # grows where it is; tensors kept until the end would pin the memory of blocks between them
    for block in _blocks(file, reading):
        values += to_int16(block * gain).T.contiguous().numpy().data
    sound = torch.frombuffer(values, dtype=torch.int16).view(-1, reading.channels).T.contiguous()
    if not sound.any():
        raise ValueError("silent: every value is 0")
    return sound


def _blocks(file: BinaryIO, reading: SoundReading) -> Iterator[Tensor]:
    """Floats (channels, n) at the wanted rate, block by block."""
    file.seek(0)
    opened = needed("soundfile").SoundFile(file)
    if opened.format not in FORMATS:
        raise ValueError(NOT_SOUND)
    _check_channels(opened.channels, reading)
    blocks = (_mixed(frames, reading.channels) for frames in _decoded(opened))
    same = opened.samplerate == reading.sample_rate_hz
    return blocks if same else resampled(blocks, opened.samplerate, reading.sample_rate_hz)


def _decoded(opened: Any) -> Iterator[Tensor]:
    """Floats (C, n), at most BLOCK frames at a time; ValueError where there are fewer than promised, or not finite."""
    count, failed = 0, ""
    opened.seekable = lambda: False  # else soundfile seeks after each read: slow, and not possible in every stream
    with opened:
        while True:
            try:
                frames = torch.from_numpy(opened.read(BLOCK, dtype="float32", always_2d=True)).T
            except needed("soundfile").LibsndfileError as error:
                failed = f" ({error.error_string})"
                break
            if not frames.shape[1]:
                break
            if not frames.isfinite().all():
                raise ValueError(f"{int((~frames.isfinite()).sum())} of its values are NaN or infinite")
            count += frames.shape[1]
            yield frames
        promised = opened.frames if opened.frames < UNKNOWN_LENGTH else count
    if failed or promised - count > SPARE.get(opened.format, 0):
        raise ValueError(f"cut short or damaged: it promises {promised} frames, and {count} can be read{failed}")
    if not count:
        raise ValueError("holds no frames of sound")


def _check_channels(channels: int, reading: SoundReading) -> None:
    if channels == reading.channels or reading.mix:
        return
    instead = f", or modality.channels={channels}" if channels in (1, 2) else ""
    raise ValueError(
        f"it has {_counted(channels)}, and modality.channels is {reading.channels}: set modality.mix=true to bring it "
        f"to {_counted(reading.channels)}{instead}"
    )


def _counted(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _mixed(frames: Tensor, channels: int) -> Tensor:
    if len(frames) == channels:
        return frames
    return frames.mean(0, keepdim=True).expand(channels, -1)


# Loudness


def _gain(file: BinaryIO, reading: SoundReading) -> float:
    """What every value is to be multiplied by. Reads the file once, unless it is 1 anyway."""
    if reading.loudness == "as is":
        return 1.0
    peak = 0.0

    def watched() -> Iterator[Tensor]:
        nonlocal peak
        for block in _blocks(file, reading):
            peak = max(peak, float(block.abs().max()))
            yield block

    if reading.loudness == "peak":
        for _ in watched():
            pass
        gain = math.inf
    else:
        gain = 10 ** ((TARGET_LUFS - loudness_lufs(watched(), reading.sample_rate_hz)) / 20)
    if peak * FULL < 0.5:
        raise ValueError("silent: every value is 0 at 16 bits")
    return min(gain, PEAK / peak)


# To disk


def to_int16(sound: Tensor) -> Tensor:
    """Floats in [-1, 1] -> int16, rounded (a half to the even number) and clamped."""
    return (sound * FULL).round_().clamp_(-FULL, FULL - 1).to(torch.int16)


def as_written(sample: Tensor) -> Tensor:
    """What `write_sound` and `read_sound` would give back, as floats: (C, T), multiples of 1 / 32768."""
    return to_int16(_finite(sample)).float() / FULL


def write_sound(sample: Tensor, path: Path, sample_rate_hz: int) -> Path:
    """Floats (C, T) as a 16-bit WAV file; `path` has no suffix yet. Returns the file.

    Raises:
        UserError: values that are NaN or infinite.
    """
    soundfile = needed("soundfile")
    file = path.with_name(path.name + ".wav")
    values = to_int16(_finite(sample)).T.contiguous().numpy()
    with file.open("wb") as opened:
        soundfile.write(opened, values, sample_rate_hz, format="WAV", subtype="PCM_16")
    return file


def _finite(sample: Tensor) -> Tensor:
    sample = sample.detach().cpu().float()
    if not sample.isfinite().all():
        wrong = int((~sample.isfinite()).sum())
        raise UserError(f"{wrong} of {sample.numel()} values of a sound are NaN or infinite: it cannot be written")
    return sample


# Errors


def _unreadable(name: str, error: Exception) -> Unreadable:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if type(error).__name__ == "LibsndfileError":
        reason = NOT_SOUND
    message = " ".join(f"{name}: {reason}".split())
    return Unreadable(message.encode(errors="backslashreplace").decode())
