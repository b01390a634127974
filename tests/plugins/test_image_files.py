"""Pictures on disk: every format and mode, folders and CSV files, and damage of every kind."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageFile

from vqmm.contracts.sample import Unreadable
from vqmm.plugins.image import Image, files

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRADIENT = np.stack([*np.meshgrid(np.arange(40) * 5, np.arange(24) * 9, indexing="ij"), np.full((40, 24), 90)], -1)
SCENE = (GRADIENT + np.random.default_rng(0).integers(0, 9, GRADIENT.shape)).astype(np.uint8)
GOOD = Pillow.fromarray(SCENE)
WRITERS = {  # name -> what Pillow's save takes
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95},
    "progressive.jpg": {"format": "JPEG", "quality": 95, "progressive": True},
    "webp": {"format": "WEBP", "quality": 95},
    "lossless.webp": {"format": "WEBP", "lossless": True},
    "bmp": {"format": "BMP"},
}


def read(path, channels=3):
    return files.read_picture(path, channels)


def pixels(path, channels=3):
    return read(path, channels).movedim(0, -1).numpy()


def mode(path):
    with Pillow.open(path) as picture:
        return picture.mode


def encoded(picture, **how):
    buffer = io.BytesIO()
    picture.save(buffer, **how)
    return buffer.getvalue()


def raw_png(array, depth, kind):
    """A PNG as the format's page describes it, since Pillow writes no 16-bit colour."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# Formats and modes


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read(name, tmp_path):
    path = tmp_path / f"a.{name}"
    path.write_bytes(encoded(GOOD, **WRITERS[name]))
    found = pixels(path)
    assert found.dtype == np.uint8 and found.shape == (40, 24, 3)
    lossless = name in ("png", "bmp", "lossless.webp")
    assert np.abs(found.astype(int) - SCENE).max() <= (0 if lossless else 20)


def test_what_a_file_holds_counts_and_not_its_name(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(GOOD, format="PNG"))
    assert np.array_equal(pixels(tmp_path / "a.jpg"), SCENE)
    (tmp_path / "b.png").write_bytes(encoded(GOOD, format="GIF"))
    with pytest.raises(Unreadable, match=r"b\.png: not a PNG, JPEG, WebP or BMP"):
        read(tmp_path / "b.png")


def test_colour_and_gray_into_each_other(tmp_path):
    Pillow.fromarray(RGB).save(tmp_path / "rgb.png")
    luma = (RGB @ np.array([0.299, 0.587, 0.114])).round()
    assert np.abs(pixels(tmp_path / "rgb.png", 1)[..., 0] - luma).max() <= 1
    assert np.array_equal(pixels(tmp_path / "rgb.png", 4), np.dstack([RGB, np.full((5, 7), 255, np.uint8)]))
    gray = RGB[..., 0]
    Pillow.fromarray(gray).save(tmp_path / "gray.png")
    assert np.array_equal(pixels(tmp_path / "gray.png", 1)[..., 0], gray)
    assert np.array_equal(pixels(tmp_path / "gray.png", 3), np.dstack([gray] * 3))
    Pillow.fromarray(gray > 127).save(tmp_path / "bits.png")
    assert mode(tmp_path / "bits.png") == "1"
    assert np.array_equal(pixels(tmp_path / "bits.png", 3), np.dstack([(gray > 127) * np.uint8(255)] * 3))


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.array([[0, 255, 51]], np.uint8)
    Pillow.fromarray(np.dstack([np.full((1, 3), v, np.uint8) for v in (10, 20, 30)] + [alpha])).save(tmp_path / "a.png")
    on_white = [[[255, 255, 255], [10, 20, 30], [206, 208, 210]]]  # 51 of 255 is a fifth
    assert np.array_equal(pixels(tmp_path / "a.png"), on_white)
    assert np.array_equal(pixels(tmp_path / "a.png", 4)[..., 3], alpha)
    assert pixels(tmp_path / "a.png", 4)[0, 0].tolist() == [10, 20, 30, 0]
    Pillow.fromarray(np.dstack([np.full((1, 3), 100, np.uint8), alpha])).save(tmp_path / "la.png")
    assert pixels(tmp_path / "la.png", 1)[0, :, 0].tolist() == [255, 100, 224]


def test_palettes_with_and_without_transparency(tmp_path):
    picture = Pillow.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "opaque.png")
    assert mode(tmp_path / "opaque.png") == "P"
    assert pixels(tmp_path / "opaque.png")[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    for name, transparency in (("one.png", 1), ("many.png", b"\xff\x00\xff")):
        picture.save(tmp_path / name, transparency=transparency)
        assert pixels(tmp_path / name)[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
        assert pixels(tmp_path / name, 4)[0, :, 3].tolist() == [255, 0, 255]


def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path):
    gray = np.array([[0x0000, 0x00FF, 0x0100, 0x80FF, 0xFFFF]])
    (tmp_path / "gray.png").write_bytes(raw_png(gray, 16, 0))
    assert pixels(tmp_path / "gray.png", 1)[0, :, 0].tolist() == [0, 0, 1, 0x80, 0xFF]
    dark = np.array([[7, 200]])  # a dark picture is dark, whatever its largest value
    (tmp_path / "dark.png").write_bytes(raw_png(dark, 16, 0))
    assert pixels(tmp_path / "dark.png", 1).max() == 0
    rgb = np.array([[[0x1234, 0xABCD, 0xFFFF]]])
    (tmp_path / "rgb.png").write_bytes(raw_png(rgb, 16, 2))
    assert pixels(tmp_path / "rgb.png")[0, 0].tolist() == [0x12, 0xAB, 0xFF]


def test_cmyk_becomes_rgb(tmp_path):
    Pillow.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=95)
    assert mode(tmp_path / "cyan.jpg") == "CMYK"
    assert np.abs(pixels(tmp_path / "cyan.jpg").astype(int) - [0, 255, 255]).max() <= 3
    assert pixels(tmp_path / "cyan.jpg", 4).shape == (16, 16, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, tmp_path):
    """The scene is RGB; the camera stored it so that the stated turn brings it back (EXIF 2.3, tag 0x0112)."""
    stored = {  # how each orientation lays the scene's rows and columns into the file
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1],
        5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB), 7: np.rot90(RGB.transpose(1, 0, 2), 2), 8: np.rot90(RGB, -1),
    }[orientation]  # fmt: skip
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png"), RGB)


def test_broken_metadata_does_not_spoil_a_good_picture(tmp_path):
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"):
        Pillow.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(pixels(tmp_path / "a.png"), RGB)


# Damage


@pytest.mark.parametrize("name", WRITERS)
def test_files_cut_short_are_unreadable_and_nothing_else(name, tmp_path):
    whole, path = encoded(GOOD, **WRITERS[name]), tmp_path / "a.png"
    path.write_bytes(whole)
    right = read(path)
    refused = 0
    for length in [*range(0, len(whole) - 1, max(len(whole) // 150, 1)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        try:
            assert torch.equal(read(path), right), f"half a picture of {length} bytes was taken for a whole one"
        except Unreadable as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) > len(f"{path}: ")
    assert refused >= 100  # only what follows the pixels may be missing


@pytest.mark.parametrize("name", WRITERS)
def test_changed_bytes_are_read_or_unreadable(name, tmp_path):
    whole, path, generator = encoded(GOOD, **WRITERS[name]), tmp_path / "a.png", np.random.default_rng(1)
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[generator.integers(len(damaged), size=4)] = generator.integers(256, size=4)
        path.write_bytes(damaged.tobytes())
        try:
            assert read(path).shape[0] == 3
        except Unreadable as error:
            assert "\n" not in str(error)


def test_what_is_no_picture_is_unreadable(tmp_path):
    generator = np.random.default_rng(0)
    for i, content in enumerate(
        [b"", b"\0", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF\0\0\0\0WEBP"]
    ):
        (tmp_path / f"{i}.png").write_bytes(content)
    for i in range(20):
        (tmp_path / f"noise{i}.png").write_bytes(generator.bytes(int(generator.integers(1, 2000))))
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for path in [*tmp_path.iterdir(), tmp_path / "missing.png", tmp_path / "0.png" / "below.png"]:
        with pytest.raises(Unreadable, match=f"{path.name}: .+"):
            read(path)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), MemoryError(), KeyError("x"), struct.error("y")]
)
def test_whatever_a_decoder_raises_is_unreadable(error, tmp_path, monkeypatch):
    def refuse(*_):
        raise error

    (tmp_path / "a.png").write_bytes(encoded(GOOD, format="PNG"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(Unreadable, match=r"a\.png: (Permission denied|MemoryError|'x'|y)$"):
        read(tmp_path / "a.png")


def test_a_picture_that_would_fill_memory_is_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 300)
    (tmp_path / "a.png").write_bytes(encoded(GOOD, format="PNG"))
    with pytest.raises(Unreadable, match="960 pixels"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 900)  # a little over the limit, Pillow only warns
    assert read(tmp_path / "a.png").shape == (3, 40, 24)


def test_a_file_name_that_is_not_utf8_can_be_told(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    (sample,) = Image().samples(tmp_path)
    assert sample.key == "\\udcff.png"
    with pytest.raises(Unreadable) as caught:
        sample.read()
    str(caught.value).encode()
