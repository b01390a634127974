"""Files inside a .tar (compressed or not) or .zip, read without unpacking them to disk."""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from vqmm.data.folder import inner_name
from vqmm.utils.errors import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".zip")
KEPT_BYTES = 512 * 2**20  # the most that is kept of a compressed tar, and the most that one member may have
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, NotImplementedError)


class Archive:
    """The files of some suffixes in an archive, by name.

    Names are relative paths that stay inside a folder. Hidden files, links and what is no file are left out, except
    for hard links, which are files; of two members with one name the later counts, as it does for who unpacks them.

    Pickled, it is what it was: bytes that were kept travel with it, and files are opened anew where it arrives.
    """

    def __init__(self, path: Path, names: Iterator[str]):
        self.path, self.names = path, sorted(names)
        self._known = frozenset(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def read(self, name: str) -> bytes:
        """The bytes of one member. OSError and the like where the archive was changed or is damaged."""
        raise NotImplementedError(f"{type(self).__name__} needs a method read(name)")


class _PlainTar(Archive):
    """A tar that is not compressed: each member lies somewhere in the file, as it is."""

    def __init__(self, path: Path, suffixes: tuple[str, ...]):
        self.places: dict[str, tuple[int, int]] = {}  # name -> first byte, bytes
        with tarfile.open(path, "r:") as archive:
            for name, member, target in _tar_members(archive, suffixes):
                if member.issparse():
                    raise UserError(f"{path} holds {name} as a sparse file, which cannot be read in place: unpack it")
                _check_size(path, name, member.size)
                self.places[name] = self.places[target] if target else (member.offset_data, member.size)
        super().__init__(path, iter(self.places))

    def read(self, name: str) -> bytes:
        offset, size = self.places[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


class _CompressedTar(Archive):
    """A compressed tar is one stream: reading a member means reading all before it. So it is read once, and kept."""

    def __init__(self, path: Path, suffixes: tuple[str, ...]):
        self.kept: dict[str, bytes] = {}
        total = 0
        with tarfile.open(path, "r:*") as archive:
            for name, member, target in _tar_members(archive, suffixes):
                total += member.size
                if total > KEPT_BYTES:
                    raise UserError(
                        f"{path} holds more than {KEPT_BYTES / 2**20:g} MiB of {', '.join(suffixes)}, which would be "
                        "kept in memory: unpack it and give the folder, or pack it as .tar or .zip"
                    )
                self.kept[name] = self.kept[target] if target else _extracted(archive, member)
        super().__init__(path, iter(self.kept))

    def read(self, name: str) -> bytes:
        return self.kept[name]


class _Zip(Archive):
    """Members of a .zip are compressed one by one."""

    def __init__(self, path: Path, suffixes: tuple[str, ...]):
        self.members: dict[str, str] = {}  # name -> the name in the archive
        self._file, self._process = zipfile.ZipFile(path), os.getpid()
        for info in self._file.infolist():
            name = inner_name(info.filename)
            if info.is_dir() or not _wanted(name, suffixes):
                continue
            if info.flag_bits & 1:
                raise UserError(f"{path} is encrypted ({name}): unpack it and give the folder")
            _check_size(path, name, info.file_size)
            self.members[name] = info.filename
        super().__init__(path, iter(self.members))

    def read(self, name: str) -> bytes:
        if self._process != os.getpid():  # a forked process shares the place in the file with its parent
            self._file, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._file.read(self.members[name])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_process": None}


# Opened archives by path, size and time: while samples of one are in use, another listing costs nothing.
_opened: WeakValueDictionary[tuple, Archive] = WeakValueDictionary()


def open_archive(path: Path, suffixes: tuple[str, ...]) -> Archive:
    """List an archive; of a compressed tar, read the members with these suffixes into memory.

    Raises:
        UserError: it is damaged, encrypted or no archive; what would be kept is over `KEPT_BYTES`.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise OSError("not a file")  # a pipe would be waited for
        key = (path.resolve(), state.st_size, state.st_mtime_ns, suffixes, KEPT_BYTES)
        archive = _opened.get(key)
        if archive is None:
            archive = _opened[key] = _kind(path)(path, suffixes)
    except _DAMAGE as error:
        _refuse(path, error)
    return archive


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def inside_archive(path: Path) -> tuple[Path, str] | None:
    """A path that leads into an archive as the archive and the member's name; None for any other path."""
    for parent in reversed(path.parents):
        if is_archive(parent) and parent.is_file():
            return parent, inner_name(path.relative_to(parent).as_posix())
    return None


def _kind(path: Path) -> type[_PlainTar] | type[_CompressedTar] | type[_Zip]:
    name = path.name.lower()
    if name.endswith(".zip"):
        return _Zip
    return _PlainTar if name.endswith(".tar") else _CompressedTar


def _tar_members(archive: tarfile.TarFile, suffixes: tuple[str, ...]) -> Iterator[tuple[str, tarfile.TarInfo, str]]:
    """Name and member of every file, front to back; of a hard link to one of them also the name it leads to."""
    seen = set()
    for member in archive:
        name, target = inner_name(member.name), inner_name(member.linkname) if member.islnk() else ""
        if (member.isreg() or target in seen) and _wanted(name, suffixes):
            seen.add(name)
            yield name, member, target


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return name.lower().endswith(suffixes) and not hidden


def _check_size(path: Path, name: str, size: int) -> None:
    if size > KEPT_BYTES:
        raise UserError(
            f"{path} holds {name} of {size / 2**20:,.0f} MiB; what is read from an archive may have "
            f"{KEPT_BYTES / 2**20:g} MiB: unpack it and give the folder"
        )


def _refuse(path: Path, error: Exception) -> NoReturn:
    reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    raise UserError(f"{path} cannot be read as an archive: {reason}") from None
