"""The codes of one sample as few bytes, and back: a range coder under a model that learns from the codes themselves.

A code is written as the bits of its index, most significant first: a walk down a binary tree. At every node the model
says how likely a 1 is. It keeps a probability for each node in each of several contexts (no context; the code before it
along each axis; the earlier stages of its position; the coarser map's code), and mixes those by weights that it learns
as it goes, one for each context and each degree of experience with the node there (Mahoney 2005, "Adaptive weighing of
context models for lossless data compression", the logistic mixing of PAQ; the counts as weight sets are ours). Nothing
is trained and nothing is sent along: the decoder makes the same updates. All arithmetic is on integers, and so the same
on every machine; constriction's range coder (Bamler 2022, arXiv 2201.01741) gets probabilities of 16 bits, which are
exact floats.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from functools import cache
from math import prod

import numpy as np

from vqmm.contracts.batch import check_codes
from vqmm.tokens.shards import nominal_bits

ONE = 1 << 16  # a probability of 1
LOGIT = 256  # steps of a logit; logits go from -2047 to 2047
LIMIT = 30  # after so many sightings a node's probability moves by a fixed share: codes change from place to place
BUCKETS = (1, 2, 3, 5, 8, 15, LIMIT)  # sightings up to each share a weight
FIRST_WEIGHT = ONE * 3 // 10
LEARNING = 3  # of the weights
UNIFORM, ADAPTIVE = 0, 1
PRIOR = 2  # the method of vqmm.compression.with_prior

Step = Callable[[int, int], int]  # (probability of a 1, the bit where it is known) -> the bit


def pack(maps: Sequence[np.ndarray], sizes: Sequence[Sequence[int]]) -> tuple[int, bytes]:
    """The maps (stages, *grid) of one sample as bytes, and the method that took the fewest.

    Args:
        maps: integers, stage s of map m in [0, sizes[m][s]); any number of maps, stages and axes, any extent.
        sizes: the codebook size of every stage of every map (`Quantizer.sizes`), perhaps of more stages than it has.

    Raises:
        UserError: a code that its codebook does not have.
    """
    for m, (code_map, stage_sizes) in enumerate(zip(maps, sizes, strict=True)):
        check_codes(code_map, stage_sizes, f"map {m}")
    adaptive = _packed(maps, sizes, ADAPTIVE)
    if 8 * len(adaptive) < nominal_bits(maps, sizes):
        return ADAPTIVE, adaptive
    uniform = _packed(maps, sizes, UNIFORM)  # few codes, or random ones: there is nothing to learn
    return (UNIFORM, uniform) if len(uniform) <= len(adaptive) else (ADAPTIVE, adaptive)


def unpack(
    method: int, data: bytes, shapes: Sequence[tuple[int, ...]], sizes: Sequence[Sequence[int]]
) -> tuple[np.ndarray, ...]:
    """The inverse of `pack`: int64 maps of these shapes (stages, *grid). Other bytes give other codes, no error."""
    import constriction

    decoder = constriction.stream.queue.RangeDecoder(
        np.frombuffer(data + bytes(-len(data) % 4), dtype=">u4").astype(np.uint32)
    )
    decode, models = decoder.decode, _Models()
    maps = tuple(np.zeros(shape, dtype=np.int64) for shape in shapes)
    _walk(maps, sizes, method, lambda chance, _: decode(models[chance]))
    return maps


def _packed(maps: Sequence[np.ndarray], sizes: Sequence[Sequence[int]], method: int) -> bytes:
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    encode, models = encoder.encode, _Models()

    def step(chance: int, bit: int) -> int:
        encode(bit, models[chance])
        return bit

    _walk([code_map.astype(np.int64) for code_map in maps], sizes, method, step)
    # the decoder reads zeros after the end
    return encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")


class _Models(dict):
    """constriction's model of a bit for every probability of a 1, in 65,536ths, made when it is first needed."""

    def __missing__(self, chance: int) -> object:
        import constriction

        # a multiple of 2^-16 is an exact float, and the coder's own 24 bits hold it exactly
        made = self[chance] = constriction.stream.model.Bernoulli(chance / ONE, perfect=False)
        return made


def _walk(maps: Sequence[np.ndarray], sizes: Sequence[Sequence[int]], method: int, step: Step) -> None:
    """Code every map in place: cells in row-major order, the stages of a cell together, coarse map first."""
    for m, (code_map, stage_sizes) in enumerate(zip(maps, sizes, strict=True)):
        stages, grid = code_map.shape[0], code_map.shape[1:]
        flat = [stage.tolist() for stage in code_map.reshape(stages, prod(grid))]
        before = _before(grid)
        above, parents = _parents(maps[m - 1], grid) if m else ([], [0] * prod(grid))
        coders = [_StageCoder(size) for size in stage_sizes[:stages]]
        for cell in range(prod(grid)):
            for s, coder in enumerate(coders):
                codes = flat[s]
                if method == UNIFORM:
                    codes[cell] = coder.code([], codes[cell], step)
                    continue
                contexts = [0]
                contexts += [1 + codes[line[cell]] if line[cell] >= 0 else 0 for line in before]
                if s:
                    contexts.append(flat[s - 1][cell])
                if s > 1:
                    contexts.append(flat[s - 1][cell] * stage_sizes[s - 2] + flat[s - 2][cell])
                if m:
                    contexts.append(above[min(s, len(above) - 1)][parents[cell]])
                codes[cell] = coder.code(contexts, codes[cell], step)
        code_map[...] = np.array(flat, dtype=np.int64).reshape(code_map.shape)


def _before(grid: tuple[int, ...]) -> list[list[int]]:
    """For each axis the flat index of the cell before each cell, -1 at the border."""
    cells = np.arange(prod(grid)).reshape(grid)
    lines = []
    for axis in range(len(grid)):
        line = np.full(grid, -1, dtype=np.int64)
        later, earlier = ([slice(None)] * len(grid) for _ in range(2))
        later[axis], earlier[axis] = slice(1, None), slice(None, -1)
        line[tuple(later)] = cells[tuple(earlier)]
        lines.append(line.reshape(-1).tolist())
    return lines


def _parents(coarser: np.ndarray, grid: tuple[int, ...]) -> tuple[list[list[int]], list[int]]:
    """The codes (stages, cells) of a coarser map, and the flat index of the one over each cell of `grid`."""
    extent = coarser.shape[1:]
    if not prod(extent):
        return [[0]] * len(coarser), [0] * prod(grid)
    places = [np.arange(n) * have // max(n, 1) for n, have in zip(grid, extent, strict=True)]
    index = np.ravel_multi_index(np.meshgrid(*places, indexing="ij"), extent)
    return coarser.reshape(len(coarser), -1).tolist(), index.reshape(-1).tolist()


class _StageCoder:
    """The model of one stage of one map. `size`: its codebook's."""

    def __init__(self, size: int):
        self.size, self.depth = size, (size - 1).bit_length()
        self.tables: list[dict[int, int]] = []  # per context: (context, node) -> probability of a 1, times seen
        self.weights: list[list[list[int]]] = []  # per level of the tree and context, for each bucket
        self.squash, self.stretch, self.bucket, self.rate = _curves()

    def code(self, contexts: Sequence[int], code: int, step: Step) -> int:
        """Pass the bits of a code through `step`, with what these contexts say of them; the code that comes out."""
        if len(self.tables) < len(contexts):
            self.tables = [{} for _ in contexts]
            self.weights = [[[FIRST_WEIGHT] * len(BUCKETS) for _ in contexts] for _ in range(self.depth)]
        squash, stretch, bucket, rate = self.squash, self.stretch, self.bucket, self.rate
        places = [(table, context << self.depth) for table, context in zip(self.tables, contexts, strict=True)]
        node = 1  # the bits so far after a leading 1
        for level in range(self.depth - 1, -1, -1):
            first = ((2 * node + 1) << level) - (1 << self.depth)  # the lowest code on the side of a 1
            if first >= self.size:
                node *= 2
                continue
            known, inputs, total = 0, [], 0
            for (table, base), weights in zip(places, self.weights[level] if places else (), strict=True):
                state = table.get(base + node, 0)
                if state:
                    logit, group = stretch[state >> 12], bucket[state & 255]
                    total += weights[group] * logit
                    inputs.append((table, base + node, state, weights, logit, group))
                else:
                    inputs.append((table, base + node, 0, weights, 0, 0))
                known |= state
            if known:
                chance = squash[max(-2047, min(2047, total >> 16)) + 2047]
            else:  # nothing is known: by how many codes there are on either side
                above = min(self.size - first, 1 << level)
                chance = max(1, min(ONE - 1, (above << 16) // (above + (1 << level))))
            bit = step(chance, (code >> level) & 1)
            goal = bit << 16
            error = (goal - chance) * LEARNING
            for table, place, state, weights, logit, group in inputs:
                seen = state & 255
                old = state >> 8 if state else chance  # a node that is new here starts from what the others say
                new = old + ((goal - old) * rate[seen] >> 16)
                table[place] = max(1, min(ONE - 1, new)) << 8 | min(seen + 1, LIMIT)
                if state:
                    weights[group] += (logit * error + (1 << 15)) >> 16
            node = 2 * node + bit
        return node - (1 << self.depth)


@cache
def _curves() -> tuple[list[int], list[int], list[int], list[int]]:
    """Tables of integers, the same everywhere (decimal arithmetic is exact by definition).

    Returns:
        squash: the probability, in 65,536ths, of each logit from -2047 to 2047;
        stretch: the logit of each probability in 4096ths;
        bucket: of each number of sightings; rate: by what share of 65,536 a node moves after so many.
    """
    with localcontext() as context:
        context.prec = 20
        positive = [round(ONE / (1 + (Decimal(-x) / LOGIT).exp())) for x in range(2048)]
    squash = [ONE - each for each in positive[:0:-1]] + positive
    stretch = np.searchsorted(np.array(squash), np.arange(4096) * 16 + 8).clip(0, 4094) - 2047
    bucket = np.searchsorted(np.array(BUCKETS), np.arange(LIMIT + 1))
    return squash, stretch.tolist(), bucket.tolist(), [2 * ONE // (2 * n + 3) for n in range(LIMIT + 1)]
