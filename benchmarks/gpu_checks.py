"""What a GPU must show of every kernel, a step each: right on big shapes, the same bits, CUDA graphs, torch.compile, no
compilation for a new N. Steps of gpu_suite; each runs in a process of its own and prints one JSON object.

    python -m vqmm.benchmarks.gpu_checks big|bits|graphs|new-n|tune|bench --out DIR [--seconds S] [--small]

--small: tiny sizes by the CPU's paths (tune: Triton's interpreter), to know that the script runs.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqmm.kernels.code_sums import code_sums
from vqmm.kernels.codebook_softmax import codebook_softmax
from vqmm.kernels.nearest_code import nearest_code, nearest_code_with_margin
from vqmm.kernels.residual_quantize import residual_lookup, residual_quantize
from vqmm.kernels.update_codebook import update_codebook_
from vqmm.kernels.vector_quantize import vector_quantize
from vqmm.measure import SHAPES, Shape
from vqmm.measure.check import MOST_PAIRS, MOST_ROWS, Outcome, verdict
from vqmm.measure.contenders import ours, tasks_of
from vqmm.measure.repeat import same_bits
from vqmm.measure.roofline import product_of
from vqmm.measure.shapes import Operands, operands

TINY = (Shape("tiny", 70, 33, 8), Shape("tiny-stack", 70, 20, 16, 3))
PRECISIONS = ("exact", "fast", "certified")
NEW_N = (1, 15, 16, 17, 100, 999, 4_095, 4_097, 30_000, 65_536)

Report = dict[str, Any]
Late = Callable[[], bool]
Function = Callable[..., Any]


def big(device: torch.device, shapes: tuple[Shape, ...], late: Late) -> Report:
    """Every vector of every shape against float64, by chunks, in each precision; and every other result by formula."""
    report: Report = {}
    for shape in shapes:
        given = operands(shape, device)
        for precision in PRECISIONS:
            if late():
                report[f"{shape.name} {precision}"] = {"passed": None, "why": "time was up"}
                continue
            rounding = 2.0**-7.9 if product_of(shape, precision, device) == "bf16" else 2.0**-9
            outcome = ours("search", given, precision)()
            parts = [
                verdict(part, result, precision, formulas=False, rounding=rounding)
                for part, result in chunks(given, outcome)
            ]
            wrong = [part.wrong for part in parts if part.wrong]
            for task in tasks_of(shape):
                result = verdict(given, ours(task, given, precision)(), precision, rounding=rounding)
                wrong += [f"{task}: {result.wrong}"] if result.wrong else []
            report[f"{shape.name} {precision}"] = {
                "passed": not wrong,
                "why": "; ".join(wrong[:3]),
                "worst": max(part.worst for part in parts),
                "ids_differ": sum(part.differ * part.checked for part in parts) / shape.n,
            }
    return report


def chunks(given: Operands, outcome: Outcome) -> Iterator[tuple[Operands, Outcome]]:
    """As many vectors at a time as a verdict looks at whole."""
    rows = max(1, min(MOST_ROWS, MOST_PAIRS // given.shape.k))
    for first in range(0, given.shape.n, rows):
        x_ND, index_NQ = given.x_ND[first : first + rows], outcome.index_NQ[first : first + rows]
        shape = given.shape._replace(n=len(x_ND))
        yield Operands(x_ND, given.code_KD, given.grad_ND[first : first + rows], shape), Outcome(index_NQ)


class Case(NamedTuple):
    """A public function as one of tensors alone, its arguments for a seed, and what is done with its result."""

    function: Function
    arguments: Callable[[int], list[Tensor]]
    differentiate: bool = False

    def run(self, given: list[Tensor], function: Function | None = None) -> list[Tensor]:
        """All results that are tensors, and with differentiate the gradient of the vectors."""
        function = function or self.function
        if self.differentiate:
            given = [given[0].detach().requires_grad_(), *given[1:]]
        output = function(*given)
        tensors = [part for part in (output if isinstance(output, list | tuple) else [output]) if part is not None]
        if not self.differentiate:
            return tensors
        error = output.error_NQ if hasattr(output, "error_NQ") else output.error_N
        return [*tensors, *torch.autograd.grad(output.vectors_ND.sum() + error.sum(), given[0])]


def cases(device: torch.device, n: int, k: int, d: int) -> dict[str, Case]:
    generator = torch.Generator()

    def given(seed: int, vectors: int = n) -> list[Tensor]:
        generator.manual_seed(seed)
        made = torch.randn(vectors, d, generator=generator), torch.randn(k, d, generator=generator)
        return [each.to(device) for each in made]

    def indexed(seed: int) -> list[Tensor]:
        return [given(seed)[0], torch.randint(k, (n,), generator=generator).to(device)]

    def averages(seed: int) -> list[Tensor]:
        _, code_KD = given(seed)
        counts_K = torch.randint(5, (k,), generator=generator).to(device)
        return [code_KD, torch.ones(k, device=device), code_KD.clone(), counts_K, code_KD * counts_K[:, None]]

    def update(*tensors: Tensor) -> list[Tensor]:
        masters = [tensor.clone() for tensor in tensors[:3]]
        return [*masters, *update_codebook_(*masters, *tensors[3:], decay=0.9)]

    sizes = [k // 2, k - k // 2]
    searches = {
        f"nearest_code {precision}": Case(lambda x, c, p=precision: nearest_code(x, c, precision=p), given)
        for precision in PRECISIONS
    }
    return searches | {
        "nearest_code cosine": Case(lambda x, c: nearest_code(x, c, metric="cosine"), given),
        "nearest_code_with_margin": Case(nearest_code_with_margin, given),
        "code_sums": Case(lambda x, index: code_sums(x, index, k), indexed),
        "vector_quantize": Case(lambda x, c: vector_quantize(x, c, statistics=True), given, True),
        "residual_quantize": Case(lambda x, c: residual_quantize(x, c, sizes, statistics=True), given, True),
        "residual_lookup": Case(lambda x, c: residual_lookup(residual_quantize(x, c, sizes)[1], c, sizes), given),
        "codebook_softmax": Case(codebook_softmax, given),
        "update_codebook_": Case(update, averages),
    }


def unlike(first: list[Tensor], second: list[Tensor], near: float = 0.0) -> str:
    """What differs: in the last bit, or with `near` by more than that share; empty: nothing does."""
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"result {number} is {a.dtype} {tuple(a.shape)}, not {b.dtype} {tuple(b.shape)}"
        if not (torch.allclose(a, b, rtol=near, atol=near) if near and a.is_floating_point() else torch.equal(a, b)):
            return f"result {number} differs by up to {float((a.double() - b.double()).abs().amax()):.3g}"
    return ""


def tried(check: Callable[[], str]) -> Report:
    """The outcome of one check: an empty answer is a pass."""
    try:
        why = check()
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        traceback.print_exc()
    return {"passed": not why, "why": why}


def graphs(device: torch.device, shapes: tuple[Shape, ...], late: Late) -> Report:
    """Each function in a CUDA graph that is replayed on other numbers, and under torch.compile with no graph break."""
    gpu = device.type == "cuda"
    report: Report = {}
    for name, case in cases(device, *((4_096, 512, 64) if gpu else (40, 16, 8))).items():
        if late():
            report[name] = {"passed": None, "why": "time was up"}
            continue
        if gpu:
            report[f"{name}, graph"] = tried(partial(captured, case))
        report[f"{name}, aot_eager"] = tried(partial(compiled, case, "aot_eager", 0.0))
        if gpu:  # what is around the kernels is fused, and rounded, in another way
            report[f"{name}, inductor"] = tried(partial(compiled, case, "inductor", 1e-4))
    return report


def captured(case: Case) -> str:
    given, stream = case.arguments(0), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            case.run(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = case.run(given)
    fresh = case.arguments(1)
    for old, new in zip(given, fresh, strict=True):
        old.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    return unlike(outputs, case.run(fresh))


def compiled(case: Case, backend: str, near: float) -> str:
    torch.compiler.reset()
    given = case.arguments(0)
    function = torch.compile(case.function, fullgraph=True, backend=backend)
    return unlike(case.run(given, function), case.run(given), near)


def new_n(device: torch.device, shapes: tuple[Shape, ...], late: Late) -> Report:
    """Kernels compiled for numbers of vectors that were never seen, after a few and many have been."""
    import triton

    made: list[str] = []

    def hook(*args: Any, **options: Any) -> None:
        made.append(str(options.get("repr", ""))[:160])

    sizes = NEW_N if device.type == "cuda" else (1, 17)
    report: Report = {}
    triton.knobs.runtime.jit_post_compile_hook = hook
    try:
        for name in cases(device, 1, 512, 64):
            for n in (4, 20, 5_000, 40_000) if device.type == "cuda" else (4, 20):
                case = cases(device, n, 512, 64)[name]
                case.run(case.arguments(0))
            made.clear()
            for n in sizes:
                if not late():
                    case = cases(device, n, 512, 64)[name]
                    case.run(case.arguments(0))
            report[name] = {"passed": not made, "why": "; ".join(made[:3])}
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None
    return report


def bits(device: torch.device, shapes: tuple[Shape, ...], late: Late) -> Report:
    runs, report = 100 if device.type == "cuda" else 3, Report()
    for shape, precision in product(shapes, PRECISIONS):
        if late():
            report[f"{shape.name} {precision}"] = {"passed": None, "why": "time was up"}
            continue
        for name, each in same_bits([shape], device, runs, [precision]).items():
            report[name] = {"passed": each, "why": "" if each else "other bits"}
    return report


CHECKS = {"big": big, "bits": bits, "graphs": graphs, "new-n": new_n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=(*CHECKS, "tune", "bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    device = torch.device("cpu" if args.small else "cuda")
    shapes = TINY if args.small else SHAPES
    end = time.monotonic() + args.seconds
    if args.step == "tune":
        from vqmm.benchmarks.tune_kernels import tune

        result = tune(device, args.seconds, small=args.small, folder=args.out if args.small else None)
    elif args.step == "bench":
        from vqmm.benchmarks.quantizer import run

        # a measurement is not begun after twice its seconds
        limits: Report = dict(seconds=0.45 * args.seconds, rounds=1 if args.small else 9, runs=0)
        result = run(list(shapes), device, out=args.out / "quantizer.json", **limits)
    else:
        result = CHECKS[args.step](device, shapes, lambda: time.monotonic() > end)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
