"""Vocabulary: the ids of all modalities in one list. Layout: the codes of one sample as a sequence.

A sequence is made of blocks, one for each modality at most, in any order. A block is `begin`, the codes in the order of
their Layout, `end`:

    begin-of-text 7 2 2 end-of-text begin-of-image 31 8 ... 4 end-of-image PAD PAD

Where a condition was dropped, each of its ids is NULL: the sequence keeps its length, so a batch stays in step, and one
doubled batch holds sequences with their condition and without (classifier-free guidance, Ho and Salimans 2022,
arXiv 2207.12598). `vqmm.contracts.grammar` says which id may follow which.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqmm.contracts.batch import Codes, check_codes
from vqmm.utils.errors import UserError, unknown
from vqmm.utils.files import write_text

PAD, NULL = 0, 1


@dataclass(frozen=True)
class Layout:
    """The maps of a code, flattened: coarse map first, positions in row-major order, the stages of a position together.

    Attributes:
        grids: the grid of every map, coarse first.
        sizes: the codebook size of every stage of every map (`Quantizer.sizes`).
    """

    grids: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.grids) != len(self.sizes):
            raise ValueError(f"Layout: {len(self.grids)} grids for {len(self.sizes)} maps: give one grid for each map")

    @classmethod
    def of(cls, codes: Codes, sizes: Sequence[Sequence[int]]) -> "Layout":
        """The layout of these codes, which may have fewer stages than `sizes` lists."""
        used = tuple(
            tuple(stage_sizes[: code_map.shape[1]]) for stage_sizes, code_map in zip(sizes, codes.maps, strict=True)
        )
        return cls(tuple(tuple(code_map.shape[2:]) for code_map in codes.maps), used)

    def __len__(self) -> int:
        return sum(prod(grid) * len(stages) for grid, stages in zip(self.grids, self.sizes, strict=True))

    @cached_property
    def positions(self) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
        """For each place in the sequence: (map, stage, coordinates on that map's grid)."""
        positions = []
        for which, (grid, stages) in enumerate(zip(self.grids, self.sizes, strict=True)):
            for place in torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, len(grid)).tolist():
                positions += [(which, stage, tuple(place)) for stage in range(len(stages))]
        return tuple(positions)

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        """int64 (B, len(self)): the codes of each sample in order, every stage counting from 0."""
        return torch.cat([code_map.movedim(1, -1).flatten(1) for code_map in maps], dim=1).long()

    def split(self, ids: Tensor) -> tuple[Tensor, ...]:
        """The inverse of `join`: ids (B, len(self)) -> maps, each (B, stages, *grid)."""
        if ids.ndim != 2 or ids.shape[1] != len(self):
            raise ValueError(f"Layout.split: ids of shape {tuple(ids.shape)}: must be (B, {len(self)})")
        counts = [prod(grid) * len(stages) for grid, stages in zip(self.grids, self.sizes, strict=True)]
        return tuple(
            part.reshape(len(ids), *grid, len(stages)).movedim(-1, 1)
            for part, grid, stages in zip(ids.split(counts, dim=1), self.grids, self.sizes, strict=True)
        )


@dataclass(frozen=True)
class Range:
    """The ids of one modality, or of class numbers: `begin`, `end`, then the codes of each stage of each map.

    Attributes:
        name: of the modality; "label" for class numbers, which are a map of one code.
        sizes: the codebook size of every stage of every map that is used (`Quantizer.sizes`, or less of it).
        grids: the grid of every map; None where the length is free.
        longest: where the length is free (one map of rank 1), how many frames at most; at least one is always there.
        fingerprint: the code fingerprint of the tokenizer; "" where there is none.
        begin: the first id of the range.
    """

    name: str
    sizes: tuple[tuple[int, ...], ...]
    grids: tuple[tuple[int, ...], ...] | None = None
    longest: int | None = None
    fingerprint: str = ""
    begin: int = 2

    def __post_init__(self) -> None:
        where = f"the range {self.name!r} of a vocabulary"
        if not self.sizes or not all(self.sizes) or min(map(min, self.sizes)) < 1:
            raise UserError(f"{where} has the codebook sizes {self.sizes}: every map has a stage, every stage a code")
        if (self.grids is None) == (self.longest is None):
            raise UserError(f"{where} has grids {self.grids} and longest {self.longest}: give the one or the other")
        if self.longest is not None and (self.longest < 1 or len(self.sizes) > 1):
            raise UserError(
                f"{where} has {len(self.sizes)} maps of at most {self.longest} frames: a free length needs one map and "
                "at least one frame"
            )
        if self.grids is not None:
            ranks = {len(grid) for grid in self.grids}
            right = len(self.grids) == len(self.sizes) and ranks in ({1}, {2}, {3}) and min(map(min, self.grids)) >= 1
            if not right:
                raise UserError(
                    f"{where} has the grids {self.grids} for {len(self.sizes)} maps: one for each, all of 1, all of "
                    "2 or all of 3 axes"
                )

    @cached_property
    def layout(self) -> Layout:
        """Of the block's codes; of the longest block where the length is free."""
        return Layout(((self.longest or 0,),) if self.grids is None else self.grids, self.sizes)

    @property
    def free(self) -> bool:
        """Whether blocks differ in length."""
        return self.grids is None

    @property
    def end(self) -> int:
        """The id that ends a block."""
        return self.begin + 1

    @property
    def stop(self) -> int:
        """One after the last id."""
        return self.begin + 2 + sum(map(sum, self.sizes))

    @cached_property
    def firsts(self) -> tuple[tuple[int, ...], ...]:
        """The id of code 0 of every stage of every map."""
        starts = accumulate((size for stages in self.sizes for size in stages), initial=self.begin + 2)
        return tuple(tuple(next(starts) for _ in stages) for stages in self.sizes)

    @cached_property
    def columns(self) -> Tensor:
        """int64 (len(layout), 2): the interval of ids that the codes of each place of the layout have."""
        spans = [(self.firsts[m][s], self.firsts[m][s] + self.sizes[m][s]) for m, s, _ in self.layout.positions]
        return torch.tensor(spans, dtype=torch.int64)

    @property
    def block(self) -> int:
        """How many ids a block takes, begin and end included; the longest where the length is free."""
        return len(self.layout) + 2

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        """The blocks of samples of one size: maps (B, stages, *grid) -> int64 (B, codes + 2).

        Raises:
            UserError: other maps, grids or stages than this range has, more frames than `longest`, or none; a code
                outside its codebook.
        """
        grids = tuple(tuple(code_map.shape[2:]) for code_map in maps)
        stages, wanted = [code_map.shape[1] for code_map in maps], [len(stage_sizes) for stage_sizes in self.sizes]
        if stages != wanted or (not self.free and grids != self.grids):
            raise UserError(
                f"codes of {self.name!r} with the stages {stages} on the grids {grids}: the vocabulary has "
                f"{wanted} on {self.grids or f'lines of at most {self.longest} frames'}"
            )
        if self.free and not (len(grids[0]) == 1 and 1 <= grids[0][0] <= (self.longest or 0)):
            raise UserError(
                f"{self.name!r} of {' x '.join(map(str, grids[0]))} frames: the vocabulary has room for 1 to "
                f"{self.longest}: cut it, or make the prior with a larger longest"
            )
        for m, (code_map, stage_sizes) in enumerate(zip(maps, self.sizes, strict=True)):
            check_codes(code_map.transpose(0, 1), stage_sizes, f"map {m} of {self.name!r}")
        codes = Layout(grids, self.sizes).join(maps)
        first = self.columns[: codes.shape[1], 0].to(codes.device)
        edge = codes.new_full((len(codes), 1), self.begin)
        return torch.cat([edge, codes + first, edge + 1], dim=1)

    def known(self, maps: Sequence[Tensor], keep: Sequence[Tensor]) -> Tensor:
        """For sampling: int64 (B, codes), the ids of maps (B, stages, *grid) where `keep` is True, else PAD.

        `keep`: for each map a bool tensor that spreads to its shape, such as (*grid).
        """
        codes = self.join(maps)[:, 1:-1]
        kept = [torch.broadcast_to(mask, code_map.shape) for mask, code_map in zip(keep, maps, strict=True)]
        layout = Layout(tuple(tuple(code_map.shape[2:]) for code_map in maps), self.sizes)
        return torch.where(layout.join(kept) > 0, codes, PAD)

    def split(self, codes: Tensor) -> tuple[Tensor, ...]:
        """The ids between begin and end, (codes,) or fewer than all -> maps (stages, *grid), counting from 0."""
        zero_based = codes - self.columns[: len(codes), 0].to(codes.device)
        grids = ((len(codes) // len(self.sizes[0]),),) if self.grids is None else self.grids
        return tuple(code_map[0] for code_map in Layout(grids, self.sizes).split(zero_based[None]))


@dataclass(frozen=True)
class Vocabulary:
    """Ids 0 (PAD) and 1 (NULL), then one contiguous range for each modality: adding one moves no old id."""

    ranges: tuple[Range, ...] = ()

    def __post_init__(self) -> None:
        names = [span.name for span in self.ranges]
        if len(set(names)) < len(names):
            raise UserError(f"a vocabulary with the ranges {', '.join(names)}: each modality comes once")
        begins = [2, *(span.stop for span in self.ranges)]
        if [span.begin for span in self.ranges] != begins[:-1]:
            raise UserError(f"a vocabulary whose ranges begin at {[span.begin for span in self.ranges]}: {begins[:-1]}")

    def add(
        self,
        name: str,
        sizes: Sequence[Sequence[int]],
        *,
        grids: Sequence[Sequence[int]] | None = None,
        longest: int | None = None,
        fingerprint: str = "",
    ) -> "Vocabulary":
        """This vocabulary and one more range; see `Range` for the arguments."""
        size_tuples = tuple(tuple(map(int, stages)) for stages in sizes)
        grid_tuples = None if grids is None else tuple(tuple(map(int, grid)) for grid in grids)
        return Vocabulary((*self.ranges, Range(name, size_tuples, grid_tuples, longest, fingerprint, len(self))))

    def __len__(self) -> int:
        return self.ranges[-1].stop if self.ranges else 2

    def __getitem__(self, name: str) -> Range:
        for span in self.ranges:
            if span.name == name:
                return span
        raise unknown("modality of this prior", name, [span.name for span in self.ranges])

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer that holds every id."""
        return np.min_scalar_type(len(self) - 1)

    @property
    def longest(self) -> int:
        """How many ids a sequence of all modalities takes at most."""
        return sum(span.block for span in self.ranges)

    def require(self, name: str, fingerprint: str, where: object) -> Range:
        """The range of that name, once it is known to be of that tokenizer.

        Raises:
            UserError: there is no such modality; the codes of `where` are another tokenizer's.
        """
        span = self[name]
        if span.fingerprint != fingerprint:
            raise UserError(
                f"{where} has codes of the tokenizer {fingerprint}, and the {name!r} of this prior is of "
                f"{span.fingerprint}: encode with that one, or train a prior on these"
            )
        return span

    # On disk

    def described(self) -> dict[str, Any]:
        """For JSON; `Vocabulary.of` reads it."""
        return {"format": 1, "ranges": [asdict(span) for span in self.ranges]}

    @classmethod
    def of(cls, config: Any, where: object = "a vocabulary") -> "Vocabulary":
        """The vocabulary that `described` gave, read back from JSON.

        Raises:
            UserError: it is damaged or of another format; `where` says in the message what it was read from.
        """
        try:
            if config["format"] != 1:
                raise UserError(f"its format is {config['format']!r}, and this vqmm reads format 1")
            made = cls()
            for entry in config["ranges"]:
                begin = len(made)
                made = made.add(**{name: value for name, value in entry.items() if name != "begin"})
                if entry["begin"] != begin:
                    raise UserError(f"{entry['name']!r} begins at {entry['begin']!r}, and must at {begin}")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where} is damaged: {' '.join(str(error).split())[:200]}") from None
        return made

    def save(self, path: Path) -> None:
        """Write it as JSON, in place of a file that is there; `Vocabulary.load` reads it."""
        write_text(path, json.dumps(self.described(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Raises UserError where the file is missing or damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no vocabulary of vqmm: {' '.join(str(error).split())[:200]}") from None
        return cls.of(content, path)
