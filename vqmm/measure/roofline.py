"""What the machine could do: ceilings measured in the same run, and the least time a search can take under them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from vqmm.kernels.nearest_code import explain
from vqmm.measure.shapes import Shape
from vqmm.measure.timing import Call, once

COMPARE = 3  # operations of a lane for each pair: a compare and two selects
PRODUCTS = {  # how many, on which unit, by the names of nearest_code's tables
    "split": (3, "tf32"),
    "tf32x3": (3, "tf32"),
    "high": (1, "tf32"),
    "tf32": (1, "tf32"),
    "bf16": (1, "bf16"),
    "fma": (1, "fp32"),
    "torch": (1, "fp32"),
}


class Floor(NamedTuple):
    """The least milliseconds, and what they are spent on."""

    ms: float
    unit: str


def ceilings(device: torch.device, small: bool = False) -> dict[str, float]:
    """Operations (bytes for "copy") a second, each the best of a few runs."""
    if device.type != "cuda":
        side = 256 if small else 1024
        a, b = torch.randn(side, side), torch.randn(side, side)
        return {"fp32": 2 * side**3 / _best(lambda: a @ b, device)}
    side = 8192
    rates = {}
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, dtype, tf32 in (
            ("fp32", torch.float32, False),
            ("tf32", torch.float32, True),
            ("bf16", torch.bfloat16, False),
        ):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            c, d = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
            rates[name] = 2 * side**3 / _best(lambda c=c, d=d: c @ d, device)  # type: ignore[misc]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    source, target = (torch.empty(2**30, dtype=torch.int8, device=device) for _ in range(2))
    rates["copy"] = 2 * 2**30 / _best(lambda: target.copy_(source), device)
    return rates


def _best(call: Call, device: torch.device) -> float:
    """Seconds."""
    call()
    return min(once(call, device) for _ in range(7)) / 1e3


def product_of(shape: Shape, precision: str, device: torch.device) -> str:
    """How the kernel that runs multiplies, by what explain says of it."""
    said = explain(shape.n, shape.k, shape.d, device=device, precision=precision)
    return next((name for name in PRODUCTS if f"{name} products" in said), "torch")


def floor(shape: Shape, precision: str, device: torch.device, ceiling: Mapping[str, float]) -> Floor:
    """The longest of: bytes in and out, the products that the mode does on the unit it uses, and the compares.

    On a CPU and with plain float32 arithmetic ("fma") products and compares share a unit, so they are added. A lane
    does half as many operations a second as the multiply-adds count for. Backward and sums are in nobody's floor.
    """
    pairs, bandwidth = float(shape.n) * shape.k * shape.q, ceiling.get("copy")
    if bandwidth is None:
        return Floor(1e3 * shape.flops / ceiling["fp32"], "float32 product")
    lanes = ceiling["fp32"] / 2
    product = product_of(shape, precision, device)
    times, unit = PRODUCTS[product]
    read = 4.0 * (shape.n * shape.d + shape.k * shape.d * shape.q + shape.n * shape.q)
    parts = {"bytes": read / bandwidth, "compares": COMPARE * pairs / lanes}
    if product == "fma":
        parts = {"bytes": parts["bytes"], "multiply-adds and compares": (COMPARE + shape.d) * pairs / lanes}
    else:
        parts[f"{product} products"] = times * shape.flops / ceiling[unit]
    slowest = max(parts, key=lambda name: parts[name])
    return Floor(1e3 * parts[slowest], slowest)
