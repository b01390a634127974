"""Priors: what models sequences of ids."""

from collections.abc import Callable

import vqmm
from vqmm.plugins.priors.lstm import LSTM
from vqmm.plugins.priors.pixelcnn import PixelCNN, PixelSNAIL
from vqmm.plugins.priors.transformer import Transformer
from vqmm.plugins.priors.wavenet import WaveNet


@vqmm.hookimpl
def register_priors(register: Callable[[type[vqmm.Prior]], None]) -> None:
    """Offer the priors `transformer`, `pixelcnn`, `pixelsnail`, `lstm` and `wavenet`."""
    for prior in (Transformer, PixelCNN, PixelSNAIL, LSTM, WaveNet):
        register(prior)
