"""Pictures on disk: which ones there are, and one as a tensor."""

import csv
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import NoReturn

import numpy as np
import torch
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow
from torch import Tensor

from vqmm.data.sample import Sample, Unreadable
from vqmm.errors import UserError, one_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
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
        yield from _folder_samples(path, channels)
    elif suffix == ".csv":
        yield from _csv_samples(path, channels)
    elif suffix in SUFFIXES:
        yield Sample(path.name, partial(read_picture, path, channels))
    else:
        raise UserError(
            f"{path} is no picture: take a file {', '.join(SUFFIXES)}, a folder of them, a CSV that lists them, an "
            ".npz archive, or an idx file such as train-images-idx3-ubyte.gz"
        )


def _folder_samples(path: Path, channels: int) -> Iterator[Sample]:
    """Where every picture lies in a sub-folder, the first one names its label: `cats/1.png` is a "cats".

    Sub-folders `train` and `test`, and nothing beside them, are the folder's own split; labels come one level below.
    """
    names = list_pictures(path)
    if not names:
        raise UserError(f"{path} holds no picture: looked in it and its sub-folders for {', '.join(SUFFIXES)}")
    folders = [name.split("/")[:-1] for name in names]
    has_split = {inside[0] if inside else "" for inside in folders} == {"train", "test"}
    level = 1 if has_split else 0
    labelled = all(len(inside) > level for inside in folders)
    for name, inside in zip(names, folders, strict=True):
        read = partial(read_picture, path / name, channels)
        yield Sample(name, read, inside[level] if labelled else None, inside[0] if has_split else None)


def list_pictures(folder: Path) -> list[str]:
    """The pictures in a folder and its sub-folders as sorted relative paths. None is opened.

    Hidden files are left out (macOS writes a `._x.png` beside an x.png). Links to folders are followed; a folder that
    can be reached twice is taken once.
    """
    found: list[str] = []
    seen: set[Path] = set()
    for where, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        real = Path(where).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(where).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def _refuse_folder(error: OSError) -> NoReturn:
    raise UserError(f"the folder {error.filename} cannot be listed: {error.strerror}") from None


def _csv_samples(path: Path, channels: int) -> Iterator[Sample]:
    rows = _csv_rows(path)
    has_split = any(row["split"] for _, row in rows)
    files: dict[str, tuple[int, Path]] = {}  # key -> line, file
    for line, row in rows:
        key, file = _inner_name(row["path"]), path.parent / row["path"]
        if not key:
            raise UserError(f"{path}, line {line}: the column 'path' is empty: it must name a picture")
        if key in files:
            raise UserError(f"{path}, line {line}: {row['path']} is named again, first in line {files[key][0]}")
        if has_split and row["split"] not in ("train", "test"):
            raise UserError(f"{path}, line {line}: the split is {row['split']!r}: it must be 'train' or 'test'")
        files[key] = line, file
    missing = [(line, file) for line, file in files.values() if not os.path.lexists(file)]
    if missing:
        raise UserError(
            f"{path} names {len(rows)} pictures, and {len(missing)} are missing, first {missing[0][1]} "
            f"(line {missing[0][0]}): paths are relative to the folder of the CSV"
        )
    for (key, (_, file)), (_, row) in zip(files.items(), rows, strict=True):
        yield Sample(key, partial(read_picture, file, channels), row["label"] or None, row["split"] or None)


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Each row's line and its `path`, `label` and `split`, empty where the file has none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if "path" not in columns:
        raise UserError(f"{path} has no column 'path'. {one_of(filter(None, columns), 'path')}")
    if not rows:
        raise UserError(f"{path} has a header and no rows: each row must name a picture")
    return [(line, {name: row.get(name, "").strip() for name in ("path", "label", "split")}) for line, row in rows]


def _inner_name(name: str) -> str:
    """A path as a key that stays inside a folder, as names of decoded files must: `../a/b.png` -> `a/b.png`."""
    path = PurePath(name)
    return "/".join(part for part in path.parts if part not in (path.anchor, ".."))


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
        told = " ".join(f"{path}: {_reason(error)}".split())
        raise Unreadable(told.encode(errors="backslashreplace").decode()) from None


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
