"""Training on: a new run that begins with a tokenizer that is there."""

from pathlib import Path

from torch import nn

from vqmm.tokenizer.storage import read_config
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError


def init_from(tokenizer: Tokenizer, folder: Path, freeze_codes: bool) -> None:
    """Give a new tokenizer the weights of a saved one of the same parts.

    Raises:
        UserError: both know classes, and not the same ones.
    """
    before = read_config(folder)
    was, now = (before["labels"] if before["conditional"] else None), list(tokenizer.labels)
    conditional = tokenizer.label_embedding is not None
    if was is not None and not conditional:
        raise UserError(f"train.init_from: the decoder of {folder} is conditioned on labels: set condition=label")
    if was is not None and was != now:
        raise UserError(f"train.init_from: {folder} knows the labels {', '.join(was)}, and the data {', '.join(now)}")
    tokenizer.adopt(folder, new=["label_embedding."] if was is None and conditional else [])
    if tokenizer.label_embedding is not None and was is None:
        nn.init.zeros_(tokenizer.label_embedding.weight)  # what the decoder has learnt holds at first
    if freeze_codes:
        tokenizer.freeze_codes()
