"""A look at held-out data for the page: metrics, samples to show, and the counts of every code."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from vqmm.data.degrade import read_degradation
from vqmm.data.loader import Loaded, evaluation_batches
from vqmm.data.source import Source, evaluation_samples
from vqmm.evaluation.evaluate import EvaluationResult, evaluate, evaluation_views
from vqmm.evaluation.usage import CodeUsage
from vqmm.pages.record import Record
from vqmm.registry import Registry
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError

SAMPLES = 512  # looked at where the recipe does not say
SHOWN = 8  # originals and reconstructions


@dataclass
class HeldOut:
    """One pass: what it found, the keys of the samples shown, and on how many of how many samples of which split."""

    tokenizer: Tokenizer
    usage: CodeUsage
    split: str
    available: int
    given: str = ""  # what the samples went through, in words
    evaluation: EvaluationResult = field(default_factory=EvaluationResult)
    keys: list[str] = field(default_factory=list)

    @property
    def what(self) -> str:
        """What was looked at, in words."""
        count = self.evaluation.count
        some = f"{count:,}" + (f" of {self.available:,}" if count < self.available else "")
        return f"{some} samples; {self.split}; {self.tokenizer.modality.evaluation().view}{self.given}"

    def watch(self, batches: Iterator[Loaded]) -> Iterator[Loaded]:
        """Pass batches on, noting keys and counting codes (an evaluation keeps neither)."""
        for batch, unreadable in batches:
            if batch is not None:
                self.keys += batch.key[: SHOWN - len(self.keys)]
                if self.usage.counts:
                    self.usage.update(self.tokenizer.encode(batch.to(self.tokenizer.device)))
            yield batch, unreadable


def load_tokenizer(record: Record, registry: Registry) -> Tokenizer:
    """A `UserError` where none is saved yet, or where it cannot be read."""
    if not record.has_tokenizer:
        raise UserError("no tokenizer is saved yet: the first one comes with the first look at held-out data")
    return Tokenizer.load(record.folder, registry)


def evaluate_held_out(record: Record, tokenizer: Tokenizer) -> HeldOut:
    """Evaluate a run on the held-out part of the data that its recipe names, on as many samples as in training.

    Raises:
        UserError: the data is not there any more, or nothing in it can be read.
    """
    data = record.recipe.get("data")
    if not data:
        raise UserError("recipe.yaml does not say where the data was")
    source = Source(tokenizer.modality, data)
    samples, split = evaluation_samples(source, source.path)
    degrade = read_degradation(record.plan.get("degrade"))
    given = "" if degrade is None else f", {degrade.said}"
    seen = HeldOut(tokenizer, CodeUsage(tokenizer.quantizer.sizes), split, len(samples), given)
    views = evaluation_views(tokenizer, samples, degrade=degrade)
    limit = record.plan.get("evaluate_samples", SAMPLES)
    batches = evaluation_batches(views, record.plan.get("batch_size", 32), limit)
    seen.evaluation = evaluate(tokenizer, seen.watch(batches), show=SHOWN)
    if not seen.evaluation.count:
        raise UserError(f"none of the samples of {data} can be read; the first: {seen.evaluation.unreadable[0]}")
    return seen
