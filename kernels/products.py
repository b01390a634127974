"""Products of float32 on a CPU that stay float32."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_inside = 0
_before = ""


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, torch multiplies float32 on a CPU in float32, whatever `torch.set_float32_matmul_precision` was told.

    "medium" lets oneDNN multiply in bfloat16 where a CPU can (AVX-512, AMX). The setting is torch's, one for the whole
    process: it is put back when the last thread leaves, and not touched where it asks for nothing less.
    """
    global _inside, _before
    mkldnn: Any = torch.backends.mkldnn  # its types do not know of matmul
    matmul = mkldnn.matmul
    with _lock:
        if not _inside:
            _before = matmul.fp32_precision
            if _before in ("bf16", "tf32"):
                matmul.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _before in ("bf16", "tf32"):
                matmul.fp32_precision = _before
