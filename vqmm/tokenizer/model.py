"""Model: what a run trains, evaluates and saves: a tokenizer, or a generator that makes samples from noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vqmm.contracts.adversary import Adversary
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
    require_class,
    tokenizer_folder,
    write_tokenizer,
)
from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from vqmm.contracts.metric import Metric  # imports torchmetrics

Encode = Callable[[nn.Module, Tensor, Tensor | None], Tensor]  # an encoder, x and its mask -> z
Coder = tuple[Callable[[Batch], Codes], Callable[[Codes], list[Tensor]]]  # encode and decode


@dataclass(frozen=True)
class Output:
    """One forward pass: `loss` is the sum of `losses`; `output` what `Modality.postprocess` turns into samples."""

    loss: Tensor
    losses: dict[str, Tensor]
    output: Tensor | None
    quantized: Quantized


class Model(nn.Module, ABC):
    """A quantizer and a decoder around a modality. Knows no modality by name.

    Training, evaluation and reports work with every model; what they ask of it is abstract here. A `Tokenizer` gives
    samples back, a `NoiseGenerator` makes new ones.

    Args:
        labels: the names of the classes, in the order of their numbers.
        conditional: give the decoder an embedding of each sample's label, added to the vectors.
        extent: the extent of a training view; what `sample` makes.
        encoder: the network before the quantizer, for a model that has one.

    Attributes:
        produces: what `evaluation_outputs` gives, in words.
        reconstruction_loss: the name of the loss that compares the output with the batch; None where none does.
    """

    produces: ClassVar[str]
    reconstruction_loss: ClassVar[str | None]

    def __init__(
        self,
        modality: Modality,
        quantizer: Quantizer,
        decoder: Decoder,
        labels: Sequence[str] = (),
        conditional: bool = False,
        extent: Sequence[int] | None = None,
        *,
        encoder: nn.Module | None = None,
    ):
        super().__init__()
        if quantizer.discrete_input != decoder.discrete_input or (quantizer.discrete_input and conditional):
            raise UserError(_unfit(quantizer, decoder))
        self._frozen = False
        self.modality = modality
        if encoder is not None:
            self.encoder = encoder  # first, so that weights are listed in the order of the road
        self.quantizer = quantizer
        self.decoder = decoder
        self.labels = tuple(labels)
        self.extent = None if extent is None else tuple(extent)
        self.label_embedding = nn.Embedding(len(self.labels), quantizer.options.dim) if conditional else None

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        modality: Modality,
        registry: Registry,
        labels: Sequence[str] = (),
        conditional: bool = False,
        extent: Sequence[int] | None = None,
    ) -> Self:
        """An untrained model of the parts that `config` names, around a modality that has learnt what it must."""
        quantizer_class, quantizer_options = registry.part("quantizer", config["quantizer"])
        decoder_class, decoder_options = registry.part("decoder", config["decoder"])
        quantizer = quantizer_class.build(quantizer_options, modality.rank, registry)
        decoder = decoder_class(modality, quantizer.options.dim, decoder_options)
        return cls(modality, quantizer, decoder, labels, conditional, extent)

    # What differs between models

    @abstractmethod
    def forward(self, batch: Batch, stages: int | Tensor | None = None) -> Output:
        """The whole road, with its losses."""

    @abstractmethod
    def decoder_input(
        self, batch: Batch, stages: int | Tensor | None = None, encode: Encode = call_masked
    ) -> Quantized:
        """What the decoder is given beside a batch in evaluation. `encode`: how a batch goes through an encoder."""

    @abstractmethod
    def reference_metrics(self, metrics: "Mapping[str, Metric]") -> "Mapping[str, Metric]":
        """Those of the modality's metrics that may compare what the model gives for a batch with the batch."""

    @abstractmethod
    def shuffled_losses(self, batch: Batch, stages: int | None = None) -> tuple[float, float] | None:
        """The decoder's loss with each sample's own vectors, and with those of another sample of the batch; None where
        the vectors are of no sample.
        """

    @abstractmethod
    def start_from_data(self, batches: Iterable[Batch]) -> None:
        """Before the first step: give the quantizer the latents of some training batches, where there are latents."""

    @abstractmethod
    def check_critic(self, adversary: Adversary | None) -> None:
        """A `UserError` where the model cannot learn from this adversary, or from none."""

    @property
    @abstractmethod
    def coder(self) -> Coder | None:
        """The functions `encode` and `decode`; None for a model without codes."""

    # From vectors to samples

    @torch.no_grad()
    def evaluation_outputs(self, batch: Batch, stages: int | Tensor | None = None) -> tuple[list[Tensor], Codes | None]:
        """What stands beside a batch in evaluation: as many finished samples (C, *size), and the codes they came from.

        They are reconstructions, or new samples of the same sizes and labels: see `produces`.
        """
        with evaluating(self):
            return self._finished(self.decoder_input(batch, stages), batch, seed=0)

    @torch.no_grad()
    def sample(self, count: int, label: int | None = None, seed: int = 0) -> list[Tensor]:
        """New samples from the bottleneck's own prior, for models that have one (a VAE, a GAN)."""
        extent = self.extent or ()
        labels = None if label is None else torch.full((count,), label, device=self.device)
        vectors = self._prior_vectors(count, self._grid(extent), torch.Generator().manual_seed(seed))
        with evaluating(self):
            return self._sampled(vectors, Codes((), torch.tensor(extent).repeat(count, 1), None, labels), seed)

    def conditioned(self, vectors: Tensor, label: Tensor | None) -> Tensor:
        """The vectors with the label's embedding added, where the decoder is conditioned on labels."""
        if self.label_embedding is None:
            return vectors
        if label is None:
            raise missing_label(self.labels, "these samples")
        embedding = self.label_embedding(label)
        return vectors + embedding.reshape(*embedding.shape, *[1] * (vectors.ndim - 2))

    def _finished(self, quantized: Quantized, batch: Batch, seed: int) -> tuple[list[Tensor], Codes | None]:
        """The decoder's samples for vectors that stand beside a batch."""
        return self._sampled(quantized.vectors, codes_like(quantized, batch), seed), quantized.codes

    def _sampled(self, vectors: Tensor, codes: Codes, seed: int) -> list[Tensor]:
        return self.decoder.sample(self.conditioned(vectors, codes.label), codes.size, seed, codes.mask)

    def _prior_vectors(self, count: int, grid: Sequence[int], generator: torch.Generator) -> Tensor:
        """Vectors (count, D, *grid) from the quantizer's own prior; a `UserError` where it has none."""
        vectors = self.quantizer.sample(count, grid, generator)
        if vectors is None:
            raise UserError(f"the quantizer {self.quantizer.name!r} cannot be sampled by itself: train a prior over it")
        return vectors.to(self.device)

    def _grid(self, extent: Sequence[int]) -> list[int]:
        return [n // s for n, s in zip(extent, self.modality.strides, strict=True)]

    def require_stages(self, stages: int | None) -> None:
        """A `UserError` for a number of stages that the quantizer does not have."""
        most = max((len(each) for each in self.quantizer.sizes), default=0)
        if stages is not None and not 1 <= stages <= most:
            raise UserError(f"{stages} stages: the quantizer {self.quantizer.name!r} of this run has {most or 'none'}")

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU where there are none."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device  # ids pass through without a weight

    # Staying as it is

    def freeze(self) -> Self:
        """Never move again, whatever `train()` is called on: evaluation mode for good, no gradients."""
        self.eval().requires_grad_(False)
        self._frozen = True
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`, to train on."""
        self._frozen = False
        return self.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; what `freeze` has frozen stays in evaluation mode."""
        return super().train(mode and not self._frozen)

    # Identity

    def fingerprint(self) -> str:
        """16 hex digits for the whole, decoder included."""
        return self._fingerprint(self._config(), self.state_dict())

    def _fingerprint(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
        front = self.modality.front()
        return fingerprint(config, b"" if front is None else front.state_bytes(), tensors)

    def _fingerprints(self) -> dict[str, str]:
        """By the names that they have in `config.json`."""
        return {"fingerprint": self.fingerprint()}

    # On disk

    def _config(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"modality": self.modality, "quantizer": self.quantizer, "decoder": self.decoder}
        part_configs = {what: {"name": part.name, **part.options.to_config()} for what, part in parts.items()}
        conditional = self.label_embedding is not None
        extent = self.extent and [*self.extent]
        return {**part_configs, "labels": list(self.labels), "conditional": conditional, "extent": extent}

    def save(self, folder: Path) -> None:
        """Write `config.json`, `model.safetensors` and the modality's own files, in place of what was there."""
        config = {"class": type(self).__name__, **self._config(), **self._fingerprints()}
        write_tokenizer(folder, config, self.state_dict(), self.modality.front())

    def adopt(self, folder: Path, new: Sequence[str] = ()) -> None:
        """Take the weights of a saved model, all but those whose names begin with one of `new`."""
        kept = {name: value for name, value in self.state_dict().items() if name.startswith(tuple(new))}
        tensors = read_tensors(folder)
        try:
            self.load_state_dict(tensors | kept)
        except RuntimeError as error:
            raise damaged_weights(folder, error) from None

    @classmethod
    def load(cls, folder: Path | str, registry: Registry | None = None) -> Self:
        """Read a model's folder, or a run's. It comes back frozen.

        Raises:
            UserError: the folder holds no model, or one of another class; a plugin it needs is missing; a file is
                damaged.
        """
        path, folder = folder, tokenizer_folder(Path(folder))
        config = read_config(folder)
        require_class(config, cls.__name__, path)
        registry = registry or Registry.discover()
        modality = build_modality(config, registry)
        modality.trained = True
        front = modality.front()
        if front is not None:
            front.load(folder)
        labels, conditional, extent = (config[name] for name in ("labels", "conditional", "extent"))
        model = cls.build(config, modality, registry, labels, conditional, extent)
        model.adopt(folder)
        if model.fingerprint() != config["fingerprint"]:
            raise UserError(
                f"{folder} was changed after it was saved: its content has the fingerprint {model.fingerprint()}, "
                f"config.json says {config['fingerprint']}"
            )
        return model.freeze()


def codes_like(quantized: Quantized, batch: Batch) -> Codes:
    """The codes of a batch; where there are none, what else a decoder is given: sizes, mask (B, *grid) and labels."""
    if quantized.codes is not None:
        return quantized.codes
    label = None if batch.label is None else batch.label.to(quantized.vectors.device)
    return Codes((), batch.size, grid_mask(batch, quantized.vectors), label)


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
