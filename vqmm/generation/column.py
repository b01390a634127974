"""Column: the rows of one modality that a prior learns from, looked through once."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

from vqmm.contracts.labels import require_every_label
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.generation.pairs import RowSource
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import HELD_OUT, TRAIN
from vqmm.utils.errors import Remark, UserError

SPLITS = (TRAIN, HELD_OUT)
NAMED = 8  # things that a message names one by one

Grids = tuple[tuple[int, ...], ...]  # of all maps of a row


class Column:
    """One modality's rows in both splits.

    Args:
        rows: by split.
        where: what messages call them.

    Attributes:
        name: of the modality.
        sizes: the codebook sizes of every stage of every map, of the stages that the rows have.
        grids: by split, how many rows lie on which grids.
        usable: by split, the numbers of the rows that have codes.
        labels: by split, the label of every row.
        digest: 16 hex digits for keys, labels and codes.

    Raises:
        UserError: a split without a row that has codes; rows of different numbers of stages.
    """

    def __init__(self, tokenizer: Tokenizer, rows: Mapping[str, RowSource], where: str):
        self.tokenizer, self.rows, self.where = tokenizer, rows, where
        self.name = tokenizer.modality.name
        self.grids: dict[str, Counter[Grids]] = {split: Counter() for split in SPLITS}
        self.usable: dict[str, list[int]] = {split: [] for split in SPLITS}
        self.labels: dict[str, list[str | None]] = {split: [] for split in SPLITS}
        stages = self._look_through()
        for split in SPLITS:
            if not self.usable[split]:
                raise UserError(
                    f"{where} has no {split} rows with codes: a prior learns from {TRAIN} rows and is evaluated on "
                    f"{HELD_OUT} ones"
                )
        if len(stages) > 1:
            raise UserError(f"{where} has rows with {listed(sorted(stages))} stages of codes: encode all at one rate")
        (used,) = stages
        self.sizes = tuple(tuple(map_sizes[:n]) for map_sizes, n in zip(tokenizer.quantizer.sizes, used, strict=True))
        empty = sum(len(rows[split]) - len(self.usable[split]) for split in SPLITS)
        if empty:
            remark(f"{empty} rows of {where} have no codes, and are left out")

    def _look_through(self) -> set[tuple[int, ...]]:
        """Each row once; the numbers of stages (of every map) that were met."""
        stages = set()
        digest = hashlib.sha256()
        for split in SPLITS:
            for number in range(len(self.rows[split])):
                row = self.rows[split][number]
                self.labels[split].append(row.label)
                digest.update(json.dumps([split, row.key, row.label]).encode())
                if not all(code_map.size for code_map in row.maps):
                    continue
                self.usable[split].append(number)
                self.grids[split][tuple(code_map.shape[1:] for code_map in row.maps)] += 1
                stages.add(tuple(len(code_map) for code_map in row.maps))
                for code_map in row.maps:
                    digest.update(code_map.tobytes())
        self.digest = digest.hexdigest()[:16]
        return stages

    def added_to(self, vocabulary: Vocabulary, longest: int | None, windows: bool = False) -> Vocabulary:
        """The vocabulary and this modality: on a fixed grid where all rows have one, else of free length.

        Args:
            longest: frames at which longer lines are cut; never more than the longest training row has.
            windows: they are not cut, but taken in windows: for the remark.

        Raises:
            UserError: different grids that are no lines of one map.
        """
        fingerprint = self.tokenizer.code_fingerprint()
        every = self.grids[TRAIN] + self.grids[HELD_OUT]
        lines = all(len(grids) == len(grids[0]) == 1 for grids in every)
        if not lines:
            if len(every) > 1:
                shapes = listed(sorted(" and ".join("x".join(map(str, grid)) for grid in grids) for grids in every))
                raise UserError(
                    f"{self.where} has codes on {len(every)} different grids ({shapes}), and a prior needs one: crop "
                    "or resize what is encoded"
                )
            return vocabulary.add(self.name, self.sizes, grids=next(iter(every)), fingerprint=fingerprint)
        most = max(grids[0][0] for grids in self.grids[TRAIN])
        most = min(most, longest or most)
        over = sum(count for grids, count in every.items() if grids[0][0] > most)
        if over:
            how = "taken in windows" if windows else "cut there"
            remark(f"{over} of {every.total()} rows of {self.where} are longer than {most} frames: they are {how}")
        if all(grids[0][0] >= most for grids in every):
            return vocabulary.add(self.name, self.sizes, grids=((most,),), fingerprint=fingerprint)
        return vocabulary.add(self.name, self.sizes, longest=most, fingerprint=fingerprint)

    def members(self, split: str) -> dict[str, list[int]]:
        """The usable rows of each class."""
        by_label: dict[str, list[int]] = {}
        for number in self.usable[split]:
            label = self.labels[split][number]
            if label is not None:
                by_label.setdefault(label, []).append(number)
        unlabelled = len(self.usable[split]) - sum(map(len, by_label.values()))
        if unlabelled:
            remark(f"{unlabelled} {split} rows of {self.where} have no label, and are paired with nothing")
        return by_label

    def classes(self) -> set[str]:
        """The labels of the training rows. A `UserError` where some have none."""
        labels = [self.labels[TRAIN][number] for number in self.usable[TRAIN]]
        require_every_label(labels, f"{TRAIN} rows of {self.where}", "encode samples with labels")
        return {label for label in labels if label is not None}


def listed(things: Sequence[object]) -> str:
    """The things with commas between, for a message; after NAMED of them how many more there are."""
    shown = ", ".join(map(str, things[:NAMED]))
    return f"{shown} and {len(things) - NAMED} more" if len(things) > NAMED else shown


def remark(said: str) -> None:
    """Warn with a `Remark`, which the command line prints as one line."""
    warnings.warn(said, Remark, stacklevel=2)
