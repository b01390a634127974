"""What sets of samples are compared by: vectors of them, learnt or not."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from vqmm.contracts.labels import LabelClassifier


class Features(Protocol):
    """What turns samples into vectors. A modality's `Evaluation.features` offers one."""

    @property
    def rule(self) -> str:
        """What it is, in words."""
        ...

    def features(self, samples: Sequence[Tensor]) -> Tensor:
        """Finished samples (C, *extent), of any extents -> (N, D)."""
        ...


@runtime_checkable
class LearntFeatures(Features, LabelClassifier, Protocol):
    """Features that are those of a classifier, which has to be fitted to the data at hand first.

    Attributes:
        accuracy: the share of held-out originals that it names rightly, for the rule; None: not tried yet.
    """

    accuracy: float | None
