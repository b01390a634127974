"""Rows and tokenizers that are nothing but codes, for tests of what a prior learns from."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from vqmm.generation.column import Column
from vqmm.tokens.shards import HELD_OUT, TRAIN, Row


def rows(grids: Sequence[tuple[int, ...]], labels: Sequence[str | None] | None = None, stages=1, size=9, seed=0):
    """One map each, on these grids; the first code of row i is i, so that rows can be told apart."""
    drawn = np.random.default_rng(seed)
    found = []
    for i, grid in enumerate(grids):
        codes = drawn.integers(0, size, (stages, *grid))
        if codes.size:
            codes[(0,) * codes.ndim] = i % size
        found.append(Row(f"k{i}", None if labels is None else labels[i], grid, (codes,)))
    return found


def tokenizer(name: str = "sound", sizes: Sequence[Sequence[int]] = ((9,),), fingerprint: str = "aa") -> Any:
    return SimpleNamespace(
        modality=SimpleNamespace(name=name),
        quantizer=SimpleNamespace(sizes=tuple(map(tuple, sizes))),
        code_fingerprint=lambda: fingerprint,
    )


def column(training: list[Row], held_out: list[Row], name="sound", sizes=((9,),), fingerprint="aa") -> Column:
    return Column(tokenizer(name, sizes, fingerprint), {TRAIN: training, HELD_OUT: held_out}, f"{name}-tokens")
