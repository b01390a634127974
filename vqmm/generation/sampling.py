"""Drawing blocks of ids from a prior: with a condition or without, whole or from a part that is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqmm.contracts.prior import Prior
from vqmm.contracts.vocabulary import NULL, PAD, Range
from vqmm.tokenizer.model import evaluating
from vqmm.utils.errors import UserError
from vqmm.utils.seeds import seed_of

PLAUSIBLE = 0.1  # of the likeliest id's probability: what an id needs, where guidance goes beyond the condition


@dataclass(frozen=True)
class Draw:
    """How ids are drawn from logits.

    Attributes:
        temperature: logits are divided by it; above 0.
        top_k: only the so many likeliest ids, None for all.
        top_p: only the likeliest ids that together have at least this probability (Holtzman et al. 2020, arXiv
            1904.09751, section 3.1), in (0, 1]; None for all. After temperature and top_k.
        guidance: how far to go from what is said without the condition to what is said with it, and beyond: 1 is with
            it, 0 is without, 2 to 4 follow it more closely (Ho and Salimans 2022, arXiv 2207.12598). Beyond, ids that
            with the condition are less than a tenth as likely as the likeliest are not drawn: what is merely likelier
            with it than without may be nonsense (the plausibility constraint of Li et al. 2022, arXiv 2210.15097).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature}: must be above 0; top_k=1 takes the likeliest ids")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k {self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: must be above 0 and at most 1")
        if not 0 <= self.guidance < float("inf"):
            raise UserError(f"guidance {self.guidance}: must be at least 0; 1 is none")

    def guided(self, there: Tensor, gone: Tensor) -> Tensor:
        """Logits (B, ids) from those with the condition and those without."""
        logits = gone + self.guidance * (there - gone)
        if self.guidance <= 1:
            return logits
        return logits.where(there >= there.amax(dim=-1, keepdim=True) + math.log(PLAUSIBLE), -math.inf)

    def pick(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """int64 (B,): where uniform numbers in [0, 1), float32 (B,), fall in the distributions of logits (B, ids)."""
        share = torch.softmax(logits / self.temperature, dim=-1)
        if self.top_k is not None and self.top_k < share.shape[1]:
            least = share.topk(self.top_k, dim=-1).values[:, -1:]
            share = share.where(share >= least, 0)  # those as likely as the last one stay too
        if self.top_p is not None and self.top_p < 1:
            ordered = share.sort(dim=-1, descending=True, stable=True)
            before = ordered.values.double().cumsum(dim=-1) - ordered.values
            kept = before < self.top_p * share.sum(dim=-1, keepdim=True)
            share = torch.zeros_like(share).scatter(1, ordered.indices, ordered.values * kept)
        # A float32 number below 1 times the sum stays below the sum in float64: an id of probability 0 is never met.
        reached = share.double().cumsum(dim=-1)
        ids = torch.searchsorted(reached, uniform.double()[:, None] * reached[:, -1:], right=True)[:, 0]
        return ids.clamp_(max=share.shape[1] - 1)  # beyond it only where logits are no numbers


def sample(
    prior: Prior,
    want: str,
    count: int = 1,
    *,
    given: Tensor | Sequence[Tensor] | None = None,
    known: Tensor | None = None,
    draw: Draw | None = None,
    seed: int = 0,
    first: int = 0,
    at_once: int = 64,
) -> list[Tensor]:
    """Draw blocks of one modality.

    Each sample is drawn with numbers of its own, from (seed, its place), so it does not depend on those beside it, up
    to what float32 makes of sums in another order: sample i of many is `sample(..., 1, first=i)`.

    Args:
        want: the modality.
        count: how many.
        given: what the sequences start with: whole blocks of other modalities, int64 ids (length,) for all, or
            (count, length), or a list of `count` lines of any length. Where a condition is to be left out, NULLs.
        known: the block's codes of which a part is known, int64 ids (count, codes) or (1, codes) for all, PAD where an
            id is to be drawn (`Range.known` makes them): a picture to complete, a text to go on with. What is drawn
            depends on what is known before it, and not on what is known after it. Where the length is free a beginning.
        draw: how ids are drawn.
        first: the place of the first sample.
        at_once: how many are drawn beside one another: their keys and values fill the memory.

    Returns:
        `count` lines of ids (length,), begin and end included, on the CPU.

    Raises:
        UserError: a modality that the prior does not speak, or that is given; ids that do not form whole blocks; no
            room in the prior's context; guidance without a condition; a prior whose scores are no numbers.
    """
    if count < 0 or at_once < 1:
        raise UserError(f"{count} samples, {at_once} at once: must be at least 0 and 1")
    id_range, draw = prior.vocabulary[want], draw or Draw()
    prompts = _prompts(given, count)
    known = _known(id_range, known, count)
    groups = _groups(prompts, at_once)
    stacked = [torch.stack([prompts[row] for row in rows]) for rows in groups]
    for prompt in stacked:  # all of them before the first draw
        _check(prior, id_range, prompt, draw)
    samples: dict[int, Tensor] = {}
    for rows, prompt in zip(groups, stacked, strict=True):
        uniform = torch.stack([_uniform(seed, first + row, len(id_range.layout)) for row in rows])
        with torch.inference_mode(), evaluating(prior):
            blocks = _blocks(prior, id_range, prompt, known[rows], uniform, draw)
        samples |= {row: block.clone() for row, block in zip(rows, blocks, strict=True)}  # can be trained on
    return [samples[row] for row in range(count)]


def _groups(prompts: Sequence[Tensor], at_once: int) -> list[list[int]]:
    """The places of prompts of one length together, at most `at_once`: a batch is always at the same place."""
    of_length: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        of_length.setdefault(len(prompt), []).append(row)
    return [rows[i : i + at_once] for rows in of_length.values() for i in range(0, len(rows), at_once)]


def _prompts(given: Tensor | Sequence[Tensor] | None, count: int) -> list[Tensor]:
    if given is None:
        given = torch.zeros(0, dtype=torch.int64)
    if isinstance(given, Tensor) and given.ndim == 1:
        given = [given] * count
    if len(given) != count:
        raise UserError(f"{len(given)} given sequences for {count} samples: give one for all, or one for each")
    return [each[: int((each != PAD).sum())].long().cpu() for each in given]  # PAD stands at the end


def _known(id_range: Range, known: Tensor | None, count: int) -> Tensor:
    """int64 (count, len(own.layout)), PAD where an id is to be drawn; checked."""
    steps = len(id_range.layout)
    filled = torch.full((count, steps), PAD)
    if known is None:
        return filled
    if known.ndim != 2 or len(known) not in (1, count) or known.shape[1] > steps:
        raise UserError(
            f"known ids of shape {tuple(known.shape)} for {count} blocks of {id_range.name!r}: must be (1 or {count}, "
            f"at most {steps})"
        )
    filled[:, : known.shape[1]] = known.cpu()
    there = filled != PAD
    low, high = id_range.columns.unbind(1)
    wrong = there & ((filled < low) | (filled >= high))
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise UserError(
            f"known id {int(filled[row, column])} at place {column} of {id_range.name!r}: must be from "
            f"{int(low[column])} to {int(high[column]) - 1}, or {PAD} where it is to be drawn"
        )
    if id_range.free and (there[:, 1:] & ~there[:, :-1]).any():
        raise UserError(
            f"known ids of {id_range.name!r} after ids to be drawn: where the length is free, give a beginning"
        )
    return filled


def _check(prior: Prior, id_range: Range, prompt: Tensor, draw: Draw) -> None:
    """prompt: (B, L), without padding."""
    grammar = prior.grammar
    length = prompt.shape[1]
    if length:
        if int(prompt.min()) < 0 or int(prompt.max()) >= len(prior.vocabulary):
            grammar.split(prompt.flatten())
        ids = prompt.to(grammar.kind.device)
        whole = grammar.follows(ids).all(dim=1) & grammar.outside[grammar.places(ids)[:, -1]]
        if not whole.all():
            grammar.split(ids[int(whole.int().argmin())])  # which says what is wrong
        if (prompt == id_range.begin).any():
            raise UserError(
                f"{id_range.name!r} is wanted and given: to go on with a part of it, give that part as known"
            )
    given_and_wanted = f"{length} given ids and {id_range.block} of {id_range.name!r}, a sequence"
    prior.require_room(length + id_range.block, given_and_wanted)
    if draw.guidance != 1 and not (prompt > NULL).any(dim=1).all():
        raise UserError(f"guidance {draw.guidance} without a condition: give one, or leave guidance at 1")


def _uniform(seed: int, place: int, steps: int) -> Tensor:
    """float32 (steps,) in [0, 1): the numbers of one sample."""
    return torch.rand(steps, generator=torch.Generator().manual_seed(seed_of(f"sample {seed} {place}")))


def _blocks(prior: Prior, id_range: Range, prompt: Tensor, known: Tensor, uniform: Tensor, draw: Draw) -> list[Tensor]:
    """The blocks after prompts of one length (B, L): every sequence stands at the same place all the time."""
    grammar = prior.grammar
    device = grammar.kind.device
    batch, steps = known.shape
    copies = 1 if draw.guidance == 1 else 2
    settled = int((known != PAD).all(dim=0).int().cumprod(dim=0).sum())  # so many first codes are known for all
    begin = torch.full((batch, 1), id_range.begin)
    ids = torch.cat([prompt, begin, known[:, :settled]], dim=1)
    if copies == 2:
        ids = torch.cat([ids, torch.cat([torch.full_like(prompt, NULL), ids[:, prompt.shape[1] :]], dim=1)])
    ids, known, uniform = ids.to(device), known.to(device), uniform.to(device)
    state = prior.start(len(ids), prompt.shape[1] + 1 + steps)
    features = prior.step(ids, grammar.places(ids), state)[:, -1]
    block = torch.full((batch, steps + 2), id_range.end, device=device)  # of which the first end counts
    block[:, 0] = id_range.begin
    block[:, 1 : 1 + settled] = known[:, :settled]
    running = torch.ones(batch, dtype=torch.bool, device=device)
    total = torch.zeros((), device=device)  # of all logits: no number where one of them is none
    place = int(grammar.anchor[id_range.begin]) + settled
    here = slice(place, place + steps - settled)
    places = torch.arange(len(grammar), device=device)[here]
    some_known = (known[:, settled:] != PAD).any(dim=0).tolist()
    for step, number in enumerate(grammar.span[here].tolist(), start=settled):
        low, high = grammar.spans[number]
        logits = prior.score(features, low, high)
        total += logits.sum()
        if copies == 2:
            logits = draw.guided(*logits.chunk(2))
        drawn = low + draw.pick(logits, uniform[:, step])
        if some_known[step - settled]:
            drawn = torch.where(known[:, step] == PAD, drawn, known[:, step])
        block[:, 1 + step] = drawn
        if id_range.free:
            running &= drawn != id_range.end
            if not running.any():
                break
            drawn = torch.where(running, drawn, high - 1)  # any code will do for who has ended
        if step + 1 < steps:
            now = places[step + 1 - settled].expand(len(ids), 1)
            features = prior.step(drawn.repeat(copies)[:, None], now, state)[:, 0]
    if not total.isfinite():
        raise UserError("the prior's scores are no numbers: its training went astray; take an earlier checkpoint")
    lengths = (block[:, 1:] == id_range.end).int().argmax(dim=1) + 2
    return [line[:length] for line, length in zip(block.cpu(), lengths.tolist(), strict=True)]
