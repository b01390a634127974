"""Does a prior make new samples, or does it recite its training data? Said in code space, by Hamming distance.

The distance of two samples is the share of places whose codes differ; where one is longer, its surplus differs. A prior
that has learnt a distribution is as far from its training data as held-out data are; one that recites is at 0.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqmm.tokens.shards import HELD_OUT, TRAIN
from vqmm.tokens.token_set import TokenSet
from vqmm.utils.errors import UserError

MOST = 1000  # held-out samples that are compared
AT_ONCE = 2**24  # places compared together
ENDED = -1

Maps = Sequence[Tensor | np.ndarray]  # the codes of one sample: for each map (stages, *grid)


def memorisation(generated: Sequence[Maps], tokens: str | Path) -> dict[str, Any]:
    """Compare the codes of samples (`Generator.codes`) with the tokens that their prior was trained on.

    Args:
        generated: two or more.
        tokens: the folder of token shards; their training and held-out rows (up to 1,000 of these) are compared.

    Returns:
        As `memorisation_of`.

    Raises:
        UserError: shards that do not tell splits, or hold no row of one; other maps than the samples have.
    """
    parts = []
    for split in (TRAIN, HELD_OUT):
        rows = TokenSet(tokens, split)
        if not len(rows):
            raise UserError(f"{tokens} holds no {split} rows: memorisation is seen by comparing with both splits")
        most = len(rows) if split == TRAIN else min(len(rows), MOST)
        parts.append([rows[i * len(rows) // most].maps for i in range(most)])
    return memorisation_of(generated, *parts)


def memorisation_of(generated: Sequence[Maps], training: Iterable[Maps], held_out: Iterable[Maps]) -> dict[str, Any]:
    """How near samples are to the training codes, and how far from one another.

    Returns:
        `nearest_training`: mean distance to the nearest training sample; `nearest_training_held_out`: the same of
        held-out samples; `memorisation_ratio`: the one over the other, near 1 is good, near 0 recited, None where
        held-out samples are themselves training samples; `copies` and `copies_held_out`: the share at distance 0;
        `distinct`: the share of different samples among all; `pairwise` and `pairwise_held_out`: mean distance of two
        (None of fewer than two); `rules` for each, and `counts`.

    Raises:
        UserError: fewer than two samples, nothing to compare with, or other maps.
    """
    made, known, unseen = ([_line(maps) for maps in part] for part in (generated, training, held_out))
    if len(made) < 2 or not known or not unseen:
        raise UserError(
            f"{len(made)} samples, {len(known)} of training and {len(unseen)} held out: memorisation takes two samples "
            "and one of each other kind"
        )
    length = max(map(len, (*made, *known, *unseen)))
    samples, trained, fresh = (_rows(lines, length) for lines in (made, known, unseen))
    nearest, usual = (distances(rows, trained).amin(dim=1) for rows in (samples, fresh))
    far = float(usual.mean())
    return {
        "nearest_training": float(nearest.mean()),
        "nearest_training_held_out": far,
        "memorisation_ratio": float(nearest.mean()) / far if far > 0 else None,
        "copies": float((nearest == 0).double().mean()),
        "copies_held_out": float((usual == 0).double().mean()),
        "distinct": len(samples.unique(dim=0)) / len(samples),
        "pairwise": _pairwise(samples),
        "pairwise_held_out": _pairwise(fresh),
        "counts": {"samples": len(samples), "training": len(trained), "held_out": len(fresh)},
        "rules": {
            "nearest_training": "share of places whose code differs from the nearest training sample's, mean over "
            "samples",
            "nearest_training_held_out": "the same of held-out samples: what new data look like",
            "memorisation_ratio": "the one over the other: near 1 as new as held-out data, near 0 recited; null where "
            "held-out samples are training samples themselves",
            "copies": "share of samples that are some training sample, code for code",
            "copies_held_out": "share of held-out samples that are",
            "distinct": "share of different samples among all",
            "pairwise": "share of places whose codes differ, mean over pairs of samples: diversity",
            "pairwise_held_out": "the same of held-out samples",
        },
    }


def distances(ones: Tensor, others: Tensor) -> Tensor:
    """float64 (N, M): the Hamming distances, 0 to 1, of lines (N, L) and (M, L), ENDED after a line's end."""
    lengths = [(rows != ENDED).sum(dim=1) for rows in (ones, others)]
    longer = torch.maximum(lengths[0][:, None], lengths[1]).clamp(min=1)
    same = torch.empty(len(ones), len(others), dtype=torch.int64)
    step = max(1, AT_ONCE // max(others.numel(), 1))
    for start in range(0, len(ones), step):
        some = ones[start : start + step, None]
        same[start : start + step] = ((some == others) & (some != ENDED)).sum(dim=2)
    return 1 - same.double() / longer


def _pairwise(rows: Tensor) -> float | None:
    """The mean distance of two different ones; each to itself is 0."""
    count = len(rows)
    return float(distances(rows, rows).sum()) / (count * (count - 1)) if count > 1 else None


def _line(maps: Maps) -> np.ndarray:
    """The codes of a sample one after the other, each map's stages first to last."""
    return np.concatenate([np.asarray(codes).reshape(len(codes), -1).T.reshape(-1) for codes in maps]).astype(np.int32)


def _rows(lines: Sequence[np.ndarray], length: int) -> Tensor:
    """int32 (N, length), ENDED after each line's end."""
    rows = np.full((len(lines), length), ENDED, dtype=np.int32)
    for row, line in zip(rows, lines, strict=True):
        row[: len(line)] = line
    return torch.from_numpy(rows)
