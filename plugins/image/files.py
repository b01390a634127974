"""Pictures on disk: which ones there are, and one as a tensor."""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps
from torch import Tensor

from vqmm.data.sample import Sample, Unreadable
from vqmm.errors import UserError, one_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name for them


def picture_samples(path: Path, channels: int) -> Iterator[Sample]:
    """One picture, a folder of them (recursive), or a CSV with a column `path` and, where wanted, `label`, `split`.

    In a folder the first sub-folder names the label, if every picture lies in one: `cats/1.png` is a "cats".
    """
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        names = [f.relative_to(path) for f in files]
        labelled = bool(names) and all(len(name.parts) > 1 for name in names)
        if not files:
            raise UserError(f"{path} holds no picture: looked in it and its sub-folders for {', '.join(SUFFIXES)}")
        for file, name in zip(files, names, strict=True):
            label = name.parts[0] if labelled else None
            yield Sample(name.as_posix(), partial(read_picture, file, channels), label)
    elif path.suffix.lower() == ".csv":
        yield from _csv_samples(path, channels)
    else:
        yield Sample(path.name, partial(read_picture, path, channels))


def _csv_samples(path: Path, channels: int) -> Iterator[Sample]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from None
    columns = list(rows[0]) if rows else []
    if "path" not in columns:
        raise UserError(f"{path} has no column 'path'. {one_of(filter(None, columns), 'path')}")
    for row in rows:
        read = partial(read_picture, path.parent / row["path"], channels)
        yield Sample(row["path"], read, row.get("label") or None, row.get("split") or None)


def read_picture(path: Path, channels: int) -> Tensor:
    """uint8 (channels, H, W), upright (EXIF orientation applied).

    Gray becomes equal RGB and RGB gray by luma; 16-bit gray keeps its upper eight bits; transparency is laid on white
    where the fourth channel is not wanted.

    Raises:
        Unreadable: no such file, not a picture, or one cut short.
    """
    try:
        with Pillow.open(path) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
        return torch.from_numpy(np.array(convert(picture, channels))).reshape(picture.height, picture.width, -1).movedim(
            -1, 0
        ).contiguous()
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise Unreadable(f"{path}: {' '.join(str(error).split())}") from None


def convert(picture: Pillow.Image, channels: int) -> Pillow.Image:
    """Any picture in the mode that has so many channels."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture).astype(np.float64)
        wide = picture.mode.startswith("I;16") or values.max(initial=0) > 255
        picture = Pillow.fromarray(np.clip(values / (256 if wide else 1), 0, 255).astype(np.uint8))
    if channels != 4 and picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")
        picture = Pillow.alpha_composite(white, picture)
    return picture.convert(MODES[channels])


def to_channels(pictures: np.ndarray, channels: int, where: str) -> np.ndarray:
    """uint8 (N, H, W) or (N, H, W, 1, 3 or 4) -> (N, channels, H, W), by the rules of `read_picture`."""
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    if pictures.ndim != 4 or pictures.shape[-1] not in MODES or pictures.dtype != np.uint8:
        raise UserError(
            f"{where} holds {pictures.dtype} {pictures.shape}: pictures are uint8 (N, H, W) or (N, H, W, 1, 3 or 4)"
        )
    if pictures.shape[-1] == channels:
        return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    convert_one = partial(_convert_array, channels=channels)
    return np.stack([convert_one(one) for one in pictures]) if len(pictures) else np.zeros((0, channels, 1, 1), np.uint8)


def _convert_array(picture: np.ndarray, channels: int) -> np.ndarray:
    squeezed = picture[..., 0] if picture.shape[-1] == 1 else picture
    converted = np.asarray(convert(Pillow.fromarray(squeezed), channels))
    return converted.reshape(*converted.shape[:2], -1).transpose(2, 0, 1)


def grid_picture(rows: Sequence[Sequence[Tensor]], gap: int = 2) -> Pillow.Image:
    """Rows of uint8 pictures (C, H, W) as one picture, on white."""
    columns = list(zip(*rows, strict=True))
    widths = [max(p.shape[2] for p in column) + gap for column in columns]
    heights = [max(p.shape[1] for p in row) + gap for row in rows]
    sheet = Pillow.new("RGB", (max(sum(widths) - gap, 1), max(sum(heights) - gap, 1)), "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(to_pillow(picture).convert("RGB"), (sum(widths[:c]), sum(heights[:r])))
    return sheet


def to_pillow(picture: Tensor) -> Pillow.Image:
    """uint8 (1, 3 or 4, H, W) -> a Pillow picture."""
    array = picture.movedim(0, -1).contiguous().numpy()
    return Pillow.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
