"""Tokenizer: an encoder, a quantizer and a decoder in a row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.adversary import Adversary
from vqmm.contracts.batch import Batch, Codes
from vqmm.contracts.decoder import Decoder, grid_mask
from vqmm.contracts.modality import Modality
from vqmm.contracts.quantizer import Quantized, Quantizer
from vqmm.nn.network import call_masked
from vqmm.tokenizer.model import Coder, Encode, Model, Output, evaluating
from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from vqmm.contracts.metric import Metric  # imports torchmetrics

START_VECTORS_PER_CODE = 16  # latents that k-means gets for each code, data permitting


class Tokenizer(Model):
    """Samples to codes and back. Arguments as of `Model`, but for the encoder: the modality's, as the quantizer has it.

    Attributes:
        encoder: x (B, C, *extent) -> z (B, dim, *grid).
    """

    produces = "reconstructions"
    reconstruction_loss = "reconstruction"
    encoder: nn.Module

    def __init__(
        self,
        modality: Modality,
        quantizer: Quantizer,
        decoder: Decoder,
        labels: Sequence[str] = (),
        conditional: bool = False,
        extent: Sequence[int] | None = None,
    ):
        encoder = quantizer.encoder_for(modality)
        super().__init__(modality, quantizer, decoder, labels, conditional, extent, encoder=encoder)
        self._codes_frozen = False

    # From samples to codes and back

    def forward(self, batch: Batch, stages: int | Tensor | None = None) -> Output:
        """The whole road, with its losses."""
        quantized = self.quantize(batch, stages)
        vectors = self.conditioned(quantized.vectors, batch.label)
        reconstruction, output = self.decoder.loss(vectors, batch)
        losses = {"reconstruction": reconstruction, **quantized.losses}
        return Output(torch.stack([*losses.values()]).sum(), losses, output, quantized)

    def quantize(self, batch: Batch, stages: int | Tensor | None = None, encode: Encode = call_masked) -> Quantized:
        """The road up to the quantizer; `codes` carry the samples' own sizes and labels."""
        quantized = self.quantizer(*self.latents(batch, encode), stages)
        if quantized.codes is None:
            return quantized
        label = None if batch.label is None else batch.label.to(quantized.vectors.device)
        return replace(quantized, codes=replace(quantized.codes, size=batch.size, label=label))

    def latents(self, batch: Batch, encode: Encode = call_masked) -> tuple[Tensor, Tensor | None]:
        """What the quantizer reads: z (B, dim, *grid) and the mask (B, *grid)."""
        z = encode(self.encoder, batch.x, batch.mask)
        mask = grid_mask(batch, z)
        return z, None if mask is None else mask.to(z.device)

    @torch.no_grad()
    def encode(self, batch: Batch, stages: int | Tensor | None = None) -> Codes:
        """The codes of a batch. A `UserError` for a bottleneck that has none."""
        self.require_codes()
        with evaluating(self):
            codes = self.quantize(batch, stages).codes
        assert codes is not None  # require_codes
        return codes

    @torch.no_grad()
    def decode(self, codes: Codes, seed: int = 0) -> list[Tensor]:
        """The samples (C, *size) that codes stand for."""
        self.require_codes()
        with evaluating(self):
            return self._sampled(self.quantizer.lookup(codes), codes, seed)

    @torch.no_grad()
    def reconstruct(
        self, batch: Batch, seed: int = 0, stages: int | Tensor | None = None
    ) -> tuple[list[Tensor], Codes | None]:
        """Through the bottleneck and back, for every tokenizer, with codes or without: finished samples, and codes."""
        with evaluating(self):
            return self._finished(self.quantize(batch, stages), batch, seed)

    def require_codes(self) -> None:
        """A `UserError` where the quantizer has no codes, as that of a VAE or a plain autoencoder."""
        if not self.quantizer.stages:
            raise UserError(
                f"the quantizer {self.quantizer.name!r} has no codes: encode and decode need a recipe with a codebook, "
                "such as vqvae-ema"
            )

    @property
    def coder(self) -> Coder | None:
        """The functions `encode` and `decode`; None for a bottleneck without codes."""
        return (self.encode, self.decode) if self.quantizer.stages else None

    # In training and evaluation

    def decoder_input(
        self, batch: Batch, stages: int | Tensor | None = None, encode: Encode = call_masked
    ) -> Quantized:
        """The batch's own vectors: as `quantize`."""
        return self.quantize(batch, stages, encode)

    def reference_metrics(self, metrics: "Mapping[str, Metric]") -> "Mapping[str, Metric]":
        """All of them: a reconstruction is compared with its original."""
        return metrics

    @torch.no_grad()
    def shuffled_losses(self, batch: Batch, stages: int | None = None) -> tuple[float, float]:
        """The decoder's loss with each sample's own codes, and with those of another sample of the batch."""
        with evaluating(self):
            vectors = self.quantize(batch, stages).vectors
            right, wrong = (
                float(self.decoder.loss(self.conditioned(each, batch.label), batch)[0])
                for each in (vectors, vectors.roll(1, 0))
            )
        return right, wrong

    @torch.no_grad()
    def start_from_data(self, batches: Iterable[Batch]) -> None:
        """Give the quantizer the latents of as many batches as it takes to start from, by the untrained encoder."""
        parts: list[tuple[Tensor, Tensor | None]] = []
        wanted = START_VECTORS_PER_CODE * self.quantizer.codebook_size
        for batch in batches:
            parts.append(self.latents(batch))
            if sum(z[:, 0].numel() for z, _ in parts) >= wanted:
                break
        if parts:
            self.quantizer.initialise(*join_latents(parts))

    def check_critic(self, adversary: Adversary | None) -> None:
        """Nothing: a tokenizer learns to reconstruct with any adversary, and with none."""

    # Staying as it is

    def freeze_codes(self) -> None:
        """Train the decoder alone from now on: no sample's codes change, nor what they stand for."""
        self._codes_frozen = True
        for part in (self.encoder, self.quantizer):
            part.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; what `freeze` or `freeze_codes` has frozen stays in evaluation mode."""
        super().train(mode)
        if self._codes_frozen:
            self.encoder.eval()
            self.quantizer.eval()  # where nothing moves, and nothing is drawn
        return self

    # Identity

    def code_fingerprint(self) -> str:
        """16 hex digits for all that decides which codes a sample gets, and what vectors they stand for."""
        config = self._config()
        tensors = {name: t for name, t in self.state_dict().items() if name.startswith(("encoder.", "quantizer."))}
        return self._fingerprint({part: config[part] for part in ("modality", "quantizer")}, tensors)

    def _fingerprints(self) -> dict[str, str]:
        return {"code_fingerprint": self.code_fingerprint(), **super()._fingerprints()}


def join_latents(parts: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Batches of latents as one, padded to the largest grid if their grids differ."""
    grids = [z.shape[2:] for z, _ in parts]
    largest = [max(axis) for axis in zip(*grids, strict=True)]
    if all(list(grid) == largest for grid in grids) and all(mask is None for _, mask in parts):
        return torch.cat([z for z, _ in parts]), None
    latents, masks = [], []
    for z, mask in parts:
        pad = [n for have, want in zip(reversed(z.shape[2:]), reversed(largest), strict=True) for n in (0, want - have)]
        latents.append(F.pad(z, pad))
        masks.append(F.pad(torch.ones_like(z[:, 0], dtype=torch.bool) if mask is None else mask, pad))
    return torch.cat(latents), torch.cat(masks)
