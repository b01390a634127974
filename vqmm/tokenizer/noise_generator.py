"""NoiseGenerator: a decoder that makes samples from noise, as the generator of a GAN does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqmm.contracts.adversary import Adversary
from vqmm.contracts.batch import Batch
from vqmm.contracts.decoder import Decoder
from vqmm.contracts.modality import Modality
from vqmm.contracts.quantizer import Quantized, Quantizer
from vqmm.nn.network import call_masked
from vqmm.tokenizer.model import Encode, Model, Output
from vqmm.utils.errors import UserError
from vqmm.utils.seeds import seed_of

if TYPE_CHECKING:
    from vqmm.contracts.metric import Metric  # imports torchmetrics

ALONE = {"adversarial"}  # an adversary's terms that compare no output with its own target


class NoiseGenerator(Model):
    """Noise to new samples: the decoder reads vectors (B, dim, *grid) from the quantizer's own prior, a normal one.

    It has no encoder and no codes, and learns from an adversary alone. Arguments as of `Model`.

    Source: Goodfellow et al. 2014, arXiv 1406.2661.
    """

    produces = "new samples"
    reconstruction_loss = None

    def __init__(
        self,
        modality: Modality,
        quantizer: Quantizer,
        decoder: Decoder,
        labels: Sequence[str] = (),
        conditional: bool = False,
        extent: Sequence[int] | None = None,
    ):
        super().__init__(modality, quantizer, decoder, labels, conditional, extent)
        if quantizer.sample(1, [1] * modality.rank, torch.Generator()) is None:
            raise UserError(
                f"input: noise comes from the quantizer's own prior, {quantizer.name!r} has none: take gaussian"
            )
        quantizer.requires_grad_(False)

    def forward(self, batch: Batch, stages: int | Tensor | None = None) -> Output:
        """As many new samples as there are in the batch. No loss: an adversary gives one."""
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))  # so torch's own state decides
        vectors = self._prior_vectors(len(batch), self._grid(batch.x.shape[2:]), generator)
        output = self.decoder.loss(self.conditioned(vectors, batch.label), batch)[1]
        if output is None:
            raise UserError(f"input: noise needs a decoder with an output, and {self.decoder.name!r} has none: direct")
        nothing = output.float().sum() * 0  # depends on every weight, whether a critic counts yet or not
        return Output(nothing, {"adversarial": nothing}, output, Quantized(vectors, None, {}))

    def decoder_input(
        self, batch: Batch, stages: int | Tensor | None = None, encode: Encode = call_masked
    ) -> Quantized:
        """Noise on the batch's grid, for each sample from a seed made of its key: whatever batch it comes in."""
        grid = self._grid(batch.x.shape[2:])
        generators = [torch.Generator().manual_seed(seed_of(key)) for key in batch.key]
        return Quantized(torch.cat([self._prior_vectors(1, grid, generator) for generator in generators]), None, {})

    def reference_metrics(self, metrics: "Mapping[str, Metric]") -> "Mapping[str, Metric]":
        """None: a new sample belongs beside no original."""
        return {}

    def shuffled_losses(self, batch: Batch, stages: int | None = None) -> None:
        """None: noise is of no sample."""

    def start_from_data(self, batches: Iterable[Batch]) -> None:
        """Nothing: there are no latents."""

    def check_critic(self, adversary: Adversary | None) -> None:
        """A `UserError` without an adversary, or for one with terms and a course that go by reconstructions."""
        if adversary is None:
            raise UserError("input: noise learns from an adversary alone, and there is none: set adversary.name=critic")
        options = adversary.options
        if options.balance != "fixed" or options.start == "flat" or set(adversary.weights) - ALONE:
            wrong = ", ".join(f"{name} {weight:g}" for name, weight in adversary.weights.items() if name not in ALONE)
            raise UserError(
                "adversary: with input=noise nothing is reconstructed, so its terms have nothing to go by: balance "
                f"{options.balance}, start {options.start}{f', {wrong}' if wrong else ''}: take balance=fixed, start=0 "
                "and the adversarial term alone, as the recipe gan does"
            )

    @property
    def coder(self) -> None:
        """None: there are no codes."""
