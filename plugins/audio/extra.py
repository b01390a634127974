"""The libraries of the extra `audio`, imported when they are first used: without them the plugin still loads."""

from typing import Any

from vqmm.utils.requirements import load

EXTRA = "vqmm[audio]"
NEEDS = dict.fromkeys(("torchaudio", "soundfile", "pystoi"), EXTRA)


def needed(module: str) -> Any:
    """A module by name; a `UserError` that says why it cannot be imported, and what mends it."""
    return load(module, EXTRA, "sound")
