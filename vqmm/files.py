"""Writing so that a reader sees the old thing or the new one, never half of it."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vqmm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


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


def must_be_free(path: Path, what: str) -> None:
    """Refuse to write over a file or over a folder that holds anything, and below something that is no folder."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        raise UserError(f"{what} {path} exists already: choose another name, or move it away")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{what} {path} cannot be made: {above} is a file, not a folder")


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """A safetensors file that others may read as the umask allows (the library itself makes it private)."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
