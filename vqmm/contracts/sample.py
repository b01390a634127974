"""One item of a data set, known by name before it is read."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vqmm.utils.errors import UserError


@dataclass(frozen=True, slots=True)
class Sample:
    """What `Modality.samples` yields: naming an item costs nothing, reading it may.

    Attributes:
        key: the item's name within its source, stable from run to run: a path relative to a folder, a row's number.
        read: gives the sample (C, *extent), in whatever type is compact to keep (uint8 for pictures); raises
            `Unreadable` for a damaged one. Called when the item is needed, as often as it is needed.
        label: the class the item belongs to, where the source names one.
        split: "train" or "test", where the source has a split of its own.
    """

    key: str
    read: Callable[[], Tensor]
    label: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        # File names need not be UTF-8; keys and labels are, because they are hashed and written to JSON and Parquet.
        for name in ("key", "label"):
            text = getattr(self, name)
            if text is not None and not text.isascii():
                object.__setattr__(self, name, text.encode(errors="backslashreplace").decode())


class Unreadable(UserError):  # noqa: N818 (the state of an item)
    """A damaged item among good ones: skipped, counted, and named at the end, unless the user asked for strictness."""
