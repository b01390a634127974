"""Priors: what models sequences of ids."""

from collections.abc import Callable

import vqmm
from vqmm.plugins.priors.transformer import Transformer


@vqmm.hookimpl
def register_priors(register: Callable[[type[vqmm.Prior]], None]) -> None:
    register(Transformer)
