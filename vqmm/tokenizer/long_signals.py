"""Long samples of a line (rank 1) through the networks piece by piece: memory stays flat, and nothing is blended.

A network says by its `receptive_field` how many codes to each side of its own an output may depend on. A piece goes
through it with so many codes of its true surroundings on both sides, and of what comes out only the piece itself is
kept: the result is that of the whole, to float32 rounding, and there are no joins to hear. A causal network goes on
from piece to piece instead. Where `receptive_field` is infinite (attention, an LSTM in both directions) CONTEXT codes
take its place: the result is then near that of the whole, and a warning says so. A network that does not know it gets
the sample whole.

Only what grows fast is cut: the networks' inner layers. Samples, latents and outputs are kept whole, so a sample
costs about four of its own size in float32.
"""

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vqmm.contracts.batch import Batch, Codes
from vqmm.contracts.decoder import cut
from vqmm.decoders.direct import DirectDecoder
from vqmm.nn.network import Network, as_network, call_masked
from vqmm.tokenizer.model import Encode, Model, codes_like, evaluating
from vqmm.tokenizer.streaming import Stream
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import Remark

PIECE_VALUES = 2**17  # values of a batch, over all its samples and channels, that go through the networks at once
CONTEXT = 256  # codes on each side of a piece where a network's reach has no limit


@torch.no_grad()
def encode_long(tokenizer: Tokenizer, batch: Batch, stages: int | None = None) -> Codes:
    """As `Tokenizer.encode`, for a batch of any length on any device. The codes lie on the tokenizer's device."""
    if not _is_long(tokenizer, batch.x.numel()):
        return tokenizer.encode(batch.to(tokenizer.device), stages)
    tokenizer.require_codes()
    with evaluating(tokenizer):
        codes = tokenizer.quantize(batch, stages, _encode_in_pieces(tokenizer)).codes
    assert codes is not None  # require_codes
    return codes


@torch.no_grad()
def decode_long(tokenizer: Tokenizer, codes: Codes, seed: int = 0) -> list[Tensor]:
    """As `Tokenizer.decode`, for codes of any length on any device. Long samples lie on the CPU."""
    codes = codes.to(tokenizer.device)
    values = len(codes) * _values_of(tokenizer, codes.maps[-1].shape[-1])
    if not (_is_long(tokenizer, values) and _is_direct(tokenizer)):
        return tokenizer.decode(codes, seed)
    tokenizer.require_codes()
    with evaluating(tokenizer):
        return _decoded(tokenizer, tokenizer.quantizer.lookup(codes), codes)


@torch.no_grad()
def reconstruct_long(
    tokenizer: Tokenizer, batch: Batch, seed: int = 0, stages: int | None = None
) -> tuple[list[Tensor], Codes | None]:
    """As `Tokenizer.reconstruct`, for a batch of any length on any device."""
    if _is_long(tokenizer, batch.x.numel()) and _is_direct(tokenizer):
        return evaluation_outputs_long(tokenizer, batch, stages)  # a direct decoder draws nothing: no seed
    return tokenizer.reconstruct(batch.to(tokenizer.device), seed, stages)


@torch.no_grad()
def evaluation_outputs_long(model: Model, batch: Batch, stages: int | None = None) -> tuple[list[Tensor], Codes | None]:
    """As `Model.evaluation_outputs`, for a batch of any length on any device."""
    if not (_is_long(model, batch.x.numel()) and _is_direct(model)):
        return model.evaluation_outputs(batch.to(model.device), stages)
    with evaluating(model):
        quantized = model.decoder_input(batch, stages, _encode_in_pieces(model))
        return _decoded(model, quantized.vectors, codes_like(quantized, batch)), quantized.codes


def _is_long(model: Model, values: int) -> bool:
    return model.modality.rank == 1 and values > PIECE_VALUES


def _is_direct(model: Model) -> bool:
    """Whether the decoder is one pass through a network; others (wavenet, flow) get a sample whole."""
    return type(model.decoder).sample is DirectDecoder.sample


def _values_of(model: Model, codes: int) -> int:
    """The values of a sample that so many codes stand for."""
    return codes * model.modality.strides[0] * model.modality.channels


def _encode_in_pieces(model: Model) -> Encode:
    """A call of the encoder piece by piece. Latents are few: they are joined, and quantized whole."""

    def encode(encoder: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        at_once = PIECE_VALUES // (len(x) * _values_of(model, 1))
        return torch.cat([*pieces(encoder, x, mask, model.modality.strides[0], 1, at_once, model.device)], dim=2)

    return encode


def _decoded(model: Model, vectors: Tensor, codes: Codes) -> list[Tensor]:
    """What a direct decoder gives, its network called piece by piece; finished on the CPU, as a whole."""
    at_once = PIECE_VALUES // (len(vectors) * _values_of(model, 1))
    assert isinstance(model.decoder, DirectDecoder)  # _is_direct
    vectors = model.conditioned(vectors, codes.label)
    cell = model.modality.strides[0]
    parts = pieces(model.decoder.network, vectors, codes.mask, 1, cell, at_once, model.device)
    output = torch.cat([part.cpu() for part in parts], dim=2)
    return cut(model.decoder.finish(output), codes.size)


def pieces(
    module: nn.Module,
    x: Tensor,
    mask: Tensor | None,
    inputs: int,
    outputs: int,
    at_once: int,
    device: torch.device | str,
) -> Iterator[Tensor]:
    """The output of a network for x (B, C, T), mask bool (B, T): joined along the last axis, the parts are the whole.

    Args:
        inputs: positions of x that a code stands for; they divide T.
        outputs: positions of the output that a code stands for.
        at_once: codes of a piece, its surroundings not counted; 1, or twice the surroundings, at the least.
        device: where the network is; x and the mask may be elsewhere.
    """
    network, codes = as_network(module), x.shape[2] // inputs

    def part(first: int, end: int) -> tuple[Tensor, Tensor | None]:
        at = slice(first * inputs, end * inputs)
        return x[:, :, at].to(device), None if mask is None else mask[:, at].to(device)

    if network.causal:
        stream = Stream(network, inputs, outputs, len(x))
        for first in range(0, codes, max(at_once, 1)):
            yield stream.push(*part(first, min(first + max(at_once, 1), codes)))
        late = stream.flush(x.shape[1], device)
        if late is not None:
            yield late
    elif network.receptive_field is None:
        yield call_masked(network, *part(0, codes))
    else:
        around = _surroundings(network, network.receptive_field)
        size = max(at_once, 2 * around, 1)
        for start in range(0, codes, size):
            first, end = max(start - around, 0), min(start + size + around, codes)
            y = call_masked(network, *part(first, end))
            yield y[:, :, (start - first) * outputs : (min(start + size, codes) - first) * outputs]


def _surroundings(network: Network, receptive_field: float) -> int:
    """How many codes on each side a piece is given."""
    if math.isinf(receptive_field):
        warnings.warn(
            f"{type(network).__name__} looks at the whole of a sample: long ones go through it in pieces, each seeing "
            f"{CONTEXT} codes on both sides, so their results are near those of the whole, and not the same",
            Remark,
            stacklevel=2,
        )
        return CONTEXT
    return int(receptive_field)
