"""How nearest_code is fast on a CPU: the loop in search.cpp, compiled when the package is installed.

Why a helper of our own: faiss keeps neither the tie rule nor the not-finite rule, numba would compile at a user's first
step, and plain torch writes every score to memory and reads it back. Where nothing could be compiled, search_in_tiles
keeps the same contract.
"""

import ctypes
import functools
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor

from vqmm.kernels.compiled import load, variants
from vqmm.kernels.nearest_code.plain import search_in_tiles
from vqmm.kernels.nearest_code.prepare import Prepared, prepare

ABI = 2  # of search.cpp
PANEL = 32  # the most vectors that any variant searches side by side
BLOCK = 1024  # the most vectors packed at a time
PACKED = 2**18  # numbers packed at a time: 1 MiB, which shares the L2 cache with as many codes
CONVERTED = 2**20  # numbers made float32 at a time for each thread
WORTH_A_THREAD = 2**25  # multiplications: about half a millisecond

warned = False  # that the helper is missing


class Prepare(ctypes.Structure):
    """The struct of the same name in search.cpp."""

    _fields_ = (
        ("code", ctypes.c_void_p),
        ("k", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("centred", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
    )


class Search(ctypes.Structure):
    """The struct of the same name in search.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("stride_n", ctypes.c_int64),
        ("stride_d", ctypes.c_int64),
        ("shift", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("k", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("panels", ctypes.c_void_p),
        ("block", ctypes.c_int64),
        ("index", ctypes.c_void_p),
        ("margin", ctypes.c_void_p),
        ("normalise", ctypes.c_int32),
    )


@functools.cache
def helper() -> ctypes.CDLL | None:
    """The compiled search.cpp; None as `load` says."""
    library = load(f"{__package__}._search", "nearest_code", ABI)
    if library is not None:
        library.nearest_code_prepare.argtypes = [ctypes.c_int32, ctypes.POINTER(Prepare)]
        library.nearest_code_prepare.restype = ctypes.c_int32
        library.nearest_code_search.argtypes = [ctypes.c_int32, ctypes.POINTER(Search)]
        library.nearest_code_search.restype = None
    return library


@functools.cache
def cpu_variants() -> dict[str, int]:
    """The loops that this machine can run, the fastest first, and their numbers: of "avx512", "avx2" and "generic".

    Empty where there is no helper.
    """
    library = helper()
    return {} if library is None else variants(library.nearest_code_variant)


def cpu_variant() -> str:
    """What search_cpu runs: the first of cpu_variants(), or "torch"."""
    return next(iter(cpu_variants()), "torch")


def prepare_cpu(code_KD: Tensor, metric: str, sizes: Sequence[int], variant: str | None = None) -> Prepared:
    """What prepare gives, in two passes over the codebook where plain torch takes eight. ValueErrors as there."""
    variant = variant or cpu_variant()
    if variant == "torch" or metric != "euclidean":
        return prepare(code_KD, metric, sizes)
    code_KD, library = code_KD.float().contiguous(), helper()
    (k, width), groups = code_KD.shape, len(sizes)
    prepared = Prepared(torch.empty(k, width), torch.empty(k), torch.empty(groups, width), tuple(sizes))
    columns = torch.empty(2 * width)
    assert library is not None and prepared.shift_GD is not None
    parts = zip(code_KD.split(list(sizes)), prepared.groups, strict=True)
    for part_KD, out in parts:
        assert out.shift_GD is not None
        where = (part.data_ptr() for part in (out.code_KD, out.bias_K, out.shift_GD, columns))
        job = Prepare(part_KD.data_ptr(), len(part_KD), width, *where)
        if not library.nearest_code_prepare(cpu_variants()[variant], ctypes.byref(job)):
            return prepare(code_KD, metric, sizes)  # a code is not finite
    return prepared


def search_cpu(
    x_GND: Tensor, prepared: Prepared, metric: str, precision: str, margin: bool, variant: str | None = None
) -> tuple[Tensor, Tensor]:
    """int32 indices (G, N) and, with margin, the difference of the two best scores (else an empty tensor).

    x_GND: any floating type, any strides. precision: each of them is float32 here. variant: one of cpu_variants() or
    "torch"; None: cpu_variant(). Of the compiled ones, the same bits for any number of threads; beside its outputs each
    thread holds a block of vectors.
    """
    if variant is None:
        variant = cpu_variant()
        if variant == "torch":
            warn_once()
    index_GN = torch.empty(x_GND.shape[:-1], dtype=torch.int32)
    margin_GN = torch.empty(x_GND.shape[:-1] if margin else 0)
    for g, codebook in enumerate(prepared.groups):
        out = index_GN[g], margin_GN[g] if margin else None
        if variant == "torch":
            search_in_tiles(x_GND[g], codebook, metric, *out)
        else:
            search_compiled(x_GND[g], codebook, metric, *out, cpu_variants()[variant])
    return index_GN, margin_GN


def warn_once() -> None:
    """Say, the first time, that the compiled loop is missing."""
    global warned
    if not warned:
        warned = True  # first: the warning may be made an error
        warnings.warn(
            "vqmm: on this CPU nearest codes are searched in plain torch, in 2 to 5 times the time, because the "
            "compiled loop was not built, or from another version; get a C++ compiler (g++ or clang++) and install "
            "vqmm again.",
            stacklevel=3,
        )


def search_compiled(
    x_ND: Tensor, codebook: Prepared, metric: str, index_N: Tensor, margin_N: Tensor | None, variant: int
) -> None:
    """Searches one codebook, and writes what it found."""
    n, (k, width) = len(x_ND), codebook.code_KD.shape
    threads = max(1, min(torch.get_num_threads(), n // PANEL, n * k * width // WORTH_A_THREAD))
    block = max(PANEL, min(BLOCK, PACKED // width // PANEL * PANEL, padded(-(-n // threads))))
    panels = torch.empty(threads, block * width)
    rows = n if x_ND.dtype == torch.float32 else threads * max(block, CONVERTED // width // PANEL * PANEL)
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        for start in range(0, n, max(rows, 1)):
            part_nD = x_ND[start : start + rows].float()
            each = padded(-(-len(part_nD) // threads))  # vectors of a thread
            firsts = range(start, start + len(part_nD), each)
            jobs = [
                Search(
                    x=x_mD.data_ptr(),
                    n=len(x_mD),
                    stride_n=x_mD.stride(0),
                    stride_d=x_mD.stride(1),
                    shift=None if codebook.shift_GD is None else codebook.shift_GD.data_ptr(),
                    code=codebook.code_KD.data_ptr(),
                    bias=codebook.bias_K.data_ptr(),
                    k=k,
                    width=width,
                    panels=panel.data_ptr(),
                    block=block,
                    index=index_N[first:].data_ptr(),
                    margin=None if margin_N is None else margin_N[first:].data_ptr(),
                    normalise=metric == "cosine",
                )
                for first, x_mD, panel in zip(firsts, part_nD.split(each), panels, strict=False)
            ]
            list((map if pool is None else pool.map)(functools.partial(run, variant), jobs))


def padded(n: int) -> int:
    """The least multiple of PANEL that is no less."""
    return -(-n // PANEL) * PANEL


def run(variant: int, job: Search) -> None:
    """One thread's search, by the loop of this number."""
    library = helper()
    assert library is not None
    library.nearest_code_search(variant, ctypes.byref(job))  # ctypes lets other threads run meanwhile
