"""Everything a plugin may do, on one page.

A plugin is a module. It defines any of the functions below, marks them with `@vqmm.hookimpl`, and is found through

- the entry-point group `vqmm` of an installed package,
- `--plugin FILE.py` or `--plugin MODULE` on the command line,
- the environment variable `VQMM_PLUGINS` (files or modules, separated as in PATH).

Each hook is a verb that receives `register`; call it once for every class (or recipe file) that you bring. What each
class promises is written on the class itself, and `vqmm.testing` checks those promises with one call.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from vqmm.contracts.adversary import Adversary
    from vqmm.contracts.decoder import Decoder
    from vqmm.contracts.modality import Modality
    from vqmm.contracts.prior import Prior
    from vqmm.contracts.quantizer import Quantizer

hookspec = pluggy.HookspecMarker("vqmm")
hookimpl = pluggy.HookimplMarker("vqmm")


@hookspec
def register_modalities(register: "Callable[[type[Modality]], None]") -> None:
    """Offer kinds of signal: a `vqmm.Modality` says how one is read, encoded, decoded, evaluated and written."""


@hookspec
def register_quantizers(register: "Callable[[type[Quantizer]], None]") -> None:
    """Offer bottlenecks: a `vqmm.Quantizer` turns continuous latents into codes and back."""


@hookspec
def register_decoders(register: "Callable[[type[Decoder]], None]") -> None:
    """Offer ways from vectors to a sample: a `vqmm.Decoder` has a loss and can sample."""


@hookspec
def register_adversaries(register: "Callable[[type[Adversary]], None]") -> None:
    """Offer critics: a `vqmm.Adversary` trains beside a tokenizer and adds a term to its loss."""


@hookspec
def register_priors(register: "Callable[[type[Prior]], None]") -> None:
    """Offer models of sequences of ids: a `vqmm.Prior` makes features, the core makes losses and samples of them."""


@hookspec
def register_recipes(register: Callable[[Path], None]) -> None:
    """Offer named recipes: YAML files, known by their file name without `.yaml`."""
