"""A softmax over all codes: entropies, usage, cross-entropy, soft codes and Gumbel draws, never N x K numbers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqmm.kernels import checks
from vqmm.kernels.codebook_softmax import plain
from vqmm.kernels.codebook_softmax.plain import NEVER, Problem, Pulls, Softmax
from vqmm.kernels.codebook_softmax.reference import codebook_softmax_baseline, codebook_softmax_reference, unit
from vqmm.kernels.codebook_softmax.tables import TABLES
from vqmm.kernels.nearest_code.prepare import centre

__all__ = [
    "codebook_softmax",
    "CodebookSoftmax",
    "path_for",
    "codebook_softmax_reference",
    "codebook_softmax_baseline",
]

PRECISIONS = ("exact", "fast")
LARGEST = 1e15  # sum of magnitudes that a vector or a code may have: products stay below 1e30, so nothing overflows


class CodebookSoftmax(NamedTuple):
    """What codebook_softmax gives back. p_nk = softmax over k of s_nk, in nats."""

    log_sum_N: Tensor  # float32 (N,): log sum_k exp(s_nk)
    entropy_N: Tensor  # float32 (N,): of p_n, 0 to log K
    usage_K: Tensor | None  # float32 (K,): mean of p over the vectors that count: sums to 1, or all 0 when none counts
    vectors_ND: Tensor | None  # float32 (N, D): sum_k p_nk c_k, the soft code; of normalised codes for "cosine"
    index_N: Tensor  # int32 (N,): argmax_k s_nk, the lowest on a tie; with a seed a draw from softmax(similarity)
    cross_entropy_N: Tensor | None  # float32 (N,): -log p[target], with target_N


def path_for(device: torch.device | str, width: int, precision: str = "exact") -> str:
    """Which way codebook_softmax goes.

    "triton" on a CUDA GPU of capability 8.0 and D to 64 ("exact") or 128 ("fast"); else chunks of vectors against all
    codes in torch: "cpu" (scores in cache) or "torch" (64 MiB of scores; where D is wide the products take the time).
    """
    device = torch.device(device)
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda" or (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        return "torch"
    if TABLES.find(capability, kernel="forward", max_width=width, precision=precision) is None:
        return "torch"
    try:
        import triton  # noqa: F401
    except ImportError:  # Triton is made for Linux only
        return "torch"
    return "triton"


def codebook_softmax(
    x_ND: Tensor,
    code_KD: Tensor,
    *,
    metric: str = "euclidean",
    temperature: float | Tensor = 1.0,
    mask_N: Tensor | None = None,
    target_N: Tensor | None = None,
    seed: int | Tensor | None = None,
    precision: str = "exact",
    usage: bool = True,
    vectors: bool = True,
) -> CodebookSoftmax:
    """Softmax over the codebook for every vector. O(N + K) memory, forward and backward; all but index differentiable.

    s_nk = (similarity_nk + g_nk) / temperature; similarity is -|x - c|^2 ("euclidean"), x.c ("dot") or the cosine; g
    is standard Gumbel noise when a seed is given, else 0. The entropy loss of LFQ and IBQ is entropy_N's mean less the
    entropy of usage_K; a dVAE takes vectors_ND with a seed.

    Args:
        x_ND: vectors, shape (N, D), any floating type, any strides; computed in float32, autocast or not. N may be 0.
        code_KD: the codebook, shape (K, D), any floating type, same device. K and D at least 1.
        metric: "euclidean", "dot" or "cosine".
        temperature: above 0; a number, or a tensor of one element, which is not looked at (no synchronisation) and gets
            no gradient.
        mask_N: bool (N,), True where a vector counts.
        target_N: int32 or int64 (N,): the code whose cross-entropy to give; anything where a vector does not count.
            The cross-entropy of a code that is not finite, and on a GPU of a target outside [0, K), is +inf and passes
            no gradient back.
        seed: a 64-bit integer, or an int64 tensor of one element. The noise is a function of (seed, n, k) alone, the
            same on every path up to the rounding of the logarithms. Change it every step.
        precision: "exact": scores have float32's rounding, about D 2^-24 |x||c| / temperature (after both sides are
            centred on the codebook, for "euclidean"); "fast": TF32's on the "triton" path, 2^-11 for 2^-24. The other
            paths have what torch's own products have (float32's, unless torch is told otherwise).
        usage: False leaves out usage_K (None), and on a GPU a pass over all pairs with it.
        vectors: False leaves out vectors_ND (None), and a product with it.

    Returns:
        CodebookSoftmax. A vector that is masked out, has a NaN or Inf, or whose magnitudes sum above 1e15 (before or
        after it is divided by the temperature) has 0 everywhere, is not in usage_K and gets and gives no gradient. A
        code with a NaN or Inf, or as large, has probability 0 and no gradient. Repeated runs give the same bits. With
        no finite code at all nothing counts on a GPU.

    Raises:
        ValueError: widths or devices differ, no code, a temperature of 0 or below, an unknown metric or precision; on a
            CPU, no finite code or a target outside [0, K).
        TypeError: an input is not floating, the mask not bool, the target or seed not an integer.

    Source: the online softmax of Milakov and Gimelshein 2018 (arXiv 1805.02867), recomputed in the backward as by Dao
    et al. 2022 (arXiv 2205.14135); entropies Yu et al. 2023 (arXiv 2310.05737); noise Jang et al. 2016 (arXiv
    1611.01144) and Maddison et al. 2016 (arXiv 1611.00712).
    """
    check(x_ND, code_KD, metric, temperature, mask_N, target_N, seed, precision)
    device = x_ND.device
    with torch.autocast(device.type, enabled=False):
        problem, row_N, shift_D = posed(x_ND, code_KD, metric, temperature, mask_N)
        if target_N is not None:
            problem = problem._replace(target_N=target_N.to(torch.int32).contiguous())
        if seed is not None:
            seed_1 = seed if isinstance(seed, Tensor) else torch.full((1,), seed, dtype=torch.int64, device=device)
            problem = problem._replace(seed_1=seed_1.to(device).reshape(1))
        out = Softmax(*forward_op(*problem, precision, usage, vectors))
        log_sum_N, vectors_ND, cross_N = out.log_sum_N, None, None
        if row_N is not None:
            log_sum_N = log_sum_N + row_N
        if vectors:
            shift = 0.0 if shift_D is None else shift_D
            vectors_ND = torch.where(problem.keep_N[:, None], out.vectors_ND + shift, 0.0)
        if target_N is not None:
            cross_N = torch.where(out.cross_N > 1e30, float("inf"), out.cross_N)
    usage_K = out.usage_K if usage else None
    return CodebookSoftmax(log_sum_N, out.entropy_N, usage_K, vectors_ND, out.index_N, cross_N)


def check(
    x_ND: Tensor,
    code_KD: Tensor,
    metric: str,
    temperature: float | Tensor,
    mask_N: Tensor | None,
    target_N: Tensor | None,
    seed: int | Tensor | None,
    precision: str,
) -> None:
    """Refuse what codebook_softmax cannot take, as its docstring says."""
    name = "codebook_softmax"
    checks.check_codebook(name, x_ND, code_KD)
    checks.check_choice(name, "metric", metric, checks.METRICS)
    checks.check_choice(name, "precision", precision, PRECISIONS)
    checks.check_mask(name, mask_N, x_ND.shape[0])
    if target_N is not None:
        if target_N.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name}: target_N is {target_N.dtype}; it can be torch.int32 or torch.int64.")
        if target_N.shape != x_ND.shape[:1]:
            shape = checks.shape_of(target_N)
            raise ValueError(f"{name}: target_N has shape {shape}; with {x_ND.shape[0]} vectors it needs (N,).")
    for key, value in {"temperature": temperature, "seed": seed}.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{name}: {key} has shape {checks.shape_of(value)}; it needs one element.")
    if isinstance(seed, Tensor) and seed.dtype != torch.int64:
        raise TypeError(f"{name}: seed is {seed.dtype}; make it torch.int64.")
    if isinstance(temperature, Tensor):
        checks.check_float(name, temperature=temperature)
    elif not 0 < temperature < float("inf"):
        raise ValueError(f"{name}: temperature is {temperature}; it needs to be above 0, for instance 1.0.")
    if isinstance(seed, int) and not -(2**63) <= seed < 2**63:
        raise ValueError(f"{name}: seed is {seed}; it needs to fit 64 bits, -2**63 to 2**63 - 1.")
    if seed is not None and not isinstance(seed, (int, Tensor)):
        raise TypeError(f"{name}: seed is {seed!r}; make it an integer, or an int64 tensor of one element.")
    checks.check_device(name, x_ND=x_ND, code_KD=code_KD, mask_N=mask_N, target_N=target_N)


def posed(
    x_ND: Tensor, code_KD: Tensor, metric: str, temperature: float | Tensor, mask_N: Tensor | None
) -> tuple[Problem, Tensor | None, Tensor | None]:
    """What the op solves, by plain differentiable torch in O(N D + K D): any metric and temperature as s = q.c + bias.

    Also what log_sum lacks of each vector (its own square, which no softmax sees), and what vectors lack (the shift).
    """
    x_ND, code_KD = x_ND.float(), code_KD.float()
    if isinstance(temperature, Tensor):
        rate_1 = 1 / temperature.detach().to(x_ND.device, torch.float32).reshape(1)
    else:
        rate_1 = x_ND.new_full((1,), 1 / temperature)

    def small(v_ND: Tensor) -> Tensor:  # False for NaN and Inf too
        return v_ND.detach().abs().sum(1) < LARGEST

    keep_N, usable_K = small(x_ND), small(code_KD)
    if mask_N is not None:
        keep_N = keep_N & mask_N
    x_ND, code_KD = torch.where(keep_N[:, None], x_ND, 0.0), torch.where(usable_K[:, None], code_KD, 0.0)
    row_N = shift_D = None
    bias_K = code_KD.new_zeros(code_KD.shape[0])
    if metric == "euclidean":  # -|x - c|^2 = 2 x.c - |c|^2 - |x|^2, of both sides less the codebook's mean
        shift_D = centre(code_KD.detach(), usable_K[:, None])
        x_ND, code_KD = x_ND - shift_D, torch.where(usable_K[:, None], code_KD - shift_D, 0.0)
        bias_K, row_N = -rate_1 * code_KD.square().sum(1), -rate_1 * x_ND.square().sum(1)
        query_ND = x_ND * (2 * rate_1)
    elif metric == "cosine":
        code_KD = unit(code_KD)
        query_ND = unit(x_ND) * rate_1
    else:
        query_ND = x_ND * rate_1
    usable_K = usable_K & (bias_K.detach() > -(LARGEST**2))
    keep_N = keep_N & small(query_ND) & usable_K.any()
    query_ND = torch.where(keep_N[:, None], query_ND, 0.0)
    code_KD, bias_K = torch.where(usable_K[:, None], code_KD, 0.0), torch.where(usable_K, bias_K, NEVER)
    if row_N is not None:
        row_N = torch.where(keep_N, row_N, 0.0)
    none = torch.zeros(0, dtype=torch.int32, device=x_ND.device)
    problem = Problem(query_ND.contiguous(), code_KD.contiguous(), bias_K, keep_N, none, none.long(), rate_1)
    return problem, row_N, shift_D


@torch.library.custom_op("vqmm::codebook_softmax", mutates_args=())
def forward_op(
    query_ND: Tensor,
    code_KD: Tensor,
    bias_K: Tensor,
    keep_N: Tensor,
    target_N: Tensor,
    seed_1: Tensor,
    rate_1: Tensor,
    precision: str,
    usage: bool,
    vectors: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The softmax of a Problem, as the fields of Softmax."""
    problem = Problem(query_ND, code_KD, bias_K, keep_N, target_N, seed_1, rate_1)
    device, k = query_ND.device, code_KD.shape[0]
    if device.type == "cpu":  # where looking costs nothing
        if not (bias_K > NEVER).any():
            raise ValueError(
                f"codebook_softmax: none of the {k} codes in code_KD is finite; restore the codebook from a "
                "checkpoint, or lower the learning rate that broke it."
            )
        wrong_N = target_N[keep_N & ((target_N < 0) | (target_N >= k))] if target_N.numel() else target_N
        if wrong_N.numel():
            raise ValueError(f"codebook_softmax: target_N holds {wrong_N[0]}; with {k} codes it can be 0 to {k - 1}.")
    with torch.autocast(device.type, enabled=False):
        if path_for(device, code_KD.shape[1], precision) == "triton":
            from vqmm.kernels.codebook_softmax import fused

            return fused.forward(problem, precision, usage, vectors)
        return plain.forward(problem, usage, vectors)


@forward_op.register_fake
def _(query_ND, code_KD, bias_K, keep_N, target_N, seed_1, rate_1, precision, usage, vectors):  # type: ignore[no-untyped-def]
    n, k = query_ND.shape[0], code_KD.shape[0]
    return (
        query_ND.new_empty(n),
        query_ND.new_empty(n),
        query_ND.new_empty(target_N.shape[0]),
        query_ND.new_empty(k if usage else 0),
        query_ND.new_empty(query_ND.shape if vectors else 0),
        query_ND.new_empty(n, dtype=torch.int32),
        query_ND.new_empty(n),
        query_ND.new_empty(n),
    )


@torch.library.custom_op("vqmm::codebook_softmax_backward", mutates_args=())
def backward_op(
    query_ND: Tensor,
    code_KD: Tensor,
    bias_K: Tensor,
    keep_N: Tensor,
    target_N: Tensor,
    seed_1: Tensor,
    rate_1: Tensor,
    peak_N: Tensor,
    rest_N: Tensor,
    base_N: Tensor,
    entropy_N: Tensor,
    cross_N: Tensor,
    usage_K: Tensor,
    vectors_ND: Tensor,
    precision: str,
    of_query: bool,
    of_code: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, and of code and bias, from a Problem, its peak and rest, and Pulls. Empty: not asked for."""
    problem = Problem(query_ND, code_KD, bias_K, keep_N, target_N, seed_1, rate_1)
    pulls = Pulls(base_N, entropy_N, cross_N, usage_K, vectors_ND)
    with torch.autocast(query_ND.device.type, enabled=False):
        if path_for(query_ND.device, code_KD.shape[1], precision) == "triton":
            from vqmm.kernels.codebook_softmax import fused

            return fused.backward(problem, peak_N, rest_N, pulls, precision, of_query, of_code)
        return plain.backward(problem, peak_N, rest_N, pulls, of_query, of_code)


@backward_op.register_fake
def _(query_ND, code_KD, *rest):  # type: ignore[no-untyped-def]
    of_query, of_code = rest[-2:]
    new = query_ND.new_empty
    return (
        new(query_ND.shape if of_query else 0),
        new(code_KD.shape if of_code else 0),
        new(code_KD.shape[0] if of_code else 0),
    )


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """What autograd's backward needs of a call of forward_op."""
    out = Softmax(*output)
    ctx.mark_non_differentiable(out.index_N, out.peak_N, out.rest_N)
    ctx.set_materialize_grads(False)  # a loss that uses one output pays for one
    ctx.save_for_backward(*inputs[: len(Problem._fields)], out.entropy_N, out.vectors_ND, out.peak_N, out.rest_N)
    ctx.precision = inputs[7]


def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    """Collect what ds needs of each vector, then one op. Gradients of vectors that do not count are dropped first."""
    *saved, true_entropy_N, true_vectors_ND, peak_N, rest_N = ctx.saved_tensors
    problem, pull = Problem(*saved), Softmax(*grads)
    keep_N, none = problem.keep_N, problem.bias_K.new_zeros(0)
    base_N = torch.zeros_like(peak_N)
    entropy_N = cross_N = usage_K = vectors_ND = none
    if pull.log_sum_N is not None:
        base_N = base_N + pull.log_sum_N
    if pull.cross_N is not None and pull.cross_N.numel():
        cross_N = torch.where(keep_N, pull.cross_N, 0.0)
        base_N = base_N + cross_N
    if pull.entropy_N is not None:
        entropy_N = torch.where(keep_N, pull.entropy_N, 0.0)
        base_N = base_N - entropy_N * true_entropy_N
    if pull.usage_K is not None:
        usage_K = pull.usage_K / keep_N.sum().clamp_min(1)
    if pull.vectors_ND is not None and pull.vectors_ND.numel():
        vectors_ND = torch.where(keep_N[:, None], pull.vectors_ND, 0.0)
        base_N = base_N - (vectors_ND * true_vectors_ND).sum(1)
    base_N = torch.where(keep_N, base_N, 0.0)
    of_query, of_code = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])  # LFQ's codebook is fixed
    pulls = Pulls(base_N, entropy_N, cross_N, usage_K, vectors_ND)
    query_ND, code_KD, bias_K = backward_op(*problem, peak_N, rest_N, *pulls, ctx.precision, of_query, of_code)
    return query_ND if of_query else None, *((code_KD, bias_K) if of_code else (None, None)), *[None] * 7


forward_op.register_autograd(backward, setup_context=keep_for_backward)
