"""Many pictures in one file: NumPy's `.npz`, and the idx format of MNIST."""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqmm.contracts.sample import Sample
from vqmm.plugins.image.files import MODES, convert, to_pillow, to_tensor
from vqmm.utils.errors import UserError, one_of

# train-images-idx3-ubyte.gz as MNIST is published, train-images.idx3-ubyte as some copies of it are named
IDX_NAME = re.compile(r"([^.].*)-images[-.]idx3-ubyte(\.gz)?")
SPLITS = {"train": "train", "t10k": "test", "test": "test"}  # last word of an idx file's name, before "-images"


def npz_samples(path: Path, channels: int) -> Iterator[Sample]:
    """`x` and, where wanted, `y`; or `x_train`, `y_train`, `x_test`, `y_test`; and `class_names` for the labels."""
    arrays = _load_npz(path)
    names = arrays.get("class_names")
    for suffix, split in (("", None), ("_train", "train"), ("_test", "test")):
        if f"x{suffix}" in arrays:
            y = arrays.get(f"y{suffix}")
            labels = None if y is None else _labels(y, names, f"{path}:y{suffix}")
            prefix = f"{split}/" if split else ""
            yield from _rows(arrays[f"x{suffix}"], labels, channels, split, f"{path}:x{suffix}", prefix)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    wanted = ("x", "y", "x_train", "y_train", "x_test", "y_test", "class_names")
    try:
        with path.open("rb") as raw:  # NumPy leaves a damaged file open that it has opened itself
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array and no names: write it with numpy.savez")
            there = file.files
            arrays = {name: file[name] for name in wanted if name in there}
    except Exception as error:  # damaged bytes make zipfile, zlib and NumPy raise all kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a NumPy archive without pickled objects: {reason}") from None
    if ("x" in arrays) == ("x_train" in arrays):
        raise UserError(f"{path} must hold an array 'x', or 'x_train' and 'x_test'. {one_of(there)}")
    return arrays


def _labels(y: np.ndarray, names: np.ndarray | None, where: str) -> list[str]:
    """A label's name for every sample; `names` are looked up where `y` holds numbers."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iuU":
        raise UserError(f"{where} holds {y.dtype} {y.shape}: labels are whole numbers or strings, one for each picture")
    if names is None or y.dtype.kind == "U":
        return [str(label) for label in y.tolist()]
    if names.ndim != 1 or (len(y) and not 0 <= y.min() <= y.max() < len(names)):
        raise UserError(
            f"{where} holds labels from {y.min(initial=0)} to {y.max(initial=0)}, and class_names has the shape "
            f"{names.shape}: it must be a list with a name for each label from 0 on"
        )
    return [str(name) for name in names[y].tolist()]


def idx_files(folder: Path) -> dict[str, Path]:
    """The idx files of pictures in a folder: "train" -> .../train-images-idx3-ubyte.gz.

    A file that lies there both compressed and not is taken once.
    """
    paths: dict[str, Path] = {}
    for name in sorted(path.name for path in folder.iterdir()):
        if match := IDX_NAME.fullmatch(name):
            paths.setdefault(match[1], folder / name)
    return paths


def idx_samples(path: Path, channels: int) -> Iterator[Sample]:
    """`NAME-images-idx3-ubyte.gz`, with the labels of `NAME-labels-idx1-ubyte.gz` beside it, if that is there.

    In a folder the files whose NAME ends in `train` are for training, those with `t10k` or `test` for testing.
    """
    if path.is_dir():
        for name, file in idx_files(path).items():
            split = SPLITS.get(name.split("-")[-1])
            prefix = SPLITS.get(name, name)
            yield from _idx_file(file, channels, split, f"{prefix}/")
    else:
        yield from _idx_file(path, channels, None, "")


def _idx_file(path: Path, channels: int, split: str | None, prefix: str) -> Iterator[Sample]:
    name = path.name.removesuffix(".gz").replace("-images", "-labels").replace("idx3", "idx1")
    beside = [path.with_name(file) for file in (name, f"{name}.gz") if IDX_NAME.fullmatch(path.name)]
    labels = next(([str(label) for label in read_idx(file, 1).tolist()] for file in beside if file.is_file()), None)
    yield from _rows(read_idx(path, 3), labels, channels, split, str(path), prefix)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """An idx file of unsigned bytes, compressed by gzip or not (format: yann.lecun.com/exdb/mnist, at its end)."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    start, right = 4 + 4 * axes, bytes([0, 0, 8, axes])
    if raw[:4] != right or len(raw) < start:
        raise UserError(
            f"{path} is not an idx file of unsigned bytes with {axes} {'axis' if axes == 1 else 'axes'}: it has "
            f"{len(raw)} bytes and begins with {raw[:4].hex(' ') or 'nothing'}, not {right.hex(' ')}"
        )
    shape = struct.unpack(f">{axes}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise UserError(
            f"{path} is damaged: its header says {shape}, {math.prod(shape)} bytes, and {len(raw) - start} follow"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()  # a copy that may be written to


def _rows(
    x: np.ndarray, labels: list[str] | None, channels: int, split: str | None, where: str, prefix: str
) -> Iterator[Sample]:
    pictures = as_pictures(x, where)
    if labels is not None and len(labels) != len(pictures):
        raise UserError(f"{where} has {len(pictures)} pictures and {len(labels)} labels: there must be one for each")
    for i in range(len(pictures)):
        yield Sample(f"{prefix}{i}", partial(_row, pictures, channels, i), None if labels is None else labels[i], split)


def as_pictures(x: np.ndarray, where: str) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, 1, 3 or 4) -> (N, 1, 3 or 4, H, W), the same memory."""
    fits = x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in MODES)
    if not fits or x.dtype != np.uint8 or 0 in x.shape[1:]:
        raise UserError(f"{where} holds {x.dtype} {x.shape}: pictures are uint8 (N, H, W) or (N, H, W, 1, 3 or 4)")
    pictures = torch.from_numpy(x)
    return pictures.unsqueeze(1) if x.ndim == 3 else pictures.movedim(-1, 1)


def _row(pictures: Tensor, channels: int, i: int) -> Tensor:
    """A view of the array; a picture of its own where the channels differ, by the rules of `read_picture`."""
    picture = pictures[i]
    return picture if len(picture) == channels else to_tensor(convert(to_pillow(picture), channels))
