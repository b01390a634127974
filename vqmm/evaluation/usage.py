"""How a codebook is used, counted over a whole evaluation."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqmm.contracts.batch import Codes


class CodeUsage:
    """Counts every code of every stage of every map.

    >>> usage = CodeUsage(((4,),))
    >>> usage.update(Codes((torch.tensor([[[0, 1, 1]]]),), torch.tensor([[3]])))
    >>> usage.use(), round(usage.perplexity(), 3), usage.bits, round(usage.entropy_bits(), 3)
    (0.5, 1.89, 6.0, 2.755)
    """

    def __init__(self, sizes: Sequence[Sequence[int]]):
        self.sizes = sizes
        self.counts = [[torch.zeros(size, dtype=torch.int64) for size in stages] for stages in sizes]
        self.bits = 0.0  # nominal: log2 of the codebook's size for every code

    def update(self, codes: Codes) -> None:
        """Count the codes of a batch, without padding. Entries of -1 (stages left out) add to `bits` alone."""
        for counts, code_map, mask in zip(self.counts, codes.maps, codes.map_masks(), strict=True):
            for stage in range(code_map.shape[1]):
                ids = code_map[:, stage] if mask is None else code_map[:, stage][mask]
                ids = ids.reshape(-1).long()
                # added where the codes are: no waiting for a GPU, and integers come out the same in any order; a stage
                # that a sample leaves out (-1, in training) is not counted
                counts[stage] = counts[stage].to(ids.device).scatter_add_(0, ids.clamp(min=0), (ids >= 0).long())
                self.bits += ids.numel() * math.log2(len(counts[stage]))

    def add(self, counts: Sequence[Sequence[Tensor]]) -> None:
        """What was counted elsewhere, or before."""
        for mine, theirs in zip(self.counts, counts, strict=True):
            for stage_counts, other in zip(mine, theirs, strict=True):
                stage_counts += other.to(stage_counts)

    def total(self) -> int:
        """How many codes there are, in all codebooks."""
        return sum(len(counts) for stages in self.counts for counts in stages)

    def seen(self) -> int:
        """How many codes were counted."""
        return sum(int(counts.sum()) for stages in self.counts for counts in stages)

    def dead(self) -> int:
        """How many of them were never seen."""
        return sum(int((counts == 0).sum()) for stages in self.counts for counts in stages)

    def use(self) -> float:
        """The share of codes seen at least once, averaged over the codebooks."""
        return _mean([float((counts > 0).double().mean()) for stages in self.counts for counts in stages])

    def perplexity(self) -> float:
        """exp of the entropy of the codes, averaged over the codebooks: how many codes it is as if there were."""
        return _mean([math.exp(_entropy(counts)) for stages in self.counts for counts in stages])

    def entropy_bits(self) -> float:
        """What all counted codes would take under an ideal coder that knows how often each code of each stage of each
        map comes, and nothing of its neighbours: never more than `bits`.
        """
        each = [int(counts.sum()) * _entropy(counts) for stages in self.counts for counts in stages]
        return math.fsum(each) / math.log(2)

    def stages(self) -> list[dict[str, Any]]:
        """`map`, `stage`, `size` (of the codebook), `use` and `perplexity` of every stage of every map."""
        return [
            {
                "map": m,
                "stage": s,
                "size": len(counts),
                "use": float((counts > 0).double().mean()),
                "perplexity": math.exp(_entropy(counts)),
            }
            for m, stages in enumerate(self.counts)
            for s, counts in enumerate(stages)
        ]


def _entropy(counts: Tensor) -> float:
    """In nats."""
    share = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(share).sum())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
