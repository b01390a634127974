"""Stage by stage through nearest_code's own search, in plain torch: the path of a CPU, and of devices without Triton.

Also what other paths share: the preparation of codebooks, and backward and statistics, which recompute every residual
from the vectors and the indices, so that none is stored.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.code_sums import sums_of_kept
from vqmm.kernels.nearest_code.cpu import prepare_cpu
from vqmm.kernels.nearest_code.prepare import Prepared, prepare

Search = Callable[[Tensor, Prepared], Tensor]  # (N, D), one codebook -> int (N,)

BLOCK_NUMBERS = 2**20  # of a residual that goes through all stages in a CPU's cache: 4 MiB


def may_look(tensor: Tensor) -> bool:
    """Whether values may decide what is done next; on a GPU the host would wait for them."""
    return tensor.device.type == "cpu"


def zero_others_(x_ND: Tensor, keep_N: Tensor) -> None:
    """Selects: what is not kept becomes 0, whatever it was."""
    if not (may_look(keep_N) and bool(keep_N.all())):
        x_ND.masked_fill_(~keep_N[:, None], 0.0)


class Books(NamedTuple):
    """The codebooks that a call's stages use, each distinct one once."""

    code_KD: Tensor  # float32, contiguous: the master values
    rows: list[int]  # of each book
    books: list[int]  # which book each stage uses
    metric: str

    @property
    def firsts(self) -> list[int]:
        """The row where each stage's book begins."""
        return [sum(self.rows[:book]) for book in self.books]

    @property
    def sizes(self) -> list[int]:
        """How many codes each stage has."""
        return [self.rows[book] for book in self.books]

    def prepared(self) -> Prepared:
        """All books, as the search reads them."""
        ready = prepare_cpu if self.code_KD.device.type == "cpu" else prepare
        return ready(self.code_KD, self.metric, self.rows)

    def each(self, once: bool) -> Callable[[int], Prepared]:
        """One book at a time. once: nobody asks again, so each is made when asked for, in the memory of the last."""
        if once:
            return lambda book: prepare_cpu(self.code_KD.split(self.rows)[book], self.metric, [self.rows[book]])
        return self.prepared().groups.__getitem__


def books_of(code_KD: Tensor, sizes: Sequence[int], offsets: Sequence[int], metric: str) -> Books:
    """Stages that share a codebook share its preparation. Copies codes only where the books do not simply follow."""
    spans = list(zip(offsets, sizes, strict=True))
    distinct = sorted(set(spans))
    follow = all(a + k == b for (a, k), (b, _) in pairwise(distinct))
    if follow:
        code_KD = code_KD[distinct[0][0] : sum(distinct[-1])]
    else:
        code_KD = torch.cat([code_KD[first : first + size] for first, size in distinct])
    return Books(
        code_KD.float().contiguous(), [size for _, size in distinct], [distinct.index(span) for span in spans], metric
    )


def quantize_staged(
    x_ND: Tensor, keep_N: Tensor, books: Books, stages_N: Tensor | None, search: Search
) -> tuple[Tensor, Tensor, Tensor]:
    """(vectors_ND float32, index_NQ int32, error_NQ float32) of as many stages as there are books."""
    (n, width), q = x_ND.shape, len(books.books)
    outputs = (
        torch.zeros(n, width, dtype=torch.float32, device=x_ND.device),
        torch.full((n, q), -1, dtype=torch.int32, device=x_ND.device),
        torch.zeros(n, q, dtype=torch.float32, device=x_ND.device),
    )
    rows = max(64, BLOCK_NUMBERS // width)
    book = books.each(once=may_look(x_ND) and n <= rows)
    if not may_look(x_ND):
        used_N = torch.full_like(keep_N, q, dtype=torch.int64) if stages_N is None else stages_N
        quantize_block(x_ND, keep_N, used_N, [n] * q, books, book, search, outputs)
        return outputs
    for at in (slice(first, first + rows) for first in range(0, n, rows)):
        part = tuple(v[at] for v in outputs)
        if stages_N is None:
            m = len(x_ND[at])
            quantize_block(x_ND[at], keep_N[at], torch.full((m,), q), [m] * q, books, book, search, part)
            continue
        used_N, order_N = stages_N[at].sort(descending=True, stable=True)  # those that go on are always the first ones
        left = [int((used_N > stage).sum()) for stage in range(q)]
        sorted_part = tuple(v.clone() for v in part)
        quantize_block(x_ND[at][order_N], keep_N[at][order_N], used_N, left, books, book, search, sorted_part)
        for whole, piece in zip(part, sorted_part, strict=True):
            whole[order_N] = piece
    return outputs


def quantize_block(
    x_ND: Tensor,
    keep_N: Tensor,
    used_N: Tensor,
    left: Sequence[int],
    books: Books,
    book: Callable[[int], Prepared],
    search: Search,
    outputs: tuple[Tensor, ...],
) -> None:
    """All stages of one block. left: at each stage no vector after the first so many goes on.

    outputs: vectors (0), indices (-1) and errors (0), written where a vector uses a stage.
    """
    vectors_ND, index_NQ, error_NQ = outputs
    residual_ND = torch.where(keep_N[:, None], x_ND, 0.0).float()
    chosen_ND = torch.empty_like(residual_ND)
    firsts = books.firsts
    for q, m in enumerate(left):
        if m == 0:
            break
        active_n = used_N[:m] > q
        live_n = keep_N[:m] & active_n
        residual_nD, chosen_nD = residual_ND[:m], chosen_ND[:m]
        index_n = torch.where(keep_N[:m], search(residual_nD, book(books.books[q])), 0)
        torch.index_select(books.code_KD, 0, index_n + firsts[q], out=chosen_nD)
        residual_nD.sub_(chosen_nD)
        zero_others_(chosen_nD, active_n)
        zero_others_(residual_nD, live_n)
        vectors_ND[:m] += chosen_nD
        index_NQ[:m, q] = torch.where(active_n, index_n, -1)
        error_NQ[:m, q] = torch.mul(residual_nD, residual_nD, out=chosen_nD).sum(1)


def lookup_staged(index_NQ: Tensor, code_KD: Tensor, offsets: Sequence[int]) -> Tensor:
    """float32 (N, D): codes added from zero in stage order; -1 adds nothing."""
    vectors_ND = torch.zeros(index_NQ.shape[0], code_KD.shape[1], device=code_KD.device)
    chosen_ND = torch.empty_like(
        vectors_ND, dtype=code_KD.dtype
    )  # one for all stages: new memory costs ten times a copy
    for index_N, first in zip(index_NQ.unbind(1), offsets, strict=True):
        torch.index_select(code_KD, 0, index_N.clamp_min(0) + first, out=chosen_ND)
        zero_others_(chosen_ND, index_N >= 0)
        vectors_ND += chosen_ND
    return vectors_ND


def residuals(
    x_ND: Tensor, code_KD: Tensor, index_NQ: Tensor, keep_N: Tensor, offsets: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """What each stage left, one after the other, in one buffer: (residual after the stage (N, D) float32, live_N).

    It begins with x itself, before any stage. live_N: kept, and using the stage; the residual of all others is 0.
    """
    residual_ND = torch.where(keep_N[:, None], x_ND, 0.0).float()
    chosen_ND = torch.empty_like(residual_ND)
    yield residual_ND, keep_N
    for index_N, first in zip(index_NQ.unbind(1), offsets, strict=True):
        live_N = keep_N & (index_N >= 0)
        residual_ND.sub_(torch.index_select(code_KD, 0, index_N.clamp_min(0) + first, out=chosen_ND))
        zero_others_(residual_ND, live_N)
        yield residual_ND, live_N


def add_sums_(
    counts_K: Tensor, sums_KD: Tensor, x_ND: Tensor, index_N: Tensor, live_N: Tensor, first: int, size: int
) -> None:
    """One stage's counts and sums, added to those of the stages before it."""
    if may_look(x_ND):  # straight into place: making and adding another (K, D) costs more than the sums of few vectors
        if not live_N.all():
            x_ND, index_N = x_ND[live_N], index_N[live_N]
        counts_K[first : first + size] += torch.bincount(index_N, minlength=size)
        sums_KD[first : first + size].index_add_(0, index_N, x_ND)
        return
    counts_k, sums_kD = sums_of_kept(x_ND, index_N, size, live_N)
    counts_K[first : first + size] += counts_k
    sums_KD[first : first + size] += sums_kD


def sums_staged(
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    sizes: Sequence[int],
    offsets: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """counts int64 (K,) and sums float32 (K, D) of the residual that each stage saw."""
    counts_K = torch.zeros(len(code_KD), dtype=torch.int64, device=x_ND.device)
    sums_KD = torch.zeros(code_KD.shape, dtype=torch.float32, device=x_ND.device)
    code_KD = code_KD.float()
    seen = residuals(x_ND, code_KD, index_NQ[:, :-1], keep_N, offsets[:-1])
    for (residual_ND, _), index_N, first, size in zip(seen, index_NQ.unbind(1), offsets, sizes, strict=True):
        add_sums_(counts_K, sums_KD, residual_ND, index_N, keep_N & (index_N >= 0), first, size)
    return counts_K, sums_KD


def pull_staged(
    through_ND: Tensor,
    pull_NQ: Tensor,
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    offsets: Sequence[int],
) -> Tensor:
    """The gradient of x, float32 (N, D): through + sum over stages of 2 pull (r_q - code_q)."""
    grad_ND = torch.where(keep_N[:, None], through_ND, 0.0)
    left = residuals(x_ND, code_KD.float(), index_NQ, keep_N, offsets)
    next(left)
    for (residual_ND, live_N), pull_N in zip(left, pull_NQ.unbind(1), strict=True):
        grad_ND.addcmul_(residual_ND, torch.where(live_N, pull_N, 0.0)[:, None], value=2)
    return grad_ND


def code_pull_staged(
    pull_NQ: Tensor,
    x_ND: Tensor,
    code_KD: Tensor,
    index_NQ: Tensor,
    keep_N: Tensor,
    sizes: Sequence[int],
    offsets: Sequence[int],
) -> Tensor:
    """The gradient of the codebooks, float32 (K, D): -2 pull (r_q - code_q), summed over the vectors of each code."""
    grad_KD = torch.zeros(code_KD.shape, dtype=torch.float32, device=x_ND.device)
    counts_K = torch.zeros(len(code_KD), dtype=torch.int64, device=x_ND.device)
    left = residuals(x_ND, code_KD.float(), index_NQ, keep_N, offsets)
    next(left)
    columns = zip(left, index_NQ.unbind(1), pull_NQ.unbind(1), offsets, sizes, strict=True)
    for (residual_ND, live_N), index_N, pull_N, first, size in columns:
        add_sums_(counts_K, grad_KD, residual_ND * (-2 * pull_N)[:, None], index_N, live_N, first, size)
    return grad_KD
