"""Front: what a modality learns from training samples before its networks are built."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor


class Front(ABC):
    """What must be learnt before training, and its files: a subword model, say. `Modality.front` gives it.

    `fit` is called once in a run, before the networks are built, or else `load`; what was learnt is a part of the
    tokenizer, its folder and its fingerprints.
    """

    @abstractmethod
    def fit(self, samples: Iterator[Tensor]) -> None:
        """Learn from the training samples, as they are read. A `UserError` where nothing can be learnt from them."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was learnt into the tokenizer's folder."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read it back. A `UserError` where a file is missing or damaged."""

    @abstractmethod
    def state_bytes(self) -> bytes:
        """What was learnt, for fingerprints: the same bytes mean the same codes for the same samples."""
