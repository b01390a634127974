"""Few cases instead of a whole grid: every two values of different axes meet in at least one of them.

A mistake in code that branches on its arguments shows itself, as a rule, with one value of one of them or two together;
three of them need a test that says so. A grid of 4 x 7 x 4 x 4 cases becomes 28.
"""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest


def pairs(indirect: Sequence[str] = (), **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """parametrize over the arguments named, with cases in which every pair of values of two axes occurs; those in
    `indirect` are parameters of fixtures."""
    cases = covering([len(values) for values in axes.values()])
    rows = [[values[i] for values, i in zip(axes.values(), case, strict=True)] for case in cases]
    return pytest.mark.parametrize(list(axes), rows, indirect=list(indirect))


def covering(sizes: list[int]) -> list[tuple[int, ...]]:
    """Places in axes of these sizes, greedily: each next case has as many new pairs as any could."""
    axes = list(combinations(range(len(sizes)), 2))
    left = {(a, b, i, j) for a, b in axes for i, j in product(range(sizes[a]), range(sizes[b]))}
    every = list(product(*map(range, sizes)))
    if len(sizes) < 2:
        return every
    cases: list[tuple[int, ...]] = []
    while left:
        most = max(every, key=lambda case: sum((a, b, case[a], case[b]) in left for a, b in axes))
        cases.append(most)
        left -= {(a, b, most[a], most[b]) for a, b in axes}
    return sorted(cases)
