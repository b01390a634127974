"""Notes whose labels can be judged, as a plugin: the nearest mean of the ids that a label has."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import vqmm
from tests.fakes import Notes, NotesEvaluation
from vqmm.contracts.sample import Unreadable


class NearestMean:
    rule = "nearest mean"

    def fit(self, samples: Sequence[Tensor], labels: Sequence[int]) -> None:
        self.fitted = [*zip(samples, labels, strict=True)]
        means = {label: [s.double().mean() for s, own in self.fitted if own == label] for label in labels}
        self.means = {label: float(torch.stack(each).mean()) for label, each in means.items()}

    def predict(self, samples: Sequence[Tensor]) -> list[int]:
        return [min(self.means, key=lambda label: abs(self.means[label] - float(s.double().mean()))) for s in samples]


class MarkedEvaluation(NotesEvaluation):
    def label_classifier(self) -> NearestMean:
        return NearestMean()


class Marked(Notes):
    """Files with "test" in their names are the test split; those with "bad" in them are damaged; "any" is no label."""

    name = "marked"

    def samples(self, path: Path) -> Iterator[vqmm.Sample]:
        for sample in super().samples(path):
            split = "test" if "test" in sample.key else None
            yield replace(sample, split=split, label=None if sample.label == "any" else sample.label)

    def _read(self, file: Path) -> Tensor:
        if "bad" in file.name:
            raise Unreadable(f"{file.name}: damaged")
        return super()._read(file)

    def evaluation(self) -> vqmm.Evaluation:
        return MarkedEvaluation()


@vqmm.hookimpl
def register_modalities(register):
    register(Marked)
