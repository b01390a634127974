"""Labels: the check of those that are given, and the classifier that a modality brings for an evaluation to ask."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from vqmm.utils.errors import UserError, one_of


class LabelClassifier(Protocol):
    """A classifier of samples (C, *extent), of any extents, as in a batch and as `Modality.postprocess` gives them.

    It knows nothing of tokenizers, so it can also name what a prior has made.
    """

    @property
    def rule(self) -> str:
        """What it is, in words, for whoever reads its figures."""
        ...

    def fit(self, samples: Sequence[Tensor], labels: Sequence[int]) -> None:
        """Learn from samples and their labels, once. A `UserError` where nothing can be learnt from them."""

    def predict(self, samples: Sequence[Tensor]) -> list[int]:
        """A label for each sample, one of those that `fit` was given, or -1 for none of them."""
        ...


def check_labels(given: Iterable[str | None], labels: Sequence[str], where: str) -> None:
    """A `UserError` for a label that is missing (None), or that is none of `labels`.

    `where`: what gave them (an option, a file, samples), to begin the message with.
    """
    strange = [label for label in dict.fromkeys(given) if label not in labels]
    if None in strange:
        raise missing_label(labels, where)
    names = [label for label in strange if label is not None]
    if names:
        raise UserError(f"{where}: no label is called {', '.join(map(repr, names[:5]))}. {one_of(labels, names[0])}")


def missing_label(labels: Sequence[str], where: str) -> UserError:
    """The error for samples without a label that need one, to be raised by the caller."""
    return UserError(f"{where}: no label is given, and the decoder needs one. {one_of(labels)}")


def label_number(label: str | None, labels: Sequence[str], where: str) -> int:
    """The number of a label, which `check_labels` has checked."""
    check_labels([label], labels, where)
    return labels.index(label)  # type: ignore[arg-type]


def require_every_label(labels: Sequence[str | None], where: str, instead: str) -> None:
    """A `UserError` where something is to be trained on labels and some samples lack one.

    `where`: what they are samples of; `instead`: how they get labels.
    """
    lacking = sum(label is None for label in labels)
    if lacking:
        raise UserError(
            f"condition: label needs a label for every sample, and {lacking} of {len(labels)} {where} lack one: "
            f"{instead}, or set condition=null"
        )
