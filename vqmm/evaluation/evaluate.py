"""One pass over held-out data: metrics, rate, use of the codebook."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.batch import Batch, Codes
from vqmm.data.loader import Loaded
from vqmm.evaluation.usage import CodeUsage
from vqmm.files import write_text
from vqmm.modality import Modality
from vqmm.tokenizer import Tokenizer, evaluating


@dataclass
class Evaluation:
    """What a pass has found: `metrics` by name with `rules` for each, how many samples, and which could not be read."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    count: int = 0
    unreadable: list[str] = field(default_factory=list)
    shown: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))  # originals, reconstructions
    inputs: list[Tensor] = field(default_factory=list)  # what the shown ones were made from, where that was degraded

    @property
    def rows(self) -> tuple[list[Tensor], ...]:
        """What to look at: originals, reconstructions; or inputs, reconstructions, originals."""
        return (self.inputs, *self.shown[::-1]) if self.inputs else self.shown

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count, "metrics": self.metrics, "rules": self.rules, "unreadable": self.unreadable}


@torch.no_grad()
def evaluate(
    tokenizer: Tokenizer,
    batches: Iterable[Loaded],
    as_written: bool = False,
    show: int = 8,
    stages: int | None = None,
) -> Evaluation:
    """Reconstruct every sample of the batches and judge it; of a decoder that is slow to sample, the first few.

    Args:
        as_written: judge what a decoded file would hold (8-bit pictures), not the network's output.
        show: keep so many originals and reconstructions for a look.
        stages: use only the first so many stages of the quantizer.
    """
    look = _Pass(tokenizer, as_written, show, stages)
    for batch, unreadable in batches:
        look.found.unreadable += unreadable
        if batch is not None:
            look.add(batch.to(tokenizer.device))
    return look.finished()


class _Pass:
    """What one pass over the data counts on its way."""

    def __init__(self, tokenizer: Tokenizer, as_written: bool, show: int, stages: int | None):
        self.tokenizer, self.as_written, self.show, self.stages = tokenizer, as_written, show, stages
        self.found = Evaluation()
        self.judges = tokenizer.modality.metrics()
        self.usage = CodeUsage([each[:stages] for each in tokenizer.quantizer.sizes])
        self.amount, self.seconds, self.reconstructed = 0.0, 0.0, 0
        self.bits, self.bits_shuffled, self.values, self.values_shuffled = 0.0, 0.0, 0, 0

    def add(self, batch: Batch) -> None:
        self.found.count += len(batch)
        self.amount += sum(self.tokenizer.modality.amount(size) for size in batch.size.tolist())
        if self.tokenizer.decoder.likelihood:
            self._weigh(batch)
        most = self.tokenizer.decoder.judged
        codes = self._judge(batch) if most is None or self.reconstructed < most else self._codes(batch)
        if codes is not None:
            self.usage.update(codes)

    def _weigh(self, batch: Batch) -> None:
        count = batch.goal.numel() if batch.mask is None else int(batch.mask.sum()) * batch.goal.shape[1]
        right, wrong = right_and_shuffled(self.tokenizer, batch, self.stages)
        self.bits += right * count
        self.values += count
        if len(batch) > 1:  # one sample has nobody to exchange codes with
            self.bits_shuffled += wrong * count
            self.values_shuffled += count

    def _codes(self, batch: Batch) -> Codes | None:
        return self.tokenizer.encode(batch, self.stages) if self.tokenizer.quantizer.stages else None

    def _judge(self, batch: Batch) -> Codes | None:
        start = time.perf_counter()
        outputs, codes = self.tokenizer.reconstruct(batch, stages=self.stages)
        outputs = [output.cpu() for output in outputs]
        self.seconds += time.perf_counter() - start
        self.reconstructed += len(batch)
        originals = originals_of(batch)
        if self.as_written:
            outputs = [self.tokenizer.modality.as_written(output) for output in outputs]
        for some_outputs, some_originals in alike(outputs, originals):
            for judge in self.judges.values():
                judge.update(some_outputs, some_originals)
        room = max(self.show - len(self.found.shown[0]), 0)
        self.found.shown[0].extend(originals[:room])
        self.found.shown[1].extend(outputs[:room])
        if batch.target is not None:
            self.found.inputs.extend(originals_of(replace(batch, target=None))[:room])
        return codes

    def finished(self) -> Evaluation:
        found, tokenizer = self.found, self.tokenizer
        if not found.count:
            return found
        of_some = f"; of the first {self.reconstructed} samples" if self.reconstructed < found.count else ""
        for name, judge in self.judges.items():
            found.metrics[name] = float(judge.metric.compute())
            found.rules[name] = judge.rule + of_some
        if self.values:
            found.metrics["bits_per_dim"] = self.bits / self.values
            found.rules["bits_per_dim"] = "negative log-likelihood of a sample given its codes, over its values"
        if self.values_shuffled:
            found.metrics["bits_per_dim_shuffled"] = self.bits_shuffled / self.values_shuffled
            found.rules["bits_per_dim_shuffled"] = "the same given another sample's codes: how much the codes say"
        unit = tokenizer.modality.rate_unit
        has_codes = bool(tokenizer.quantizer.sizes)
        found.metrics |= {
            f"bits_per_{unit}": self.usage.bits / self.amount if has_codes else None,
            "codebook_use": self.usage.use() if has_codes else None,
            "codebook_perplexity": self.usage.perplexity() if has_codes else None,
            "samples_per_second": self.reconstructed / self.seconds,
        }
        found.rules |= {
            f"bits_per_{unit}": f"nominal: log2 of the codebook size for every code, over all {unit}s",
            "codebook_use": "share of codes chosen at least once in this whole evaluation",
            "codebook_perplexity": "exp of the entropy of the codes of this whole evaluation",
            "samples_per_second": f"encode and decode, {tokenizer.device.type}, {torch.get_num_threads()} threads",
        }
        return found


@torch.no_grad()
def right_and_shuffled(tokenizer: Tokenizer, batch: Batch, stages: int | None = None) -> tuple[float, float]:
    """The decoder's loss with each sample's own codes, and with those of another sample of the batch."""
    with evaluating(tokenizer):
        vectors = tokenizer.quantize(batch, stages).vectors
        right, wrong = (
            float(tokenizer.decoder.loss(tokenizer.conditioned(v, batch.label), batch)[0])
            for v in (vectors, vectors.roll(1, 0))
        )
    return right, wrong


def shuffled_loss_ratio(tokenizer: Tokenizer, batch: Batch) -> float | None:
    """How many times worse the decoder does with other samples' codes: 1 if it ignores them.

    The ratio of the losses; for a decoder with a likelihood, the ratio of the likelihoods of a value. None where there
    is nothing to exchange (one sample) or nothing to divide by.
    """
    if len(batch) < 2:
        return None
    right, wrong = right_and_shuffled(tokenizer, batch)
    if tokenizer.decoder.likelihood:
        return 2.0 ** min(wrong - right, 64.0)
    return wrong / right if right > 0 else None


def originals_of(batch: Batch) -> list[Tensor]:
    """What each reconstruction is judged against, cut to its own size."""
    boxes = [tuple(slice(0, n) for n in size) for size in batch.size.tolist()]
    return [goal[(slice(None), *box)].cpu() for goal, box in zip(batch.goal, boxes, strict=True)]


def alike(outputs: list[Tensor], originals: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Stacks of pairs that have one shape."""
    by_shape: dict[torch.Size, list[int]] = {}
    for i, original in enumerate(originals):
        by_shape.setdefault(original.shape, []).append(i)
    for places in by_shape.values():
        yield torch.stack([outputs[i] for i in places]), torch.stack([originals[i] for i in places])


def write_shown(modality: Modality, rows: Sequence[Sequence[Tensor]], path: Path) -> Path:
    """Write what the modality shows of rows of samples: a PNG picture or an HTML fragment. `path` has no suffix."""
    shown = modality.show(*rows)
    if isinstance(shown, str):
        file = path.with_name(path.name + ".html")
        write_text(file, shown)
    else:
        file = path.with_name(path.name + ".png")
        shown.save(file)
    return file
