"""Tokenizer: an encoder, a quantizer and a decoder in a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqmm.contracts.batch import Batch, Codes
from vqmm.contracts.decoder import Decoder, grid_mask
from vqmm.contracts.labels import missing_label
from vqmm.contracts.modality import Modality
from vqmm.contracts.quantizer import Quantized, Quantizer
from vqmm.nn.network import call_masked
from vqmm.registry import Registry
from vqmm.tokenizer.storage import (
    build_modality,
    damaged_weights,
    fingerprint,
    read_config,
    read_tensors,
    tokenizer_folder,
    write_tokenizer,
)
from vqmm.utils.errors import UserError


@dataclass(frozen=True)
class Output:
    """One forward pass: `loss` is the sum of `losses`; `output` what `Modality.postprocess` turns into samples."""

    loss: Tensor
    losses: dict[str, Tensor]
    output: Tensor | None
    quantized: Quantized


class Tokenizer(nn.Module):
    """Samples to codes and back. Knows no modality by name.

    Args:
        labels: the names of the classes, in the order of their numbers.
        conditional: give the decoder an embedding of each sample's label, added to the vectors.
        extent: the extent of a training view; what `sample` draws.
        draws: no encoder: the decoder is given what the quantizer's own prior draws (the generator of a GAN).
    """

    def __init__(
        self,
        modality: Modality,
        quantizer: Quantizer,
        decoder: Decoder,
        labels: Sequence[str] = (),
        conditional: bool = False,
        extent: Sequence[int] | None = None,
        draws: bool = False,
    ):
        super().__init__()
        if quantizer.discrete_input != decoder.discrete_input or (quantizer.discrete_input and conditional):
            raise UserError(_unfit(quantizer, decoder))
        self.modality = modality
        self.draws = draws
        self.encoder = nn.Identity() if draws else quantizer.encoder_for(modality)
        self.quantizer = quantizer
        self.decoder = decoder
        self.labels = tuple(labels)
        self.extent = None if extent is None else tuple(extent)
        self.label_embedding = nn.Embedding(len(self.labels), quantizer.options.dim) if conditional else None
        self._frozen = self._codes_frozen = False
        if draws:
            if quantizer.sample(1, [1] * modality.rank, torch.Generator()) is None:
                raise UserError(
                    f"input: noise comes from the quantizer's own prior, {quantizer.name!r} has none: take gaussian"
                )
            quantizer.requires_grad_(False)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        modality: Modality,
        registry: Registry,
        labels: Sequence[str] = (),
        conditional: bool = False,
        extent: Sequence[int] | None = None,
        draws: bool = False,
    ) -> "Tokenizer":
        """An untrained tokenizer of the parts that `config` names, around a modality that has learnt what it must."""
        quantizer_class, quantizer_options = registry.part("quantizer", config["quantizer"])
        decoder_class, decoder_options = registry.part("decoder", config["decoder"])
        quantizer = quantizer_class.build(quantizer_options, modality.rank, registry)
        decoder = decoder_class(modality, quantizer.options.dim, decoder_options)
        return cls(modality, quantizer, decoder, labels, conditional, extent, draws)

    # From samples to codes and back

    def forward(self, batch: Batch, stages: int | Tensor | None = None) -> Output:
        """The whole road, with its losses."""
        if self.draws:
            return self._generated(batch)
        quantized = self.quantize(batch, stages)
        vectors = self.conditioned(quantized.vectors, batch.label)
        reconstruction, output = self.decoder.loss(vectors, batch)
        losses = {"reconstruction": reconstruction, **quantized.losses}
        return Output(torch.stack([*losses.values()]).sum(), losses, output, quantized)

    def _generated(self, batch: Batch) -> Output:
        """As many new samples as there are in the batch. No loss: judging them is an adversary's task."""
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))  # so torch's own state decides
        vectors = self._drawn(len(batch), self._grid(batch.x.shape[2:]), generator)
        output = self.decoder.loss(self.conditioned(vectors, batch.label), batch)[1]
        if output is None:
            raise UserError(f"input: noise needs a decoder with an output, and {self.decoder.name!r} has none: direct")
        nothing = output.float().sum() * 0  # depends on every weight, whether a critic counts yet or not
        return Output(nothing, {"adversarial": nothing}, output, Quantized(vectors, None, {}))

    def _drawn(self, count: int, grid: Sequence[int], generator: torch.Generator) -> Tensor:
        """Vectors from the quantizer's own prior; a `UserError` where it has none."""
        vectors = self.quantizer.sample(count, grid, generator)
        if vectors is None:
            raise UserError(f"the quantizer {self.quantizer.name!r} cannot be sampled by itself: train a prior over it")
        return vectors.to(self.device)

    def _grid(self, extent: Sequence[int]) -> list[int]:
        return [n // s for n, s in zip(extent, self.modality.strides, strict=True)]

    def quantize(self, batch: Batch, stages: int | Tensor | None = None) -> Quantized:
        """The road up to the quantizer; `codes` carry the samples' own sizes and labels."""
        quantized = self.quantizer(*self.latents(batch), stages)
        if quantized.codes is None:
            return quantized
        return replace(quantized, codes=replace(quantized.codes, size=batch.size, label=batch.label))

    def latents(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What the quantizer reads: z (B, dim, *grid) and the mask (B, *grid)."""
        z = call_masked(self.encoder, batch.x, batch.mask)
        return z, grid_mask(batch, z)

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
        if self.draws:
            return self._samples(batch.x.shape[2:], batch.size, batch.label, seed), None
        with evaluating(self):
            quantized = self.quantize(batch, stages)
            like = quantized.codes or Codes((), batch.size, grid_mask(batch, quantized.vectors), batch.label)
            return self._sampled(quantized.vectors, like, seed), quantized.codes

    @torch.no_grad()
    def sample(self, count: int, label: int | None = None, seed: int = 0) -> list[Tensor]:
        """New samples from the bottleneck's own prior, for models that have one (a VAE, a GAN)."""
        extent = self.extent or ()
        labels = None if label is None else torch.full((count,), label, device=self.device)
        return self._samples(extent, torch.tensor(extent).repeat(count, 1), labels, seed)

    def _samples(self, extent: Sequence[int], size: Tensor, labels: Tensor | None, seed: int) -> list[Tensor]:
        """New samples of given sizes, in a batch of that extent."""
        vectors = self._drawn(len(size), self._grid(extent), torch.Generator().manual_seed(seed))
        with evaluating(self):
            return self._sampled(vectors, Codes((), size, None, labels), seed)

    def _sampled(self, vectors: Tensor, codes: Codes, seed: int) -> list[Tensor]:
        return self.decoder.sample(self.conditioned(vectors, codes.label), codes.size, seed, codes.mask)

    def conditioned(self, vectors: Tensor, label: Tensor | None) -> Tensor:
        """The vectors with the label's embedding added, where the decoder is told labels."""
        if self.label_embedding is None:
            return vectors
        if label is None:
            raise missing_label(self.labels, "these samples")
        embedding = self.label_embedding(label)
        return vectors + embedding.reshape(*embedding.shape, *[1] * (vectors.ndim - 2))

    @property
    def keeps_codes(self) -> bool:
        """Whether encoder and quantizer stay as they are in training."""
        return self._codes_frozen

    def freeze_codes(self) -> None:
        """Train the decoder alone from now on: no sample's codes change, nor what they stand for."""
        self._codes_frozen = True
        for part in (self.encoder, self.quantizer):
            part.eval().requires_grad_(False)

    def require_stages(self, stages: int | None) -> None:
        """A `UserError` for a number of stages that the quantizer does not have."""
        most = max((len(each) for each in self.quantizer.sizes), default=0)
        if stages is not None and not 1 <= stages <= most:
            raise UserError(f"{stages} stages: the quantizer {self.quantizer.name!r} of this run has {most or 'none'}")

    def require_codes(self) -> None:
        """A `UserError` where the quantizer has no codes, as that of a VAE or a plain autoencoder."""
        if not self.quantizer.stages:
            raise UserError(
                f"the quantizer {self.quantizer.name!r} has no codes: encode and decode need a recipe with a codebook, "
                "such as vqvae-ema"
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU where there are none."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device  # ids pass through without a weight

    # Staying as it is

    def freeze(self) -> "Tokenizer":
        """Never move again, whatever `train()` is called on: evaluation mode for good, no gradients."""
        self.eval().requires_grad_(False)
        self._frozen = True
        return self

    def unfreeze(self) -> "Tokenizer":
        """Undo `freeze`, to train on."""
        self._frozen = False
        return self.requires_grad_(True)

    def train(self, mode: bool = True) -> "Tokenizer":
        """As `nn.Module.train`; what `freeze` or `freeze_codes` has frozen stays in evaluation mode."""
        super().train(mode and not getattr(self, "_frozen", False))
        if getattr(self, "_codes_frozen", False):
            self.encoder.eval()
            self.quantizer.eval()  # where nothing moves, and nothing is drawn
        return self

    # Identity

    def code_fingerprint(self) -> str:
        """16 hex digits for all that decides which codes a sample gets, and what vectors they stand for."""
        return self._fingerprint("encoder.", "quantizer.")

    def fingerprint(self) -> str:
        """16 hex digits for the whole, decoder included."""
        return self._fingerprint("")

    def _fingerprint(self, *prefixes: str) -> str:
        config = self._config()
        hashed_config = config if prefixes == ("",) else {part: config[part] for part in ("modality", "quantizer")}
        tensors = {name: t for name, t in self.state_dict().items() if name.startswith(prefixes)}
        front = self.modality.front()
        return fingerprint(hashed_config, b"" if front is None else front.state_bytes(), tensors)

    # On disk

    def _config(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"modality": self.modality, "quantizer": self.quantizer, "decoder": self.decoder}
        part_configs = {what: {"name": part.name, **part.options.to_config()} for what, part in parts.items()}
        conditional = self.label_embedding is not None
        return {
            **part_configs,
            "labels": list(self.labels),
            "conditional": conditional,
            "extent": self.extent and [*self.extent],
            **({"draws": True} if self.draws else {}),  # nowhere else: it would change what older ones are called
        }

    def save(self, folder: Path) -> None:
        """Write `config.json`, `model.safetensors` and the modality's own files, in place of what was there."""
        config = {**self._config(), "code_fingerprint": self.code_fingerprint(), "fingerprint": self.fingerprint()}
        write_tokenizer(folder, config, self.state_dict(), self.modality.front())

    def adopt(self, folder: Path, new: Sequence[str] = ()) -> None:
        """Take the weights of a saved tokenizer, all but those whose names begin with one of `new`."""
        kept = {name: value for name, value in self.state_dict().items() if name.startswith(tuple(new))}
        tensors = read_tensors(folder)
        try:
            self.load_state_dict(tensors | kept)
        except RuntimeError as error:
            raise damaged_weights(folder, error) from None

    @classmethod
    def load(cls, folder: Path | str, registry: Registry | None = None) -> "Tokenizer":
        """Read a tokenizer's folder, or a run's. It comes back frozen.

        Raises:
            UserError: the folder holds no tokenizer; a plugin it needs is missing; a file is damaged.
        """
        folder = tokenizer_folder(Path(folder))
        config = read_config(folder)
        registry = registry or Registry.discover()
        modality = build_modality(config, registry)
        modality.trained = True
        front = modality.front()
        if front is not None:
            front.load(folder)
        labels, conditional, extent = (config[name] for name in ("labels", "conditional", "extent"))
        tokenizer = cls.build(config, modality, registry, labels, conditional, extent, config.get("draws", False))
        tokenizer.adopt(folder)
        if tokenizer.fingerprint() != config["fingerprint"]:
            raise UserError(
                f"{folder} was changed after it was saved: its content has the fingerprint {tokenizer.fingerprint()}, "
                f"config.json says {config['fingerprint']}"
            )
        return tokenizer.freeze()


def _unfit(quantizer: Quantizer, decoder: Decoder) -> str:
    if quantizer.discrete_input == decoder.discrete_input:
        return f"condition: the decoder {decoder.name!r} gives ids back as they are, whatever the label: leave it null"
    return (
        f"decoder.name: {decoder.name!r} does not fit the quantizer {quantizer.name!r}: 'identity' passes ids through "
        "unchanged as a quantizer and as a decoder, and goes with nothing but itself"
    )


class evaluating:  # noqa: N801
    """Evaluation mode inside the block, then the modes that were there before."""

    def __init__(self, module: nn.Module):
        self.before = [(each, each.training) for each in module.modules()]
        self.module = module

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.before:
            module.training = training
