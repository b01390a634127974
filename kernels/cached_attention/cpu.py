"""How cached_attention is fast on a CPU: the loop in attend.cpp, compiled when the package is installed."""

import ctypes
import functools
import warnings

import torch
from torch import Tensor

from vqmm.kernels.compiled import load, variants

ABI = 1  # of attend.cpp
WIDEST = 16  # lanes
LANES = {"avx512": 16, "avx2": 8, "generic": 4}

warned = False  # that the helper is missing


class Attend(ctypes.Structure):
    """The struct of the same name in attend.cpp."""

    _fields_ = (
        ("query", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("cache", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("filled", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("scores", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


@functools.cache
def helper() -> ctypes.CDLL | None:
    """The compiled attend.cpp; None as `load` says."""
    library = load(f"{__package__}._attend", "cached_attention", ABI)
    if library is not None:
        library.cached_attention_run.argtypes = [ctypes.c_int32, ctypes.POINTER(Attend)]
        library.cached_attention_run.restype = None
    return library


@functools.cache
def loops() -> dict[str, int]:
    """The loops that this machine can run, the fastest first, and their numbers: of LANES. Empty without a helper."""
    library = helper()
    return {} if library is None else variants(library.cached_attention_variant)


def loop_for(query: Tensor, cache: Tensor) -> str | None:
    """The fastest loop for these; None where there is none: tensors of a GPU, of another type, or with gaps."""
    types = query.dtype == cache.dtype == torch.float32 and query.device.type == cache.device.type == "cpu"
    if not types or query.stride()[1:] != (query.shape[2], 1) or not cache.is_contiguous():
        return None
    if not loops():
        warn_once()
    return next((name for name in loops() if query.shape[2] % LANES[name] == 0), None)


def warn_once() -> None:
    """Say, the first time, that the compiled loop is missing."""
    global warned
    if not warned:
        warned = True  # first: the warning may be made an error
        warnings.warn(
            "vqmm: on this CPU the transformer prior draws more slowly than it could, by a third or so, because the "
            "compiled loop of its attention was not built, or from another version; get a C++ compiler (g++ or "
            "clang++) and install vqmm again.",
            stacklevel=4,
        )


def attend_cpu(query_BHS: Tensor, cache_B2HLS: Tensor, filled: int, loop: str) -> Tensor:
    """(B, heads, size) of what `loop_for` says that `loop` can read."""
    batch, heads, size = query_BHS.shape
    out_BHS = torch.empty(batch, heads, size)
    scores = torch.empty(-(-filled // WIDEST) * WIDEST)
    job = Attend(
        query=query_BHS.data_ptr(),
        stride=query_BHS.stride(0),
        cache=cache_B2HLS.data_ptr(),
        batch=batch,
        heads=heads,
        length=cache_B2HLS.shape[3],
        size=size,
        filled=filled,
        scale=size**-0.5,
        scores=scores.data_ptr(),
        out=out_BHS.data_ptr(),
    )
    library = helper()
    assert library is not None
    library.cached_attention_run(loops()[loop], ctypes.byref(job))
    return out_BHS
