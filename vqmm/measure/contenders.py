"""Who is measured: vqmm's kernels, and what one would use in their place.

Every contender starts from the same codebook, and makes of a task one call that can be repeated. Tasks:
search: indices, no gradient. sums: indices, counts and sums of each code. forward: what training computes before the
loss is differentiated, the codebook's moving average included. train: forward and backward.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.nearest_code import nearest_code, nearest_code_baseline
from vqmm.kernels.residual_quantize import residual_quantize, residual_quantize_baseline
from vqmm.kernels.update_codebook import update_codebook_
from vqmm.kernels.vector_quantize import vector_quantize
from vqmm.measure.check import COMMITMENT, Outcome
from vqmm.measure.shapes import Operands, Shape

TASKS = ("search", "sums", "forward", "train")
DECAY = 0.99
PACKAGES = ("torch", "triton", "vector-quantize-pytorch", "flash-kmeans", "faiss-cpu")

Run = Callable[[], Outcome]


class Contender(NamedTuple):
    """name, what its products are rounded to, and how many bytes it takes for each of N K pairs."""

    name: str
    precision: str  # vqmm's own: "exact", "fast", "certified"; others': "float32", "tf32", "float16"
    bytes_a_pair: float
    make: Callable[[Operands], Run]

    @property
    def ours(self) -> bool:
        """Whether it is made of vqmm's kernels."""
        return self.name == "vqmm"


def versions() -> dict[str, str]:
    """The installed version of each of PACKAGES; "none" where it is missing."""
    by_package = {}
    for name in PACKAGES:
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            by_package[name] = "none"
    return by_package


def tasks_of(shape: Shape) -> tuple[str, ...]:
    """The tasks that a shape is measured in: all TASKS, without "sums" where it has several stages."""
    return TASKS if shape.q == 1 else tuple(task for task in TASKS if task != "sums")


def contenders(task: str, shape: Shape, device: torch.device) -> Iterator[Contender | tuple[str, str]]:
    """All that can do a task; (name, why not) for one whose package is missing."""
    gpu = device.type == "cuda"
    for precision in ("exact", "fast", "certified") if gpu else ("exact",):
        yield Contender("vqmm", precision, 0.0, partial(ours, task, precision=precision))
    learns = task in ("forward", "train")
    yield Contender("naive", "float32", 20.0 if learns or task == "sums" else 8.0, partial(naive, task))
    yield Contender("torch", "float32", 0.0, partial(plain, task))
    if gpu and task == "search" and shape.q == 1:
        yield Contender("torch.compile", "float32", 0.0, compiled)
    if learns or shape.q > 1:
        library = Contender("vector-quantize-pytorch", "float32", 24.0, partial(popular, task))
        yield library if installed("vector_quantize_pytorch") else (library.name, "not installed")
    if gpu and shape.q == 1 and task in ("search", "sums"):
        if installed("flash_kmeans"):
            yield Contender("flash-kmeans", "tf32", 0.0, partial(flash, task, dtype=torch.float32))
            yield Contender("flash-kmeans", "float16", 0.0, partial(flash, task, dtype=torch.float16))
        else:
            yield "flash-kmeans", "not installed"
    if not gpu and task == "search":
        yield Contender("faiss", "float32", 0.0, flat) if installed("faiss") else ("faiss", "not installed")


def installed(module: str) -> bool:
    """Whether a module of that name can be imported. It is looked for, and not imported."""
    from importlib.util import find_spec

    return find_spec(module) is not None


class Averages:
    """The moving averages of a codebook, and the codebook they move: a copy of the one given."""

    def __init__(self, given: Operands):
        self.k = given.shape.k
        self.code_KD = given.code_KD.clone()
        self.count_K = torch.ones(len(self.code_KD), device=self.code_KD.device)
        self.sum_KD = self.code_KD.clone()

    def update(self, outcome: Outcome) -> None:
        """By hand, one codebook after the other."""
        assert outcome.counts_K is not None and outcome.sums_KD is not None
        k = self.k
        self.count_K.mul_(DECAY).add_(outcome.counts_K, alpha=1 - DECAY)
        self.sum_KD.mul_(DECAY).add_(outcome.sums_KD, alpha=1 - DECAY)
        parts = (masters.split(k) for masters in (self.code_KD, self.count_K, self.sum_KD))
        for code_kD, count_k, sum_kD in zip(*parts, strict=True):
            n = count_k.sum()
            code_kD.copy_(sum_kD / ((count_k + 1e-5) / (n + k * 1e-5) * n)[:, None])


def learning(
    given: Operands,
    task: str,
    forward: Callable[[Tensor], tuple[Outcome, Tensor, Tensor]],
    update: Callable[[Outcome], None] = lambda outcome: None,
) -> Run:
    """Of (outcome, quantized vectors, loss) the call: with "train", the gradient of the vectors too; then an update."""

    def run() -> Outcome:
        x_ND = given.x_ND.detach().requires_grad_()
        outcome, vectors_ND, loss = forward(x_ND)
        if task == "train":
            (grad_ND,) = torch.autograd.grad([loss, vectors_ND], x_ND, [torch.ones_like(loss), given.grad_ND])
            outcome = outcome._replace(grad_ND=grad_ND)
        update(outcome)
        return outcome._replace(vectors_ND=vectors_ND.detach())

    return run


def ours(task: str, given: Operands, precision: str) -> Run:
    """The call that does a task by vqmm's kernels, their precision "exact", "fast" or "certified"."""
    shape = given.shape
    if task in ("search", "sums"):
        return lambda: our_search(task, given, precision)
    average = Averages(given)

    def forward(x_ND: Tensor) -> tuple[Outcome, Tensor, Tensor]:
        weight = COMMITMENT / x_ND.numel()
        if shape.q == 1:
            result = vector_quantize(x_ND, average.code_KD, precision=precision, statistics=True)
            outcome = Outcome(result.index_N[:, None], None, result.counts_K, result.sums_KD)
            return outcome, result.vectors_ND, weight * result.error_N.sum()
        stack = residual_quantize(x_ND, average.code_KD, shape.sizes, precision=precision, statistics=True)
        outcome = Outcome(stack.index_NQ, None, stack.counts_K, stack.sums_KD)
        return outcome, stack.vectors_ND, weight * stack.error_NQ.sum()

    def update(outcome: Outcome) -> None:
        assert outcome.counts_K is not None and outcome.sums_KD is not None
        masters = average.code_KD, average.count_K, average.sum_KD
        update_codebook_(*masters, outcome.counts_K, outcome.sums_KD, decay=DECAY, sizes=shape.sizes)

    return learning(given, task, forward, update)


@torch.no_grad()
def our_search(task: str, given: Operands, precision: str) -> Outcome:
    """One call of "search" or "sums" by vqmm's kernels; of a stack the sum of the chosen vectors too."""
    if given.shape.q > 1:
        result = residual_quantize(given.x_ND, given.code_KD, given.shape.sizes, precision=precision)
        return Outcome(result.index_NQ, result.vectors_ND)
    index_N = nearest_code(given.x_ND, given.code_KD, precision=precision)
    if task == "search":
        return Outcome(index_N[:, None])
    return Outcome(index_N[:, None], None, *code_sums(given.x_ND, index_N, given.shape.k))


def by_stages(given: Operands, find: Callable[[Tensor, Tensor], Tensor]) -> Run:
    """A stack by a search of one stage."""

    @torch.no_grad()
    def run() -> Outcome:
        left_ND, columns = given.x_ND, []
        for book_KD in given.books:
            index_N = find(left_ND, book_KD)
            columns.append(index_N)
            if len(columns) < given.shape.q:
                left_ND = left_ND - book_KD[index_N]
        return Outcome(torch.stack(columns, 1))

    return run


def tutorial(
    task: str, given: Operands, find: Callable[[Tensor, Tensor], Tensor], add: Callable[..., tuple[Tensor, Tensor]]
) -> Run:
    """The lines that every tutorial has: x + (q - x).detach(), an error, moving averages."""
    k, average = given.shape.k, Averages(given)

    def forward(x_ND: Tensor) -> tuple[Outcome, Tensor, Tensor]:
        left_ND, quantized_ND, loss, parts = x_ND, torch.zeros_like(x_ND), x_ND.new_zeros(()), []
        for code_KD in average.code_KD.split(k):
            index_N = find(left_ND.detach(), code_KD)
            chosen_ND = code_KD[index_N]
            loss = loss + (left_ND - chosen_ND).square().mean()
            parts.append((index_N, *add(left_ND.detach(), index_N, k)))
            left_ND, quantized_ND = left_ND - chosen_ND, quantized_ND + chosen_ND
        index, counts, sums = zip(*parts, strict=True)
        outcome = Outcome(torch.stack(index, 1), None, torch.cat(counts), torch.cat(sums))
        return outcome, x_ND + (quantized_ND - x_ND).detach(), COMMITMENT * loss

    return learning(given, task, forward, average.update)


def naive(task: str, given: Operands) -> Run:
    """cdist and argmin; sums by a one-hot matrix."""

    def find(x_ND: Tensor, code_KD: Tensor) -> Tensor:
        return torch.cdist(x_ND, code_KD).argmin(1)

    def add(x_ND: Tensor, index_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
        onehot_NK = torch.nn.functional.one_hot(index_N, k)
        return onehot_NK.sum(0), onehot_NK.float().T @ x_ND

    return simple(task, given, find, add)


def plain(task: str, given: Operands) -> Run:
    """The best of plain torch: a product with half norms and an argmax in chunks; bincount and index_add_."""

    def find(x_ND: Tensor, code_KD: Tensor) -> Tensor:
        return nearest_code_baseline(x_ND, code_KD).long()

    def add(x_ND: Tensor, index_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
        zeros_KD = x_ND.new_zeros(k, x_ND.shape[1])
        return torch.bincount(index_N, minlength=k), zeros_KD.index_add_(0, index_N, x_ND)

    if task == "search" and given.shape.q > 1:

        def run() -> Outcome:
            vectors_ND, index_NQ, _ = residual_quantize_baseline(given.x_ND, given.code_KD, given.shape.sizes)
            return Outcome(index_NQ, vectors_ND)

        return run
    return simple(task, given, find, add)


def simple(
    task: str, given: Operands, find: Callable[[Tensor, Tensor], Tensor], add: Callable[..., tuple[Tensor, Tensor]]
) -> Run:
    """Any task by a search and a sum."""
    if task == "search":
        return by_stages(given, find)
    if task == "sums":

        @torch.no_grad()
        def run() -> Outcome:
            index_N = find(given.x_ND, given.code_KD)
            return Outcome(index_N[:, None], None, *add(given.x_ND, index_N, given.shape.k))

        return run
    return tutorial(task, given, find, add)


def compiled(given: Operands) -> Run:
    """Plain torch through torch.compile: chunks of 64 MiB of scores."""
    rows = max(1, 2**24 // given.shape.k)

    @torch.compile(dynamic=False)
    def find(x_ND: Tensor, code_KD: Tensor) -> Tensor:
        return torch.addmm(code_KD.square().sum(1).mul(-0.5), x_ND, code_KD.T).argmax(1)

    return lambda: Outcome(torch.cat([find(part, given.code_KD) for part in given.x_ND.split(rows)])[:, None])


def popular(task: str, given: Operands) -> Run:
    """vector-quantize-pytorch, its codebooks set to those of the others."""
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize  # type: ignore

    shape, learns = given.shape, task != "search"
    options = dict(dim=shape.d, codebook_size=shape.k, decay=DECAY, commitment_weight=COMMITMENT, rotation_trick=False)
    stack = ResidualVQ(num_quantizers=shape.q, **options) if shape.q > 1 else VectorQuantize(**options)
    stack = stack.to(given.x_ND.device).train(learns)
    layers: Sequence = stack.layers if shape.q > 1 else [stack]
    for layer, book_KD in zip(layers, given.books, strict=True):
        codebook = layer._codebook
        codebook.embed.data.copy_(book_KD[None])
        codebook.embed_avg.data.copy_(book_KD[None])
        codebook.cluster_size.data.fill_(1.0)

    def forward(x_ND: Tensor) -> tuple[Outcome, Tensor, Tensor]:
        vectors_1ND, index, loss = stack(x_ND[None])
        return Outcome(index[0].reshape(shape.n, shape.q)), vectors_1ND[0], loss.sum()

    @torch.no_grad()
    def search() -> Outcome:
        return forward(given.x_ND)[0]

    return learning(given, task, forward) if learns else search


def flash(task: str, given: Operands, dtype: torch.dtype) -> Run:
    """flash-kmeans 0.3: its assignment and, for "sums", its sorted update into sums and counts."""
    from flash_kmeans import triton_centroid_update_sorted_euclid  # type: ignore
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton  # type: ignore

    x_1ND, code_1KD = given.x_ND[None].to(dtype), given.code_KD[None].to(dtype)
    square_1N = x_1ND.float().square().sum(-1)  # its k-means makes it once for all iterations

    @torch.no_grad()
    def run() -> Outcome:
        index_1N = euclid_assign_triton(x_1ND, code_1KD, square_1N)
        if task == "search":
            return Outcome(index_1N[0, :, None])
        sums_1KD = torch.zeros(code_1KD.shape, device=x_1ND.device)
        counts_1K = torch.zeros(1, given.shape.k, dtype=torch.int32, device=x_1ND.device)
        into = dict(centroid_sums=sums_1KD, centroid_cnts=counts_1K, calculate_new=False)
        triton_centroid_update_sorted_euclid(x_1ND, index_1N, code_1KD, **into)
        return Outcome(index_1N[0, :, None], None, counts_1K[0], sums_1KD[0])

    return run


def flat(given: Operands) -> Run:
    """faiss's flat index; it computes in float32 with norms, like the others."""
    import faiss  # type: ignore

    faiss.omp_set_num_threads(torch.get_num_threads())
    indices = []
    for book_KD in given.books:
        indices.append(faiss.IndexFlatL2(given.shape.d))
        indices[-1].add(book_KD.numpy())

    def run() -> Outcome:
        left_ND, columns = given.x_ND, []
        for index, book_KD in zip(indices, given.books, strict=True):
            found_N = torch.from_numpy(index.search(left_ND.numpy(), 1)[1][:, 0])
            columns.append(found_N)
            if len(columns) < given.shape.q:
                left_ND = left_ND - book_KD[found_N]
        return Outcome(torch.stack(columns, 1))

    return run
