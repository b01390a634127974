"""vqmm: images, audio and text into discrete tokens and back, around one shared vector quantizer.

Everything public can be reached from here; nothing is imported until it is asked for.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

# pip sees to the version, a checkout does not: so this file is written for any Python 3
if sys.version_info < (3, 11):  # noqa: UP036
    _said = f"vqmm needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}): use a newer one"
    if (sys.argv or [""])[0].endswith(("-m", "vqmm", "vqmm.exe")):  # the command line: one line, no traceback
        sys.stderr.write(f"vqmm: {_said}\n")
        sys.exit(2)
    raise ImportError(_said)

__version__ = "0.1.0"

_HOME = {
    "Adversary": "vqmm.adversary",
    "Judged": "vqmm.adversary",
    "Lesson": "vqmm.adversary",
    "Baseline": "vqmm.evaluation.baseline",
    "Batch": "vqmm.batch",
    "Codes": "vqmm.batch",
    "Decoder": "vqmm.decoders.base",
    "Draw": "vqmm.sampling",
    "Generator": "vqmm.generator",
    "Judge": "vqmm.evaluation.metrics",
    "Layout": "vqmm.vocabulary",
    "Modality": "vqmm.modality",
    "Prior": "vqmm.prior",
    "Quantized": "vqmm.quantizers.base",
    "Quantizer": "vqmm.quantizers.base",
    "Recipe": "vqmm.recipe",
    "Registry": "vqmm.registry",
    "Sample": "vqmm.data.sample",
    "StreamingDecoder": "vqmm.streaming",
    "StreamingEncoder": "vqmm.streaming",
    "Tokenizer": "vqmm.tokenizer",
    "Unreadable": "vqmm.data.sample",
    "UserError": "vqmm.errors",
    "bench": "vqmm.bench",
    "coherence": "vqmm.evaluation.coherence",
    "compare": "vqmm.evaluation.compare",
    "compare_priors": "vqmm.evaluation.compare_priors",
    "compress": "vqmm.compress",
    "decode": "vqmm.transcode",
    "decompress": "vqmm.compress",
    "demo": "vqmm.demo",
    "encode": "vqmm.transcode",
    "eval": "vqmm.evaluation.run",
    "generate": "vqmm.generate",
    "hookimpl": "vqmm.hookspecs",
    "new_plugin": "vqmm.new_plugin",
    "reconstruct": "vqmm.transcode",
    "report": "vqmm.report",
    "train": "vqmm.training.run",
    "train_prior": "vqmm.training.prior_run",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vqmm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A verb keeps its name: importing the module vqmm.demo or vqmm.report would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
