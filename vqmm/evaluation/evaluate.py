"""One pass over held-out data: metrics, rate, use of the codebook."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.batch import Batch
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

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count, "metrics": self.metrics, "rules": self.rules, "unreadable": self.unreadable}


@torch.no_grad()
def evaluate(tokenizer: Tokenizer, batches: Iterable[Loaded], as_written: bool = False, show: int = 8) -> Evaluation:
    """Reconstruct every sample of the batches and judge it.

    Args:
        as_written: judge what a decoded file would hold (8-bit pictures), not the network's output.
        show: keep so many originals and reconstructions for a look.
    """
    modality, found = tokenizer.modality, Evaluation()
    judges = modality.metrics()
    usage = CodeUsage(tokenizer.quantizer.sizes)
    amount, seconds = 0.0, 0.0
    for batch, unreadable in batches:
        found.unreadable += unreadable
        if batch is None:
            continue
        start = time.perf_counter()
        outputs, codes = tokenizer.reconstruct(batch.to(tokenizer.device))
        outputs = [output.cpu() for output in outputs]
        seconds += time.perf_counter() - start
        if codes is not None:
            usage.update(codes)
        originals = originals_of(batch)
        if as_written:
            outputs = [modality.as_written(output) for output in outputs]
        for some_outputs, some_originals in alike(outputs, originals):
            for judge in judges.values():
                judge.update(some_outputs, some_originals)
        found.count += len(batch)
        amount += sum(modality.amount(size) for size in batch.size.tolist())
        room = max(show - len(found.shown[0]), 0)
        found.shown[0].extend(originals[:room])
        found.shown[1].extend(outputs[:room])
    if not found.count:
        return found
    for name, judge in judges.items():
        found.metrics[name] = float(judge.metric.compute())
        found.rules[name] = judge.rule
    unit = modality.rate_unit
    has_codes = bool(tokenizer.quantizer.sizes)
    found.metrics |= {
        f"bits_per_{unit}": usage.bits / amount if has_codes else None,
        "codebook_use": usage.use() if has_codes else None,
        "codebook_perplexity": usage.perplexity() if has_codes else None,
        "samples_per_second": found.count / seconds,
    }
    found.rules |= {
        f"bits_per_{unit}": f"nominal: log2 of the codebook size for every code, over all {unit}s",
        "codebook_use": "share of codes chosen at least once in this whole evaluation",
        "codebook_perplexity": "exp of the entropy of the codes of this whole evaluation",
        "samples_per_second": f"encode and decode, {tokenizer.device.type}, {torch.get_num_threads()} threads",
    }
    return found


@torch.no_grad()
def shuffled_loss_ratio(tokenizer: Tokenizer, batch: Batch) -> float | None:
    """The decoder's loss with every sample given another one's codes, over its loss: 1 if it ignores them.

    None where there is nothing to exchange (one sample) or nothing to divide by.
    """
    if len(batch) < 2:
        return None
    with evaluating(tokenizer):
        vectors = tokenizer.quantize(batch).vectors
        right, wrong = (
            float(tokenizer.decoder.loss(tokenizer.conditioned(v, batch.label), batch)[0])
            for v in (vectors, vectors.roll(1, 0))
        )
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
