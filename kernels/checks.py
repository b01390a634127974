"""What every kernel refuses, in one line that holds the values and what would be right."""

from collections.abc import Sequence

import torch
from torch import Tensor

METRICS = ("euclidean", "cosine", "dot")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def shape_of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def check_choice(function: str, argument: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{function}: {argument} is {value!r}; it can be {', '.join(map(repr, choices))}.")


def check_float(function: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise TypeError(
                f"{function}: {name} is {tensor.dtype}; give it a floating type, for instance {name}.float()."
            )


def check_rank(function: str, rank: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() != rank:
            raise ValueError(f"{function}: {name} has shape {shape_of(tensor)}; it needs {rank} dimension(s).")


def check_device(function: str, **tensors: Tensor | None) -> None:
    there = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(there.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in there.items())
        raise ValueError(f"{function}: {where}; move all of them to one device.")


def check_codebook(function: str, x_ND: Tensor, code_KD: Tensor) -> None:
    """The two operands of a search: both floating, both two-dimensional, same width, at least one code."""
    check_float(function, x_ND=x_ND, code_KD=code_KD)
    check_rank(function, 2, x_ND=x_ND, code_KD=code_KD)
    if x_ND.shape[1] != code_KD.shape[1]:
        raise ValueError(
            f"{function}: x_ND has width {x_ND.shape[1]} (shape {shape_of(x_ND)}), code_KD has width "
            f"{code_KD.shape[1]} (shape {shape_of(code_KD)}); project x_ND first, or make a codebook of width "
            f"{x_ND.shape[1]}."
        )
    if code_KD.shape[0] == 0 or code_KD.shape[1] == 0:
        raise ValueError(f"{function}: code_KD has shape {shape_of(code_KD)}; it needs at least 1 code of width 1.")


def check_mask(function: str, mask_N: Tensor | None, n: int) -> None:
    if mask_N is None:
        return
    if mask_N.dtype != torch.bool:
        raise TypeError(f"{function}: mask_N is {mask_N.dtype}; it selects, so make it torch.bool (True is kept).")
    if mask_N.shape != (n,):
        raise ValueError(f"{function}: mask_N has shape {shape_of(mask_N)}; with {n} vectors it needs ({n},).")


def check_index(function: str, index_N: Tensor, n: int) -> None:
    if index_N.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{function}: index_N is {index_N.dtype}; it can be torch.int32 or torch.int64.")
    if index_N.shape != (n,):
        raise ValueError(f"{function}: index_N has shape {shape_of(index_N)}; with {n} vectors it needs ({n},).")
