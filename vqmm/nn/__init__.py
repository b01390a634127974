"""Layers and networks written once for 1, 2 and 3 dimensions."""

from vqmm.nn.autoencoder import Decoder, Encoder, level_factors
from vqmm.nn.layers import Attention, ChannelNorm, ResidualBlock, Stack, conv, down, prime_factors, resample_mask, up

__all__ = [
    "Attention",
    "ChannelNorm",
    "Decoder",
    "Encoder",
    "ResidualBlock",
    "Stack",
    "conv",
    "down",
    "level_factors",
    "prime_factors",
    "resample_mask",
    "up",
]
