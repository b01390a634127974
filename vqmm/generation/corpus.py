"""Corpus: all that a prior learns from and is evaluated on, from token shards or from pairs, and its vocabulary."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from vqmm.contracts.vocabulary import Range, Vocabulary
from vqmm.data.source import natural
from vqmm.generation.column import SPLITS, Column, listed, remark
from vqmm.generation.pair_file import read_pairs
from vqmm.generation.pairs import Aligned, ByClass, Examples, Members, Pairing, RowSource, Windows, label_rows
from vqmm.generation.prompts import LABEL
from vqmm.generation.recipe import PriorRecipe
from vqmm.tokenizer.inputs import chunks
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import HELD_OUT, TRAIN
from vqmm.tokens.token_set import TokenSet
from vqmm.utils.errors import UserError

AT_ONCE = 256  # items whose ids are counted together


class Corpus:
    """The examples of both splits, and the vocabulary that they are written in.

    Args:
        columns: one for each modality, in the order of the vocabulary.
        by_class: whether items come together by their class; else row by row.
        unreadable: what could not be read.

    Attributes:
        labels: the classes, in the order of their numbers; empty where nothing is conditioned on them.
        training, held_out: the examples.

    Raises:
        UserError: rows that do not fit into a vocabulary; no example; labels that are missing where they are needed.
    """

    def __init__(self, columns: Sequence[Column], recipe: PriorRecipe, by_class: bool, unreadable: Sequence[str] = ()):
        self.columns, self.recipe, self.unreadable = columns, recipe, list(unreadable)
        self.windows = recipe.cut == "windows"
        if self.windows and (len(columns) > 1 or recipe.longest is None):
            raise UserError(
                f"cut: windows are of one modality alone, of `longest` frames each: there are {len(columns)} "
                f"modalities, and longest is {recipe.longest}"
            )
        members: dict[str, Members] = {}
        if by_class:
            members[TRAIN] = self._members(TRAIN, None)
            # a class that cannot be learnt is not evaluated either
            members[HELD_OUT] = self._members(HELD_OUT, members[TRAIN][columns[0].name])
        self.labels: tuple[str, ...] = ()
        self.vocabulary = Vocabulary()
        if recipe.condition == LABEL:
            classes = members[TRAIN][columns[0].name] if by_class else columns[0].classes()
            self.labels = tuple(sorted(classes, key=natural))
            self.vocabulary = self.vocabulary.add(LABEL, ((len(self.labels),),), grids=((1,),))
        for column in columns:
            self.vocabulary = column.added_to(self.vocabulary, recipe.longest, self.windows)
        self.training, self.held_out = (self._examples(split, members.get(split)) for split in SPLITS)
        for split, examples in zip(SPLITS, (self.training, self.held_out), strict=True):
            if not len(examples):  # bits per code would be of no code
                where = " and ".join(column.where for column in columns)
                raise UserError(f"there is no {split} example in {where}: a prior needs {' and '.join(SPLITS)} ones")

    def _members(self, split: str, among: Collection[str] | None) -> Members:
        """The rows of each class of each modality, for the classes that all have: among those given, or any."""
        members = {column.name: column.members(split) for column in self.columns}
        every = sorted({label for by_class in members.values() for label in by_class}, key=natural)
        if among is not None:
            every = [label for label in every if label in among]
        lacking = {label: [name for name, by_class in members.items() if label not in by_class] for label in every}
        whole = [label for label, names in lacking.items() if not names]
        if not whole:
            summary = "; ".join(f"{name} has {listed([*map(repr, by_class)])}" for name, by_class in members.items())
            raise UserError(
                f"no class has {split} rows of every modality, and pairs are made by label: {summary}. Give labels "
                "that agree, or --pairs"
            )
        left = [f"{label!r} (no {', '.join(names)})" for label, names in lacking.items() if names]
        if left:
            remark(f"{len(left)} of {len(every)} classes lack {split} rows and are left out: {listed(left)}")
        return {name: {label: by_class[label] for label in whole} for name, by_class in members.items()}

    def _examples(self, split: str, members: Members | None) -> Examples:
        numbers = {label: number for number, label in enumerate(self.labels)}
        seed = self.recipe.train.seed
        pairing = self._aligned(split, numbers) if members is None else ByClass(members, numbers, seed)
        rows: dict[str, RowSource] = {column.name: column.rows[split] for column in self.columns}
        if self.labels:
            rows[LABEL] = label_rows(self.labels)
        r = self.recipe
        return Examples(
            self.vocabulary,
            rows,
            pairing,
            r.condition_dropout,
            r.token_dropout,
            seed,
            r.given,
            r.token_dropout_on,
            r.loss_on,
        )

    def _aligned(self, split: str, numbers: Mapping[str, int]) -> Pairing:
        """One modality by itself, or the rows of a table; `numbers`: of the classes, where they are a condition."""
        first = self.columns[0]
        places = first.usable[split]
        rows: dict[str, Sequence[int]] = {}
        if numbers:
            labels = first.labels[split]
            known = [place for place in places if labels[place] in numbers]
            if not known:
                raise UserError(f"no {split} row of {first.where} has a label that {TRAIN} rows have")
            if len(known) < len(places):
                remark(f"{len(places) - len(known)} {split} rows of {first.where} have no label that {TRAIN} rows have")
            places = known
            rows[LABEL] = [numbers[labels[place] or ""] for place in places]
        rows |= {column.name: places for column in self.columns}
        if not self.windows:
            return Aligned(rows)
        lengths = [first.rows[split][place].maps[0].shape[1] for place in places]
        longest = self.vocabulary[first.name].layout.grids[0][0]
        return Windows(first.name, rows, lengths, longest, self.recipe.train.seed)

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """The tokenizer of each modality, by name, in the order of the vocabulary."""
        return {column.name: column.tokenizer for column in self.columns}

    def fingerprint(self) -> str:
        """16 hex digits for all rows: keys, labels and codes."""
        digests = [[column.name, column.tokenizer.code_fingerprint(), column.digest] for column in self.columns]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]

    @cached_property
    def unigram_bits(self) -> dict[str, float]:
        """For each modality, bits per code among the training items for one who knows how often each code comes in
        its stage, and nothing else."""
        bits = {}
        for column in self.columns:
            span = self.vocabulary[column.name]
            counts = torch.zeros(len(self.vocabulary), dtype=torch.int64)
            for places in chunks(self.training.every(column.name), AT_ONCE):
                ids = torch.cat(self.training.blocks(span, places))
                counts += torch.bincount(ids, minlength=len(self.vocabulary))
            bits[column.name] = entropy_bits(span, counts)
        return bits


def entropy_bits(span: Range, counts: Tensor) -> float:
    """Bits per code when its stage is all that is known; `counts` (ids,): how often each id came.

    Where the length is free, an end is one more code of the first stage, as in `Prior.loss`.
    """
    bits = total = 0.0
    stages = [
        (s, first, size)
        for sizes, firsts in zip(span.sizes, span.firsts, strict=True)
        for s, (size, first) in enumerate(zip(sizes, firsts, strict=True))
    ]
    for stage, first, size in stages:
        here = counts[first : first + size]
        if span.free and stage == 0:
            here = torch.cat([here, counts[span.end : span.end + 1]])
        share = here.double() / here.sum().clamp(min=1)
        bits += float(here.sum()) * float(torch.special.entr(share).sum()) / math.log(2)
        total += float(here.sum())
    return bits / max(total, 1.0)


# From what a user gives


def corpus_of(
    tokenizers: Mapping[str, Tokenizer], tokens: Sequence[str], pairs: str | None, recipe: PriorRecipe
) -> Corpus:
    """The corpus of some tokenizers, by run: of a folder of tokens for each, or of a CSV of pairs.

    Raises:
        UserError: two tokenizers of one modality; tokens of another tokenizer, missing, or given twice; see `Corpus`.
    """
    named = {tokenizer.modality.name: tokenizer for tokenizer in tokenizers.values()}
    if len(named) < len(tokenizers):
        modalities = ", ".join(f"{run} is {tokenizer.modality.name}" for run, tokenizer in tokenizers.items())
        raise UserError(f"a prior speaks each modality once, and two runs are of one: {modalities}")
    if pairs is not None:
        paired = read_pairs(pairs, named)
        columns = []
        for name, tokenizer in named.items():
            rows = {split: [row for row in paired.rows[name] if row.split == split] for split in SPLITS}
            columns.append(Column(tokenizer, rows, f"the column {name!r} of {pairs}"))
        return Corpus(columns, recipe, by_class=False, unreadable=paired.unreadable)
    folders = _matched(tokenizers, tokens)
    columns = [
        Column(tokenizer, {split: TokenSet(folders[name], split) for split in SPLITS}, folders[name])
        for name, tokenizer in named.items()
    ]
    return Corpus(columns, recipe, by_class=len(columns) > 1)


def _matched(tokenizers: Mapping[str, Tokenizer], tokens: Sequence[str]) -> dict[str, str]:
    """For each modality the folder of its tokens, recognised by the code fingerprint."""
    runs = {tokenizer.code_fingerprint(): run for run, tokenizer in tokenizers.items()}
    folders: dict[str, str] = {}
    for folder in tokens:
        code_fingerprint = TokenSet(folder).header.code_fingerprint
        if code_fingerprint not in runs:
            candidates = ", ".join(f"{run} is {fingerprint}" for fingerprint, run in runs.items())
            raise UserError(
                f"{folder} was encoded by the tokenizer {code_fingerprint}, and {candidates}: give the run that "
                "encoded it, or encode anew"
            )
        if code_fingerprint in folders:
            raise UserError(
                f"{folders[code_fingerprint]} and {folder} are tokens of one tokenizer: give one folder for each run"
            )
        folders[code_fingerprint] = folder
    lacking = [run for code_fingerprint, run in runs.items() if code_fingerprint not in folders]
    if lacking:
        raise UserError(f"there are no tokens of {', '.join(lacking)}: encode some, and give their folder as well")
    return {tokenizers[run].modality.name: folders[code_fingerprint] for code_fingerprint, run in runs.items()}
