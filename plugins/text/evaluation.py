"""How texts are evaluated, compared and shown."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

import vqmm

if TYPE_CHECKING:
    from vqmm.contracts.labels import LabelClassifier
    from vqmm.contracts.metric import Metric


class TextEvaluation(vqmm.Evaluation):
    """Of texts as ids (1, T).

    Args:
        text_of: the text of a sample.
        longest: characters, after which a longer text is cut when it is read.
    """

    main_metric: ClassVar[str] = "char_accuracy"
    rate_unit: ClassVar[str] = "char"

    def __init__(self, text_of: Callable[[Tensor], str], longest: int):
        self.text_of, self.longest = text_of, longest

    @property
    def view(self) -> str:
        """What an evaluation uses, in words: whole texts, cut to the first `longest` characters."""
        return f"whole texts, of longer ones the first {self.longest} characters"

    def metrics(self) -> "dict[str, Metric]":
        """Accuracy of ids, samples and characters; character errors, BLEU, ROUGE-L, length ratio, distinct n-grams."""
        from vqmm.plugins.text.metrics import text_metrics

        return text_metrics(self.text_of)

    def size_in_units(self, sample: Tensor) -> float:
        """Characters (code points) of the text that the ids (1, T) stand for."""
        return float(len(self.text_of(sample)))

    def show(self, *rows: Sequence[Tensor], names: Sequence[str] | None = None) -> str:
        """Originals over reconstructions, differences marked: HTML."""
        from vqmm.plugins.text.show import show_text

        return show_text(rows, self.text_of, names)

    def label_classifier(self) -> "LabelClassifier":
        """A `TextLabelClassifier`, on n-grams; a `UserError` where scikit-learn is not installed."""
        from vqmm.plugins.text.metrics import TextLabelClassifier

        return TextLabelClassifier(self.text_of)
