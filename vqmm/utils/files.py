"""Writing so that a reader sees the old thing or the new one, never half of it."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ROOM_BYTES = 16 * 10**6  # what a command that cannot say how much it will write wants to find free


def hash_tensors(digest: "hashlib._Hash", tensors: "Mapping[str, Tensor]") -> None:
    """Put tensors into a digest: names, types, shapes and bits, in the order of their names."""
    import torch

    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the block ends well, in place of a folder of that name.

    When it does not end well nothing is left, not even the folders above it that had to be made.
    """
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        before = path.with_name(f"{temporary.name}.before")
        if path.exists():
            path.replace(before)
        temporary.replace(path)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not path.exists():
            for parent in made:
                parent.rmdir()


def must_exist(path: Path | str, right: str) -> None:
    """A `UserError` where there is neither file nor folder; `right`: what to give."""
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises below a folder that one may not enter
        raise UserError(f"there is nothing at {path}: {right}")


def must_be_free(path: Path, what: str, room_bytes: int = ROOM_BYTES) -> None:
    """Refuse to write over a file or over a folder that holds anything; and what `must_be_writable` refuses."""
    with _said(path, what):
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{what} {path} exists already: choose another name, or move it away")
    must_be_writable(path, what, room_bytes)


def must_be_writable(path: Path, what: str, room_bytes: int = ROOM_BYTES) -> None:
    """Refuse a place where nothing can be written, or too little: said at the start, not after the work.

    `path` need not exist, nor folders above it: the nearest one that does is tried, with an empty file that goes again.
    Nothing is left behind.

    Raises:
        UserError: something above is no folder; it is read-only, or not ours; fewer than `room_bytes` are free.
    """
    with _said(path, what):
        above = nearest_folder(path)
        if not above.is_dir():
            raise UserError(f"{what} {path} cannot be made: {above} is a file, not a folder")
        with suppress(FileNotFoundError):
            path.lstat()  # a name that is too long, or that goes round in circles
        handle, name = tempfile.mkstemp(prefix=".vqmm-", dir=above)
        os.close(handle)
        Path(name).unlink()
    said = lacks_room(path, what, room_bytes)
    if said:
        raise UserError(said)


def lacks_room(path: Path, what: str, room_bytes: int) -> str | None:
    """One line where the disk of `path` has fewer bytes free; None where it has them, or does not say."""
    above = nearest_folder(path)
    try:
        disk = shutil.disk_usage(above)
    except OSError:
        return None  # some network file systems; writing will show
    if not disk.total or disk.free >= room_bytes:
        return None
    return (
        f"{what} {path}: {in_words(disk.free)} are free in {above}, and {in_words(room_bytes)} are needed: make room, "
        "or choose a place on another disk"
    )


def nearest_folder(path: Path) -> Path:
    """The folder itself; or of what is above it the nearest that exists, folder or not."""
    there = os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where a folder above may not be searched
    return path if there else next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def in_words(count: int) -> str:
    """`3.1 MB`: of so many bytes."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


@contextmanager
def _said(path: Path, what: str) -> Iterator[None]:
    """What the machine refuses, as a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what} {path} cannot be written: {nearest_folder(path)}: {(error.strerror or str(error)).lower()}: "
            "choose another place, or see that you may write there"
        ) from None


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """A safetensors file that others may read as the umask allows (the library itself makes it private)."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
