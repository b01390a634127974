"""Samples to files named after their keys; those that were read from one file may go back into one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath

from torch import Tensor

from vqmm.contracts.mixins import ManyPerFile
from vqmm.contracts.modality import Modality
from vqmm.utils.errors import UserError


class Outputs:
    """What is written into a folder, of the samples with these keys.

    Raises:
        UserError: a key that leads out of the folder, or names two samples.
    """

    def __init__(self, modality: Modality, keys: Sequence[str]):
        self.modality = modality
        check_keys(keys)
        self._names = file_names(list(dict.fromkeys(map(self._file_of, keys))))

    def _file_of(self, key: str) -> str:
        return self.modality.file_of(key) if isinstance(self.modality, ManyPerFile) else key

    def write(self, samples: Iterable[tuple[str, Tensor]], folder: Path) -> int:
        """Write samples, in the order of the keys; neighbours of one file are joined. Returns how many they were."""
        count = 0
        for file, group in groupby(samples, key=lambda pair: self._file_of(pair[0])):
            keys, values = zip(*group, strict=True)
            path = folder / self._names[file]
            path.parent.mkdir(parents=True, exist_ok=True)
            value = values[0]
            if isinstance(self.modality, ManyPerFile) and keys != (file,):
                value = self.modality.join(values)
            self.modality.write(value, path)
            count += len(keys)
        return count


def check_keys(keys: Sequence[str]) -> None:
    """A `UserError` for keys that are no places inside a folder, or that name one place twice."""
    for key in keys:
        path = PurePosixPath(key or "")
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in key:
            raise UserError(f"the token file names a sample {key!r}, which is no place inside an output folder")
    twice = [str(path) for path, count in Counter(map(PurePosixPath, keys)).items() if count > 1]
    if twice:
        raise UserError(f"the token files name two samples {twice[0]!r}: decode them one folder at a time")


def file_names(files: Sequence[str]) -> dict[str, str]:
    """A path without suffix for every file: `cats/1.png` -> `cats/1`, or the whole name where two would meet."""
    whole = {file: PurePosixPath(file) for file in files}
    taken = set(whole.values())
    # "...png" without its suffix would be "..", the folder above: such a name is kept whole
    short = {file: path.with_suffix("") if path.stem.strip(".") else path for file, path in whole.items()}
    meeting = Counter(short.values())
    free = {file for file, path in short.items() if meeting[path] == 1 and (path == whole[file] or path not in taken)}
    return {file: str(short[file] if file in free else whole[file]) for file in files}
