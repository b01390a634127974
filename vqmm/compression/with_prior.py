"""The codes of one sample as few bytes under a prior, and back; on another machine too.

A code is written as the bits of its index, most significant first: a walk down a binary tree, at every node of which
the prior's scores say how likely a 1 is. Decoder and encoder must agree on that to the last bit, and floats do not:
another machine sums in another order. So

- the prior computes in float64, where machines differ by some 1e-13 of a score;
- what it says at a node, a logit, only chooses a cell of a grid of `STEP`. The cell's middle is coded with, by integer
  arithmetic: 24 bits of probability, from `decimal`, whose exponential is the same everywhere by definition. A logit
  in the wrong place within its cell costs at most 0.1% of the bits;
- only a logit right at the border of two cells could still fall to either side. The encoder knows all of them, and
  shifts the grid, for every `SEGMENT` of codes by one of 256 offsets, to where the nearest border is as far from any of
  them as it can be. That distance is the `margin`: 0.007 for 16 codes, less for more. Tables that a
  prior has made in float32, such as those of rotary positions, differ by 1e-7 where they differ at all;
- the encoder decodes what it has written, code by code where it wrote with one pass over the whole, so that two orders
  of summing have agreed already.

What is promised: a file opens wherever the logits come out within the margin of those of the machine that wrote it. The
checksum of the codes in the file tells where they did not.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqmm.contracts.labels import label_number
from vqmm.contracts.vocabulary import NULL, Layout
from vqmm.generation.generator import Generator, own_weights
from vqmm.generation.prompts import LABEL
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError
from vqmm.utils.files import hash_tensors

ONE = 1 << 24  # a probability of 1
STEP = 0.25  # of a logit's grid: UNITS units, of which an offset is 2
UNITS = 512
OFFSETS = UNITS // 2
LIMIT = 14.0  # of a logit: 24 bits still hold its probability
SEGMENT = 2048  # codes that share an offset, which takes a byte
LEAST_MARGIN = 1e-6


@dataclass(frozen=True)
class Packed:
    """Codes under a prior.

    Attributes:
        model: the prior's fingerprint.
        data: an offset for each segment, and the coded bits.
        bits: what a coder without any loss would have taken under the prior's own probabilities.
        margin: how far the nearest border of the grid is from any logit.
    """

    model: bytes
    data: bytes
    bits: float
    margin: float

    def figures(self) -> dict[str, Any]:
        """For those who ask what came of it."""
        metrics = {"model_bits": self.bits, "code_bits": 8 * len(self.data), "margin": self.margin}
        return {"model": self.model.hex(), **metrics}


class PriorCoder:
    """Codes of one tokenizer, under a prior that learnt from it.

    Args:
        generator: the prior. It is copied.
        where: what stands for it in errors.

    Attributes:
        fingerprint: 8 bytes for all that decides its scores.
        labels: the classes that it can be told; empty where it knows none.

    Raises:
        UserError: the prior does not speak of this tokenizer's codes.
    """

    def __init__(self, generator: Generator, tokenizer: Tokenizer, where: object):
        self.vocabulary, self.where = generator.vocabulary, where
        self.own = self.vocabulary.require(tokenizer.modality.name, tokenizer.code_fingerprint(), "this run")
        self.fingerprint = fingerprint(generator)
        self.labels = generator.labels if generator.has_modality(LABEL) else ()
        self.prior = copy.deepcopy(generator.prior).double().cpu().eval().requires_grad_(False)

    @property
    def stages(self) -> int:
        """How many stages of codes it has learnt."""
        return max(map(len, self.own.sizes))

    def pack(self, maps: Sequence[np.ndarray], label: str | None = None) -> Packed:
        """The maps (stages, *grid) of one sample as bytes; `label`: its class, where the prior is to be told.

        Raises:
            UserError: grids, stages or a class that the prior has not learnt; scores that leave no margin, or are no
                numbers, or are others step by step than of the whole.
        """
        block = self.own.join([torch.from_numpy(np.ascontiguousarray(item, dtype=np.int64))[None] for item in maps])
        prompt = self._prompt(label)
        ids = torch.cat([prompt, block], dim=1)
        with torch.inference_mode():
            features = self.prior.features(ids, self.prior.grammar.places(ids))[0, prompt.shape[1] : -2]
            first, stop = self.own.columns[: len(features)].unbind(1)
            codes = (block[0, 1:-1] - first).numpy()
            logits, bits, total = self._asked(features, codes, stop - first)
        parts = [np.concatenate(logits[i : i + SEGMENT]) for i in range(0, len(logits), SEGMENT)]
        offsets, margins = zip(*map(best_offset, parts), strict=True)
        margin = min(margins)
        if margin < LEAST_MARGIN:
            raise UserError(
                f"the scores of {self.where} leave a margin of {margin:.1g}, and it takes {LEAST_MARGIN:.0e} to be "
                "read elsewhere. Compress without --model"
            )
        middles = [item for part, offset in zip(parts, offsets, strict=True) for item in units(part, offset).tolist()]
        data = bytes(offsets) + _written([*map(chance, middles)], np.concatenate(bits).tolist())
        again = self.unpack(data, [item.shape for item in maps], label)
        if not all(map(np.array_equal, again, maps)):
            raise UserError(
                f"the scores of {self.where} step by step are more than {margin:.1g} from those of the whole: what it "
                "compresses could not be read. Compress without --model, or with another prior"
            )
        return Packed(self.fingerprint, data, total, margin)

    def unpack(
        self, data: bytes, shapes: Sequence[tuple[int, ...]], label: str | None = None
    ) -> tuple[np.ndarray, ...]:
        """The inverse of `pack`: int64 maps of these shapes (stages, *grid). Other bytes give other codes, no error.

        Raises:
            UserError: grids, stages or a class that the prior has not learnt.
        """
        span = self.own
        blank = span.join([torch.zeros(1, *shape, dtype=torch.int64) for shape in shapes])  # which says what is wrong
        prompt = self._prompt(label)
        ids = torch.cat([prompt, blank], dim=1)
        places = self.prior.grammar.places(ids)
        reader = _Reader(data, -(-(blank.shape[1] - 2) // SEGMENT))
        start = prompt.shape[1] + 1
        with torch.inference_mode():
            state = self.prior.start(1, ids.shape[1])
            features = self.prior.step(ids[:, :start], places[:, :start], state)[0, -1:]
            for place, (low, stop) in enumerate(span.columns[: ids.shape[1] - start - 1].tolist(), start=start):
                ids[0, place] = low + reader.code(_nodes(self._scores(features, low, stop)))
                if place + 2 < ids.shape[1]:
                    features = self.prior.step(ids[:, place : place + 1], places[:, place : place + 1], state)[0]
        codes = ids[:, start:-1] - span.columns[: ids.shape[1] - start - 1, 0]
        layout = Layout(tuple(shape[1:] for shape in shapes), span.sizes)
        return tuple(code_map[0].numpy() for code_map in layout.split(codes))

    def _asked(
        self, features: Tensor, codes: np.ndarray, sizes: Tensor
    ) -> tuple[list[np.ndarray], list[np.ndarray], float]:
        """Of codes (N,) after features (N, width): for each the logits at the nodes that it passes, and its bits there;
        and the bits that they take altogether without any rounding."""
        logits: list[np.ndarray] = [np.empty(0)] * len(codes)
        bits: list[np.ndarray] = [np.empty(0, dtype=int)] * len(codes)
        total = 0.0
        for low in self.own.columns[: len(codes), 0].unique().tolist():
            (where,) = (self.own.columns[: len(codes), 0] == low).numpy().nonzero()
            symbols = codes[where]
            scores = self._scores(features[where], low, low + int(sizes[where[0]]))
            total += float((np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(symbols)), symbols]).sum())
            levels = _nodes(scores)
            depth = len(levels)
            for number, symbol in enumerate(symbols.tolist()):
                passed = [level[number, symbol >> (depth - at)] for at, level in enumerate(levels)]
                path_bits = [(symbol >> (depth - 1 - at)) & 1 for at in range(depth)]
                real = np.isfinite(passed)
                logits[where[number]] = np.array(passed, dtype=float)[real]
                bits[where[number]] = np.array(path_bits, dtype=int)[real]
        return logits, bits, total / float(np.log(2))

    def _scores(self, features: Tensor, low: int, stop: int) -> np.ndarray:
        """float64 (N, stop - low), in float64 all the way, which `Prior.score` is not."""
        scores = features.double() @ self.prior.head.weight[low:stop].double().T
        if not scores.isfinite().all():
            raise UserError(f"the scores of {self.where} are no numbers: its training went astray")
        return scores.numpy()

    def _prompt(self, label: str | None) -> Tensor:
        """(1, L): the class; NULLs where a prior that is always told one is not; else nothing."""
        if self.labels and label is not None:
            return self.vocabulary[LABEL].join([torch.tensor([[[label_number(label, self.labels, str(self.where))]]])])
        always_told = bool(self.labels) and len(self.vocabulary.ranges) == 2
        return torch.full((1, self.vocabulary[LABEL].block if always_told else 0), NULL)


def fingerprint(generator: Generator) -> bytes:
    """8 bytes for a prior: its kind, options, vocabulary, labels and weights."""
    prior = generator.prior
    config = {"prior": {"name": prior.name, **prior.options.to_config()}, "labels": [*generator.labels]}
    hasher = hashlib.sha256(json.dumps({**config, **prior.vocabulary.described()}, sort_keys=True).encode())
    hash_tensors(hasher, own_weights(prior))
    return hasher.digest()[:8]


# From scores to probabilities that are the same everywhere


def _nodes(scores: np.ndarray) -> list[np.ndarray]:
    """Of scores (N, K) the logit of a 1 at every node of the tree, from the root on: (N, 1), (N, 2), (N, 4), ...

    Minus infinity, or no number, where there is no code on the side of a 1.
    """
    depth = (scores.shape[1] - 1).bit_length()
    mass = np.full((len(scores), 1 << depth), -np.inf)
    mass[:, : scores.shape[1]] = scores
    levels = []
    with np.errstate(invalid="ignore"):  # of two empty sides
        for _ in range(depth):
            left, right = mass[:, ::2], mass[:, 1::2]
            levels.append(right - left)
            mass = np.logaddexp(left, right)
    return levels[::-1]


def best_offset(logits: np.ndarray) -> tuple[int, float]:
    """The offset whose borders are furthest from any of the logits, and how far that is."""
    if not len(logits):
        return 0, STEP / 2
    within = np.sort(logits.clip(-LIMIT, LIMIT) % STEP)
    around = np.concatenate([within[-1:] - STEP, within, within[:1] + STEP])
    borders = np.arange(OFFSETS) * (STEP / OFFSETS)
    above = np.searchsorted(around, borders)
    gaps = np.minimum(around[above] - borders, borders - around[above - 1])
    best = int(gaps.argmax())
    return best, float(gaps[best])


def units(logits: np.ndarray, offset: int) -> np.ndarray:
    """The middle of each logit's cell, int64, in STEP / UNITS."""
    cells = np.floor((logits.clip(-LIMIT, LIMIT) - offset * (STEP / OFFSETS)) / STEP).astype(np.int64)
    return cells * UNITS + UNITS // 2 + offset * (UNITS // OFFSETS)


@cache
def chance(middle: int) -> int:
    """The probability of a 1, in ONEs, of a logit in STEP / UNITS. By exact decimal arithmetic, correctly rounded."""
    with localcontext() as context:
        context.prec = 20
        share = ONE / (1 + (-Decimal(middle) * Decimal(STEP) / UNITS).exp())
        return max(1, min(ONE - 1, round(share)))


@cache
def _model(share: int) -> Any:
    """constriction's model of a bit; a multiple of 2^-24 is an exact float."""
    import constriction

    return constriction.stream.model.Bernoulli(share / ONE, perfect=False)


def _written(chances: Sequence[int], bits: Sequence[int]) -> bytes:
    """The bits under these probabilities, in as few bytes as can be read: zeros follow where bytes have ended."""
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    for share, bit in zip(chances, bits, strict=True):
        encoder.encode(bit, _model(share))
    whole = encoder.get_compressed().astype(">u4").tobytes()
    for length in range(max(len(whole) - 8, 0), len(whole)):
        for more in (0, 1):
            number = int.from_bytes(whole[:length]) + more
            if number >> (8 * length) == 0 and _reads(number.to_bytes(length), chances, bits):
                return number.to_bytes(length).rstrip(b"\0")
    return whole.rstrip(b"\0")


def _reads(data: bytes, chances: Sequence[int], bits: Sequence[int]) -> bool:
    reader = _Bits(data)
    return all(reader.read(share) == bit for share, bit in zip(chances, bits, strict=True))


class _Bits:
    """Reads what `_written` gave. Other bytes give other bits; where they are no code at all, zeros."""

    def __init__(self, data: bytes):
        import constriction

        words = np.frombuffer(data + bytes(-len(data) % 4), dtype=">u4").astype(np.uint32)
        self.decoder = constriction.stream.queue.RangeDecoder(words)

    def read(self, share: int) -> int:
        try:
            return int(self.decoder.decode(_model(share)))
        except AssertionError:  # how constriction says that nothing is coded so
            return 0


class _Reader:
    """Reads codes from what `PriorCoder.pack` has written."""

    def __init__(self, data: bytes, segments: int):
        self.offsets, self.bits, self.done = data[:segments].ljust(segments, b"\0"), _Bits(data[segments:]), 0

    def code(self, levels: Sequence[np.ndarray]) -> int:
        """The code that comes next, by the logits (1, nodes) of every level."""
        offset = self.offsets[self.done // SEGMENT]
        self.done += 1
        node = 0
        for level in levels:
            logit = level[0, node : node + 1]
            bit = 0
            if np.isfinite(logit[0]):
                bit = self.bits.read(chance(int(units(logit, offset)[0])))
            node = 2 * node + bit
        return node
