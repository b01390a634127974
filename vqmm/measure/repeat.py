"""Does a kernel give the same bits, run after run?"""

from collections.abc import Iterable

import torch

from vqmm.measure.check import Outcome
from vqmm.measure.contenders import ours, tasks_of
from vqmm.measure.shapes import Shape, operands

PRECISIONS = ("exact", "fast", "certified")


def same(first: Outcome, other: Outcome) -> bool:
    """Bit for bit: NaN equals itself, and 0 is not -0."""
    for a, b in zip(first, other, strict=True):
        if a is not None and b is not None and not torch.equal(_bits(a), _bits(b)):
            return False
    return True


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor


def same_bits(
    shapes: Iterable[Shape], device: torch.device, runs: int, precisions: Iterable[str] = PRECISIONS
) -> dict[str, bool]:
    """For every shape, task and precision, whether `runs` runs, each from the same start, agree in every result."""
    agreement = {}
    for shape in shapes:
        given = operands(shape, device)
        for task in tasks_of(shape):
            for precision in precisions:
                first = ours(task, given, precision)()
                again = (ours(task, given, precision)() for _ in range(runs - 1))
                agreement[f"{shape.name} {task} {precision}"] = all(same(first, each) for each in again)
    return agreement
