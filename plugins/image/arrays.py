"""Many pictures in one file: NumPy's `.npz`, and the idx format of MNIST."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqmm.data.sample import Sample
from vqmm.errors import UserError, one_of
from vqmm.plugins.image.files import to_channels


def npz_samples(path: Path, channels: int) -> Iterator[Sample]:
    """`x` and, where wanted, `y`; or `x_train`, `y_train`, `x_test`, `y_test`; and `class_names` for the labels."""
    arrays = _load_npz(path)
    if "x" not in arrays and "x_train" not in arrays:
        raise UserError(f"{path} has no array 'x' or 'x_train'. {one_of(arrays)}")
    names = arrays.get("class_names")
    for suffix, split in (("", None), ("_train", "train"), ("_test", "test")):
        if f"x{suffix}" in arrays:
            y = arrays.get(f"y{suffix}")
            labels = None if y is None else [str(label if names is None else names[label]) for label in y.tolist()]
            yield from _rows(arrays[f"x{suffix}"], labels, channels, split, f"{path}:x{suffix}")


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as a NumPy archive without pickled objects: {error}") from None


def idx_samples(path: Path, channels: int) -> Iterator[Sample]:
    """`NAME-images-idx3-ubyte.gz`, with the labels of `NAME-labels-idx1-ubyte.gz` beside it, if that is there.

    A folder is taken for MNIST's own: the files that begin with `train` for training, those with `t10k` for testing.
    """
    if path.is_dir():
        for file in sorted(path.glob("*-images-idx3-ubyte*"), reverse=True):
            split = {"train": "train", "t10k": "test"}.get(file.name.split("-")[0])
            yield from _idx_file(file, channels, split, prefix=f"{split or file.name.split('-')[0]}/")
    else:
        yield from _idx_file(path, channels, None, prefix="")


def _idx_file(path: Path, channels: int, split: str | None, prefix: str) -> Iterator[Sample]:
    pictures = read_idx(path)
    beside = path.with_name(path.name.replace("-images-idx3-", "-labels-idx1-"))
    labels = [str(label) for label in read_idx(beside).tolist()] if beside != path and beside.is_file() else None
    yield from _rows(pictures, labels, channels, split, str(path), prefix)


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes, compressed by gzip or not (format: yann.lecun.com/exdb/mnist, at its end)."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{path} is not an idx file of unsigned bytes: it begins with {raw[:4].hex(' ')}, not 00 00 08")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if len(body) != np.prod(shape, dtype=np.int64):
        raise UserError(f"{path} is cut short: its header says {shape}, its body has {len(body)} bytes")
    return body.reshape(shape)


def _rows(
    x: np.ndarray, labels: list[str] | None, channels: int, split: str | None, where: str, prefix: str | None = None
) -> Iterator[Sample]:
    if labels is not None and len(labels) != len(x):
        raise UserError(f"{where} has {len(x)} pictures and {len(labels)} labels: there must be one for each")
    pictures = torch.from_numpy(to_channels(x, channels, where))
    prefix = (f"{split}/" if split else "") if prefix is None else prefix
    for i in range(len(pictures)):
        yield Sample(f"{prefix}{i}", partial(_row, pictures, i), None if labels is None else labels[i], split)


def _row(pictures: Tensor, i: int) -> Tensor:
    return pictures[i]
