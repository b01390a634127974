"""LSTMs under autocast."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


def recurrent(lstm: nn.LSTM, x: Tensor | PackedSequence, state: tuple[Tensor, Tensor] | None = None) -> Any:
    """What `lstm(x, state)` gives, on a CPU in the type of its weights, whatever autocast says.

    torch 2.14.1 has no bfloat16 LSTM for a CPU without AVX-512: "could not create a primitive descriptor".
    """
    with torch.autocast("cpu", enabled=False):
        return lstm(x.to(next(lstm.parameters()).dtype), state)
