"""Layers and networks written once for 1, 2 and 3 dimensions."""

from vqmm.nn.autoencoder import ConvDecoder, ConvEncoder, level_factors
from vqmm.nn.layers import Attention, ChannelNorm, ResidualBlock, Stack, conv, down, prime_factors, resample_mask, up
from vqmm.nn.network import Layer, Network, as_network, call_masked

__all__ = [
    "Attention",
    "ChannelNorm",
    "ConvDecoder",
    "ConvEncoder",
    "Layer",
    "Network",
    "ResidualBlock",
    "Stack",
    "as_network",
    "call_masked",
    "conv",
    "down",
    "level_factors",
    "prime_factors",
    "resample_mask",
    "up",
]
