"""Pictures on disk: which ones there are, and one as a tensor."""

import stat
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow
from torch import Tensor

from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.folder import Entry, Kind, csv_entries, folder_entries
from vqmm.utils.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PICTURES = Kind("picture", SUFFIXES)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # Pillow's names: no other decoder is tried, whatever a file holds
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name for them
TURNS = {  # EXIF orientation -> what brings the picture upright
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}


# Which pictures there are


def picture_samples(path: Path, channels: int) -> Iterator[Sample]:
    """One picture, a folder of them (recursive), or a CSV with a column `path` and, where wanted, `label`, `split`."""
    suffix = path.suffix.lower()
    if path.is_dir():
        entries = folder_entries(path, PICTURES)
    elif suffix == ".csv":
        entries = csv_entries(path, PICTURES)
    elif suffix in SUFFIXES:
        entries = iter([Entry(path.name, path)])
    else:
        raise UserError(
            f"{path} is no picture: take a file {', '.join(SUFFIXES)}, a folder of them, a CSV that lists them, an "
            ".npz archive, or an idx file such as train-images-idx3-ubyte.gz"
        )
    for entry in entries:
        yield Sample(entry.key, partial(read_picture, entry.path, channels), entry.label, entry.split)


# One picture


def read_picture(path: Path, channels: int) -> Tensor:
    """uint8 (channels, H, W), upright (EXIF orientation applied).

    Gray becomes equal RGB, and RGB gray by luma; of 16 bits the upper eight are kept; transparency is laid on white
    where the fourth channel is not wanted. Colour profiles are not applied: everything is taken for sRGB.

    Raises:
        Unreadable: no such file, not a picture, or one cut short.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("not a file")  # a folder; or a pipe, which would be waited for
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata: the pixels are what counts
            with Pillow.open(path, formats=FORMATS) as opened:
                opened.load()
                return to_tensor(convert(upright(opened), channels))
    except Exception as error:  # damaged bytes make decoders raise all kinds
        message = " ".join(f"{path}: {_reason(error)}".split())
        raise Unreadable(message.encode(errors="backslashreplace").decode()) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, WebP or BMP picture, or too damaged to tell"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def upright(picture: Pillow.Image) -> Pillow.Image:
    """The picture turned as its EXIF orientation says."""
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata around a good picture
        return picture
    return picture if turn is None else picture.transpose(turn)


def convert(picture: Pillow.Image, channels: int) -> Pillow.Image:
    """Any picture in the mode that has so many channels."""
    if picture.mode.startswith("I"):  # 16-bit gray; Pillow itself would clip it at 255
        picture = Pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if channels != 4 and picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, "white"), picture)
    return picture.convert(MODES[channels])


def to_tensor(picture: Pillow.Image) -> Tensor:
    """An L, RGB or RGBA picture -> uint8 (1, 3 or 4, H, W)."""
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)


def to_bytes(sample: Tensor) -> Tensor:
    """[-1, 1] -> uint8, rounded."""
    return ((sample.detach().cpu().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pillow(picture: Tensor) -> Pillow.Image:
    """uint8 (1, 3 or 4, H, W) -> a Pillow picture."""
    array = picture.movedim(0, -1).contiguous().numpy()
    return Pillow.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid_picture(rows: Sequence[Sequence[Tensor]], zoom: int = 1, largest: int = 1024, gap: int = 2) -> Pillow.Image:
    """Rows of uint8 pictures (C, H, W) as one picture, on white.

    Each is enlarged `zoom` times without smoothing, or shrunk to `largest` pixels a side.
    """
    cells = [[_cell(picture, zoom, largest) for picture in row] for row in rows]
    widths = [max(cell.width for cell in column) + gap for column in zip(*cells, strict=True)]
    heights = [max((cell.height for cell in row), default=0) + gap for row in cells]
    sheet = Pillow.new("RGB", (max(sum(widths) - gap, 1), max(sum(heights) - gap, 1)), "white")
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            sheet.paste(cell, (sum(widths[:c]), sum(heights[:r])))
    return sheet


def _cell(picture: Tensor, zoom: int, largest: int) -> Pillow.Image:
    shown = convert(to_pillow(picture), 3)
    if zoom > 1:
        shown = shown.resize((shown.width * zoom, shown.height * zoom), Pillow.Resampling.NEAREST)
    shown.thumbnail((largest, largest))
    return shown
