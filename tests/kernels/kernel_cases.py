"""What the kernel tests share: the paths of a search, inputs, and the error bound that nearest_code states."""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqmm.kernels.nearest_code import nearest_code, nearest_code_baseline
from vqmm.kernels.nearest_code.prepare import prepare
from vqmm.kernels.nearest_code.reference import similarity_reference

PATHS = ("cpu", "torch", "triton")
NAN, INF = float("nan"), float("inf")

# The interpreter says these of a kernel whose loops end at run time, and of products with NaN and Inf.
INTERPRETER_NOISE = ("ignore:Conversion of an array:DeprecationWarning", "ignore:invalid value:RuntimeWarning")


def opcheck(op: Any, arguments: tuple[Any, ...]) -> None:
    """torch's own check of an operator, all of it.

    torch 2.14.1 differentiates copies of what it is given. They are no leaves; torch warns of that and hides it again,
    but where warnings are errors, as here, it is raised before it can be hidden.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
        torch.library.opcheck(op, arguments)


def search(path: str, x_ND: Tensor, code_KD: Tensor, metric: str = "euclidean", mask_N: Tensor | None = None) -> Tensor:
    """nearest_code by a path of its own choosing: every path on every machine."""
    if path == "cpu":
        return nearest_code(x_ND, code_KD, metric=metric, mask_N=mask_N)
    if path == "torch":
        return nearest_code_baseline(x_ND, code_KD, metric=metric, mask_N=mask_N, chunk_bytes=2**16)
    if torch.cuda.is_available():
        mask_N = None if mask_N is None else mask_N.cuda()
        return nearest_code(x_ND.cuda(), code_KD.cuda(), metric=metric, mask_N=mask_N).cpu()
    from vqmm.kernels.nearest_code.fused import search_triton

    index_N = search_triton(x_ND[None], prepare(code_KD, metric), metric, "exact", False)[0][0]
    return index_N if mask_N is None else torch.where(mask_N, index_N, 0)


def integers(generator: torch.Generator, *shape: int, reach: int = 4) -> Tensor:
    return torch.randint(-reach, reach + 1, shape, generator=generator).float()


def shortfall(x_ND: Tensor, code_KD: Tensor, index_N: Tensor, metric: str = "euclidean") -> Tensor:
    """How much worse the chosen code is than the best, in float64: squared distance, or product."""
    similarity_NK = similarity_reference(x_ND, code_KD, metric)
    return similarity_NK.amax(1) - similarity_NK.gather(1, index_N.long()[:, None])[:, 0]


def bound(x_ND: Tensor, code_KD: Tensor, metric: str = "euclidean") -> Tensor:
    """The shortfall that nearest_code's docstring allows, (N,) float64."""
    unit, width = 2.0 ** (-22 if torch.cuda.is_available() else -24), x_ND.shape[1]
    prepared = prepare(code_KD, metric)
    if metric == "cosine":
        return torch.full((x_ND.shape[0],), 4 * (width + 16) * unit, dtype=torch.float64)
    shift_D = 0.0 if prepared.shift_GD is None else prepared.shift_GD[0].double()
    x_N = (x_ND.double() - shift_D).norm(dim=1)
    code = prepared.code_KD.double().norm(dim=1).amax()
    if metric == "dot":
        return 2 * (width + 16) * unit * x_N * code
    return 4 * (width + 16) * unit * (x_N * code + code**2)


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any tensor made under it held."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):  # what it keeps alive: a view that repeats itself keeps little
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out
