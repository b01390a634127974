"""vqmm: images, audio and text into discrete tokens and back, around one shared vector quantizer.

Everything public can be reached from here; nothing is imported until it is asked for.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

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
    "NoiseGenerator": "vqmm.tokenizer.noise_generator",
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

if TYPE_CHECKING:  # the same once more, without which every class made from one of these would be unchecked
    from vqmm.commands.compress import compress as compress
    from vqmm.commands.compress import decompress as decompress
    from vqmm.commands.decode import decode as decode
    from vqmm.commands.demo import demo as demo
    from vqmm.commands.encode import encode as encode
    from vqmm.commands.evaluate import eval as eval
    from vqmm.commands.generate import generate as generate
    from vqmm.commands.new_plugin import new_plugin as new_plugin
    from vqmm.commands.prior import train_prior as train_prior
    from vqmm.commands.reconstruct import reconstruct as reconstruct
    from vqmm.commands.train import train as train
    from vqmm.comparison.compare import compare as compare
    from vqmm.comparison.priors import compare_priors as compare_priors
    from vqmm.contracts.adversary import Adversary as Adversary
    from vqmm.contracts.adversary import CriticLosses as CriticLosses
    from vqmm.contracts.adversary import CriticOutput as CriticOutput
    from vqmm.contracts.baseline import Baseline as Baseline
    from vqmm.contracts.batch import Batch as Batch
    from vqmm.contracts.batch import Codes as Codes
    from vqmm.contracts.decoder import Decoder as Decoder
    from vqmm.contracts.evaluation import Evaluation as Evaluation
    from vqmm.contracts.front import Front as Front
    from vqmm.contracts.metric import Metric as Metric
    from vqmm.contracts.mixins import ManyPerFile as ManyPerFile
    from vqmm.contracts.mixins import Strings as Strings
    from vqmm.contracts.modality import Modality as Modality
    from vqmm.contracts.prior import Prior as Prior
    from vqmm.contracts.quantizer import Quantized as Quantized
    from vqmm.contracts.quantizer import Quantizer as Quantizer
    from vqmm.contracts.sample import Sample as Sample
    from vqmm.contracts.sample import Unreadable as Unreadable
    from vqmm.contracts.vocabulary import Layout as Layout
    from vqmm.data.folder import file_samples as file_samples
    from vqmm.evaluation.coherence import coherence as coherence
    from vqmm.generation.generator import Generator as Generator
    from vqmm.generation.sampling import Draw as Draw
    from vqmm.hookspecs import hookimpl as hookimpl
    from vqmm.measure import bench as bench
    from vqmm.pages import report as report
    from vqmm.recipe import Recipe as Recipe
    from vqmm.registry import Registry as Registry
    from vqmm.tokenizer.noise_generator import NoiseGenerator as NoiseGenerator
    from vqmm.tokenizer.streaming import StreamingDecoder as StreamingDecoder
    from vqmm.tokenizer.streaming import StreamingEncoder as StreamingEncoder
    from vqmm.tokenizer.tokenizer import Tokenizer as Tokenizer
    from vqmm.utils.errors import UserError as UserError
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'vqmm' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


__all__ = ["__version__", *_HOME]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
