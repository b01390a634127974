"""vqmm: images, audio and text into discrete tokens and back, around one shared vector quantizer.

Everything public can be reached from here; nothing is imported until it is asked for.
"""

import importlib
import sys
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
    "Adversary": "vqmm.contracts.adversary",
    "CriticOutput": "vqmm.contracts.adversary",
    "CriticLosses": "vqmm.contracts.adversary",
    "Baseline": "vqmm.contracts.baseline",
    "Batch": "vqmm.contracts.batch",
    "Codes": "vqmm.contracts.batch",
    "Decoder": "vqmm.contracts.decoder",
    "Evaluation": "vqmm.contracts.evaluation",
    "Front": "vqmm.contracts.front",
    "Draw": "vqmm.generation.sampling",
    "Generator": "vqmm.generation.generator",
    "ManyPerFile": "vqmm.contracts.mixins",
    "Metric": "vqmm.contracts.metric",
    "Layout": "vqmm.contracts.vocabulary",
    "Modality": "vqmm.contracts.modality",
    "Prior": "vqmm.contracts.prior",
    "Quantized": "vqmm.contracts.quantizer",
    "Quantizer": "vqmm.contracts.quantizer",
    "Recipe": "vqmm.recipe",
    "Registry": "vqmm.registry",
    "Sample": "vqmm.contracts.sample",
    "Strings": "vqmm.contracts.mixins",
    "StreamingDecoder": "vqmm.tokenizer.streaming",
    "StreamingEncoder": "vqmm.tokenizer.streaming",
    "Tokenizer": "vqmm.tokenizer.tokenizer",
    "Unreadable": "vqmm.contracts.sample",
    "UserError": "vqmm.utils.errors",
    "bench": "vqmm.measure",
    "coherence": "vqmm.evaluation.coherence",
    "compare": "vqmm.comparison.compare",
    "compare_priors": "vqmm.comparison.priors",
    "compress": "vqmm.commands.compress",
    "decode": "vqmm.commands.decode",
    "decompress": "vqmm.commands.compress",
    "demo": "vqmm.commands.demo",
    "encode": "vqmm.commands.encode",
    "eval": "vqmm.commands.evaluate",
    "file_samples": "vqmm.data.folder",
    "generate": "vqmm.commands.generate",
    "hookimpl": "vqmm.hookspecs",
    "new_plugin": "vqmm.commands.new_plugin",
    "reconstruct": "vqmm.commands.reconstruct",
    "report": "vqmm.pages",
    "train": "vqmm.commands.train",
    "train_prior": "vqmm.commands.prior",
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
