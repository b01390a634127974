"""Encoding and decoding as the signal comes, chunk by chunk, with the codes and samples of the whole.

For tokenizers over a line (rank 1) whose networks are causal and step, as `vqmm.nn.Network` says. Joined, the outputs
of the steps are those of `forward` for the whole; what a network with a `lookahead` gives late is put in its place.

The quantizer must take each position by itself, as all do that have one map of codes.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqmm.contracts.batch import Codes, check_codes
from vqmm.contracts.labels import label_number
from vqmm.decoders.direct import DirectDecoder
from vqmm.nn.network import Network, as_network
from vqmm.tokenizer.model import evaluating
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError

__all__ = ["StreamingDecoder", "StreamingEncoder", "Stream"]


@dataclass
class Stream:
    """A network fed chunk after chunk, its late outputs put in their place.

    Attributes:
        inputs: positions of the input that a code stands for: samples for an encoder, 1 for a decoder.
        outputs: and of the output: 1 for an encoder, samples for a decoder.
        batch: streams side by side.
    """

    network: Network
    inputs: int
    outputs: int
    batch: int = 1

    def __post_init__(self) -> None:
        lookahead, code = self.network.lookahead, max(self.inputs, self.outputs)
        if lookahead % code:
            raise ValueError(
                f"{type(self.network).__name__}.lookahead: {lookahead} samples are no multiple of the {code} of a code"
            )
        self._late = lookahead // code  # codes
        self._dropped = self._late * self.outputs  # outputs still to drop
        self._state = self.network.start(self.batch)

    def push(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, T) and mask bool (B, T), T a multiple of `inputs` -> what is known after it, (B, C, t)."""
        mask_args = (mask,) if self.network.takes_mask else ()
        y, self._state = self.network.step(x, None, self._state, *mask_args)
        first = min(self._dropped, y.shape[2])
        self._dropped -= first
        return y[:, :, first:]

    def flush(self, channels: int, device: torch.device | str) -> Tensor | None:
        """The outputs that were late, for the end of a stream of inputs with so many channels; None: there are none."""
        if not self._late:
            return None
        nothing = torch.zeros(self.batch, channels, self._late * self.inputs, device=device)
        return self.push(nothing, torch.zeros_like(nothing[:, 0], dtype=torch.bool))


class StreamingEncoder:
    """Samples in, chunks of any length; codes out as soon as they are known. One encoder serves one stream.

    Joined, the codes are those of `Tokenizer.encode` for the whole sample; where two codes are equally near but for
    rounding, either may be chosen.

        encoder = StreamingEncoder(tokenizer)
        codes = [encoder.push(chunk) for chunk in microphone]  # each (stages, t), t from 0 on
        codes.append(encoder.flush())  # what was left, filled up with zeros; encoder.size is the true length

    Args:
        stages: only the first so many codes of each position, for a quantizer with several.

    Attributes:
        size: samples pushed so far.

    Raises:
        UserError: a tokenizer that cannot: not of a line, no codes, several maps of codes, an encoder that does not
            step; a number of stages that it does not have.
    """

    def __init__(self, tokenizer: Tokenizer, stages: int | None = None):
        _require_line(tokenizer)
        tokenizer.require_stages(stages)
        self.tokenizer, self.stages, self.size = tokenizer, stages, 0
        self._code = tokenizer.modality.strides[0]
        self._stream = Stream(_stepping(tokenizer.encoder, "encoder", tokenizer), self._code, 1)
        self._left: list[Tensor] = []  # what does not fill a code yet
        self._waiting = 0  # samples in it
        self._ended = False

    @property
    def latency_samples(self) -> int:
        """From the first sample that a code stands for until the code is known, counting no time of computing."""
        return self._code + self._stream.network.lookahead

    def push(self, samples: Tensor) -> Tensor:
        """The next samples (C, T), T from 0 on, of any type that the modality collates -> codes int64 (stages, t).

        Raises:
            UserError: samples of another shape, of another type than the ones before, or not finite; the stream is as
                it was.
            ValueError: the stream was flushed.
        """
        if self._ended:
            raise ValueError("StreamingEncoder.push: the stream has ended (flush): make an encoder for the next one")
        channels = self.tokenizer.modality.channels
        if samples.ndim != 2 or len(samples) != channels:
            raise UserError(
                f"samples of shape {tuple(samples.shape)}: a chunk of {self.tokenizer.modality.name} is ({channels}, T)"
            )
        if self._left and samples.dtype != self._left[0].dtype:
            raise UserError(f"samples of {samples.dtype} after {self._left[0].dtype}: a stream has one type")
        if samples.is_floating_point() and not samples.isfinite().all():
            raise UserError(f"samples {self.size} to {self.size + samples.shape[1]} of the stream are not all finite")
        self.size += samples.shape[1]
        self._left.append(samples.clone())  # a caller may write its next chunk in the same place
        self._waiting += samples.shape[1]
        full = self._waiting // self._code * self._code
        if not full:
            return self._none()
        line = torch.cat(self._left, dim=1)
        self._left, self._waiting = [line[:, full:].clone()], self._waiting - full
        return self._codes(line[:, :full])

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The last codes (stages, t), when no more samples come; what does not fill a code is filled up with zeros."""
        last = [self._codes(torch.cat(self._left, dim=1)) if self._waiting else self._none()]
        self._left, self._waiting, self._ended = [], 0, True
        tokenizer = self.tokenizer
        with _at_rest(tokenizer):
            late = self._stream.flush(tokenizer.modality.channels, tokenizer.device)
            return torch.cat([*last, self._quantized(late)] if late is not None else last, dim=1)

    @torch.no_grad()
    def _codes(self, samples: Tensor) -> Tensor:
        batch = self.tokenizer.modality.collate([samples], [""]).to(self.tokenizer.device)
        with _at_rest(self.tokenizer):
            return self._quantized(self._stream.push(batch.x, batch.mask))

    def _quantized(self, z: Tensor) -> Tensor:
        if not z.shape[2]:
            return self._none()
        codes = self.tokenizer.quantizer(z, None, self.stages).codes
        return codes.maps[0][0].long()

    def _none(self) -> Tensor:
        stages = self.stages or self.tokenizer.quantizer.stages
        return torch.zeros(stages, 0, dtype=torch.int64, device=self.tokenizer.device)


class StreamingDecoder:
    """Codes in, samples out, as many as are known. One decoder serves one stream.

    Joined, the samples are those of `Tokenizer.decode` for all codes at once, to float32 rounding, as long as the
    modality's `postprocess` takes each position by itself.

        decoder = StreamingDecoder(tokenizer)
        for some in codes:
            play(decoder.push(some))  # (C, t)
        play(decoder.flush(last_codes, size))

    Args:
        label: the class of the stream, for a tokenizer whose decoder is conditioned on labels.

    Attributes:
        size: samples given so far.

    Raises:
        UserError: a tokenizer that cannot: not of a line, no codes, several maps of codes, a decoder other than
            `direct`, a network that does not step; a label that is missing or unknown.
    """

    def __init__(self, tokenizer: Tokenizer, label: str | None = None):
        _require_line(tokenizer)
        if not isinstance(tokenizer.decoder, DirectDecoder):
            raise UserError(f"the decoder {tokenizer.decoder.name!r} does not stream: the decoder direct does")
        self.tokenizer, self._decoder, self.size = tokenizer, tokenizer.decoder, 0
        self._code = tokenizer.modality.strides[0]
        self._stream = Stream(_stepping(self._decoder.network, "decoder", tokenizer), 1, self._code)
        self._label = _label_number(tokenizer, label)
        self._ended = False

    @property
    def latency_samples(self) -> int:
        """From knowing a code until its first sample is known. With the encoder's: that of the way there and back."""
        return self._stream.network.lookahead

    def push(self, codes: Tensor) -> Tensor:
        """The next codes, integers (stages, t), t from 0 on -> finished samples (C, T), on the tokenizer's device.

        Raises:
            UserError: no such codes in this tokenizer.
            ValueError: the stream was flushed.
        """
        if self._ended:
            raise ValueError("StreamingDecoder.push: the stream has ended (flush): make a decoder for the next one")
        samples = self._samples(codes)
        self.size += samples.shape[1]
        return samples

    @torch.no_grad()
    def flush(self, codes: Tensor | None = None, size: int | None = None) -> Tensor:
        """The last samples, when no more codes come.

        Args:
            codes: the last codes, (stages, t).
            size: the length of the whole stream in samples, such as `StreamingEncoder.size`: what the last code stands
                for beyond it is cut off. None: every code stands for all its samples.

        Raises:
            ValueError: a size that has been passed already, or that the codes do not reach; the stream was flushed.
        """
        before = self.size
        parts = [self.push(self._no_codes() if codes is None else codes)]
        self._ended = True
        with _at_rest(self.tokenizer):
            late = self._stream.flush(self.tokenizer.quantizer.options.dim, self.tokenizer.device)
            if late is not None:
                parts.append(self._decoder.finish(late)[0])
        samples = torch.cat(parts, dim=1)
        end = before + samples.shape[1]
        if size is not None and not before <= size <= end:
            raise ValueError(
                f"StreamingDecoder.flush: size {size}: {before} samples were given already, and the codes end at "
                f"{end}; give flush the last codes, and the size that their encoder says"
            )
        self.size = end if size is None else size
        return samples[:, : self.size - before]

    @torch.no_grad()
    def _samples(self, codes: Tensor) -> Tensor:
        tokenizer = self.tokenizer
        _check_codes(codes, tokenizer)
        if not codes.shape[1]:
            return torch.zeros(tokenizer.modality.channels, 0, device=tokenizer.device)
        maps = (codes.unsqueeze(0).to(tokenizer.device),)
        with _at_rest(tokenizer):
            vectors = tokenizer.quantizer.lookup(Codes(maps, torch.tensor([[codes.shape[1] * self._code]])))
            output = self._stream.push(tokenizer.conditioned(vectors, self._label))
            return self._decoder.finish(output)[0]

    def _no_codes(self) -> Tensor:
        return torch.zeros(self.tokenizer.quantizer.stages, 0, dtype=torch.int64)


def _at_rest(tokenizer: Tokenizer) -> AbstractContextManager[None]:
    """Evaluation mode. Nothing is to be done for a tokenizer that was loaded: for small chunks that would cost as much
    as the network itself."""
    moving = tokenizer.training or any(module.training for module in tokenizer.modules())
    return evaluating(tokenizer) if moving else nullcontext()


def _require_line(tokenizer: Tokenizer) -> None:
    tokenizer.require_codes()
    modality, maps = tokenizer.modality, len(tokenizer.quantizer.sizes)
    if modality.rank != 1:
        raise UserError(f"{modality.name} has {modality.rank} axes: only a line (rank 1) streams")
    if maps != 1:
        raise UserError(
            f"the quantizer {tokenizer.quantizer.name!r} has {maps} maps of codes, the coarser ones over several "
            "positions: streaming needs one map, such as of vector or residual"
        )


def _stepping(module: nn.Module, which: str, tokenizer: Tokenizer) -> Network:
    network = as_network(module)
    if not network.causal:
        raise UserError(
            f"the {which} of this tokenizer ({type(module).__name__}) needs a sample as a whole: streaming needs a "
            f"causal network that steps; train one, if {tokenizer.modality.name} has an option for it (modality.causal)"
        )
    return network


def _label_number(tokenizer: Tokenizer, label: str | None) -> Tensor | None:
    if tokenizer.label_embedding is None:
        return None
    return torch.tensor([label_number(label, tokenizer.labels, "this stream")], device=tokenizer.device)


def _check_codes(codes: Tensor, tokenizer: Tokenizer) -> None:
    (sizes,) = tokenizer.quantizer.sizes
    if codes.ndim != 2 or not 1 <= len(codes) <= len(sizes) or codes.is_floating_point():
        raise UserError(
            f"codes are {codes.dtype} of shape {tuple(codes.shape)}: this tokenizer's are integers (stages, t) with 1 "
            f"to {len(sizes)} stages"
        )
    check_codes(codes, sizes, "a chunk")
