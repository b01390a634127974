"""The libraries of the extra `audio`, imported when they are first used: without them the plugin still loads."""

import importlib
from typing import Any

from vqmm.errors import UserError


def needed(module: str) -> Any:
    """A module by name; a `UserError` that says how to install it where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # a C library that is missing, or built for another torch
        reason = " ".join(str(error).split())
        raise UserError(f'sound needs {module}, which did not load ({reason}): pip install "vqmm[audio]"') from None
