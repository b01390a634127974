"""C++ without headers of Python or torch, built when the package is installed and loaded with ctypes: a build fits any
of their versions."""

import ctypes
import importlib.util
from collections.abc import Callable


def load(module: str, prefix: str, abi: int) -> ctypes.CDLL | None:
    """The library that was built under a module's name; None where it was not built, cannot be loaded, or was built
    from another version. It offers `PREFIX_abi`, and `PREFIX_variant` as `variants` wants it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        if getattr(library, f"{prefix}_abi")() != abi:
            return None
        named = getattr(library, f"{prefix}_variant")
        named.argtypes, named.restype = [ctypes.c_int32], ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return library


def variants(named: Callable[[int], bytes | None]) -> dict[str, int]:
    """The loops that this machine can run, the fastest first, and their numbers. `named`: a number's name; "" where
    this CPU lacks its instructions; None past the last."""
    names: list[str] = []
    while (name := named(len(names))) is not None:
        names.append(name.decode())
    return {name: number for number, name in enumerate(names) if name}
