"""What every kernel refuses, in one line that holds the values and what would be right."""

from collections.abc import Sequence

import torch
from torch import Tensor

METRICS = ("euclidean", "cosine", "dot")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def shape_of(tensor: Tensor) -> str:
    """A shape as messages write it."""
    return str(tuple(tensor.shape))


def check_choice(function: str, argument: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices (ValueError)."""
    if value not in choices:
        raise ValueError(f"{function}: {argument} is {value!r}; it can be {', '.join(map(repr, choices))}.")


def check_float(function: str, **tensors: Tensor) -> None:
    """Refuse tensors, by name, that are not of a floating type (TypeError)."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise TypeError(
                f"{function}: {name} is {tensor.dtype}; give it a floating type, for instance {name}.float()."
            )


def check_rank(function: str, rank: int, **tensors: Tensor) -> None:
    """Refuse tensors, by name, that have not so many dimensions (ValueError)."""
    for name, tensor in tensors.items():
        if tensor.dim() != rank:
            raise ValueError(f"{function}: {name} has shape {shape_of(tensor)}; it needs {rank} dimension(s).")


def check_device(function: str, **tensors: Tensor | None) -> None:
    """Refuse tensors, by name, that are not all on one device (ValueError)."""
    there = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(there.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in there.items())
        raise ValueError(f"{function}: {where}; move all of them to one device.")


def check_codebook(function: str, x_ND: Tensor, code_KD: Tensor, sizes: Sequence[int] | None = None) -> None:
    """The operands of a search: both floating, same width, at least one code; x (N, D), with sizes (G, N, D)."""
    check_float(function, x_ND=x_ND, code_KD=code_KD)
    check_rank(function, 2, code_KD=code_KD)
    if code_KD.shape[0] == 0 or code_KD.shape[1] == 0:
        raise ValueError(f"{function}: code_KD has shape {shape_of(code_KD)}; it needs at least 1 code of width 1.")
    if sizes is None:
        check_rank(function, 2, x_ND=x_ND)
    else:
        check_sizes(function, sizes, code_KD.shape[0])
        if x_ND.dim() != 3 or x_ND.shape[0] != len(sizes):
            raise ValueError(
                f"{function}: x has shape {shape_of(x_ND)}; with {len(sizes)} codebooks it needs ({len(sizes)}, N, D)."
            )
    if x_ND.shape[-1] != code_KD.shape[1]:
        raise ValueError(
            f"{function}: x_ND has width {x_ND.shape[-1]} (shape {shape_of(x_ND)}), code_KD has width "
            f"{code_KD.shape[1]} (shape {shape_of(code_KD)}); project x_ND first, or make a codebook of width "
            f"{x_ND.shape[-1]}."
        )


def check_sizes(function: str, sizes: Sequence[int], K: int) -> None:
    """Rows of codebooks that lie one after the other in K rows."""
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"{function}: sizes are {tuple(sizes)}; give the rows of each codebook, at least 1 in each.")
    if sum(sizes) != K:
        raise ValueError(f"{function}: sizes {tuple(sizes)} make {sum(sizes)} codes, there are {K}.")


def check_mask(function: str, mask_N: Tensor | None, shape: int | Sequence[int]) -> None:
    """A mask over vectors: bool, one for each of them (the shape of x without its last dimension)."""
    if mask_N is None:
        return
    if mask_N.dtype != torch.bool:
        raise TypeError(f"{function}: mask_N is {mask_N.dtype}; it selects, so make it torch.bool (True is kept).")
    check_vectors(function, "mask_N", mask_N, shape)


def check_index(function: str, index_N: Tensor, shape: int | Sequence[int]) -> None:
    """Indices of codes: int32 or int64 (else TypeError), one for each vector."""
    if index_N.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{function}: index_N is {index_N.dtype}; it can be torch.int32 or torch.int64.")
    check_vectors(function, "index_N", index_N, shape)


def check_vectors(function: str, name: str, tensor: Tensor, shape: int | Sequence[int]) -> None:
    """One entry for each vector."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if tuple(tensor.shape) != shape:
        count = " x ".join(map(str, shape))
        raise ValueError(f"{function}: {name} has shape {shape_of(tensor)}; with {count} vectors it needs {shape}.")
