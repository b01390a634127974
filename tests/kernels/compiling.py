"""What the scripts that compile kernels for GPUs that need not be there share: a compilation, and what came out.

Triton's interpreter, which the other tests use, and its compiler cannot share a process: compile_all, which runs the
scripts, is a process of its own.
"""

import contextlib
import io
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

Figures = dict[str, Any]


class Job(NamedTuple):
    """One compilation. Every time, the narrowest and the widest of a kind are compiled, and one that has each trait."""

    kind: tuple[Any, ...]
    width: int
    given: tuple[Any, ...] = ()
    traits: frozenset[Any] = frozenset()
    cost: float = 1.0  # roughly, beside other jobs: the longest begin first


class AbsentGPU:
    """As much of a driver as it takes to compile for a GPU, through the functions that would launch."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling_only() -> Iterator[dict[str, set[int]]]:
    """Inside, what would launch kernels compiles them for sm_90. The distinct ones so far, by the kernel's name."""
    seen: dict[str, set[int]] = defaultdict(set)
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        seen[self.fn.__name__].add(id(run(self, *args, grid=grid, warmup=True, **kwargs)))

    triton.runtime.driver.set_active(AbsentGPU())
    with (
        mock.patch.object(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext()),
        mock.patch.object(JITFunction, "run", compile_only),
    ):
        yield seen


def chosen(jobs: Sequence[Job]) -> list[Job]:
    """Few jobs among which are a narrowest and a widest of each kind, and each trait."""
    widths: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for job in jobs:
        widths[job.kind].append(job.width)
    wanted = {}
    for number, job in enumerate(jobs):
        ends = {(job.kind, end) for end in (min, max) if job.width == end(widths[job.kind])}
        wanted[number] = ends | job.traits
    missing, numbers = set().union(*wanted.values()), []
    while missing:
        best = max(wanted, key=lambda number: len(wanted[number] & missing))  # the first of equals
        numbers.append(best)
        missing -= wanted.pop(best)
    return [jobs[number] for number in sorted(numbers)]


class Arguments:
    """What Triton compiles a kernel for, from types that are spelt as a launch spells values: None, or a tuple."""

    def __init__(self, kernel: Any, types: dict[str, Any], constants: dict[str, Any]) -> None:
        self.constants: dict[tuple[int, ...], Any] = {}
        self.aligned: list[tuple[int, ...]] = []
        self.signature = {}
        for i, name in enumerate(kernel.arg_names):
            if name in constants:
                self.constants[i,], self.signature[name] = constants[name], "constexpr"
            else:
                self.signature[name] = self.spelt(types[name], (i,), name == "stride_n")

    def spelt(self, kind: Any, path: tuple[int, ...], aligned: bool) -> Any:
        """A type as Triton wants it; notes where constants and aligned numbers are."""
        if kind is None:
            self.constants[path] = None
            return "constexpr"
        if isinstance(kind, tuple):
            fields = (self.spelt(each, (*path, i), False) for i, each in enumerate(kind))
            return type(kind)(*fields) if hasattr(kind, "_fields") else tuple(fields)
        if aligned or kind.startswith("*"):
            self.aligned.append(path)
        return kind


def compiled(
    kernel: Any, types: dict[str, Any], constants: dict[str, Any], capability: int, **options: Any
) -> dict[str, Any]:
    """Compile for a GPU of this capability: its memory, registers, spilled bytes, tensor cores and text.

    types: of every argument that is not in constants; None for what a launch leaves out. Pointers, and strides of rows
    (`stride_n`), are taken to be aligned, as torch's memory is.
    """
    arguments = Arguments(kernel, types, constants)
    source = ASTSource(
        kernel,
        signature=arguments.signature,
        constexprs=arguments.constants,
        attrs={path: [["tt.divisibility", 16]] for path in arguments.aligned},
    )
    made, said = heard(source, capability, options)
    file = Path(triton.knobs.cache.dir, "figures", f"{made.hash}.json")
    if "registers" not in said and not file.is_file():  # it was compiled before, and nobody wrote this down
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.always_compile = True
            made, said = heard(source, capability, options)
    if "registers" in said:
        write(file, figures(said))
    ptx = made.asm["ptx"]
    return {
        "shared": made.metadata.shared,
        "tensor_core": sorted(set(re.findall(r"(wgmma\.mma_async|mma\.sync)\S*?(tf32|bf16)", ptx))),
        **json.loads(file.read_text()),
        "ptx": ptx,
    }


def heard(source: ASTSource, capability: int, options: Figures) -> tuple[Any, str]:
    """The compiled kernel, and what ptxas said while it was made: nothing, where it was made before."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), triton.knobs.nvidia.scope():
        triton.knobs.nvidia.dump_ptxas_log = True
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return made, said.getvalue()


def figures(said: str) -> dict[str, int]:
    """Registers a thread, and bytes spilled, stores and loads."""
    return {
        "registers": max(int(n) for n in re.findall(r"Used (\d+) registers", said)),
        "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill", said)),
    }


def write(file: Path, values: dict[str, int]) -> None:
    """Whole, whoever else writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as fresh:
        json.dump(values, fresh)
    Path(fresh.name).replace(file)
