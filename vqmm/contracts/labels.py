"""What names samples: a classifier that a modality brings, for an evaluation to ask."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


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
