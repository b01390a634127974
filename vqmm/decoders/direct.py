"""The direct decoder: the modality's own network, trained by the modality's own reconstruction loss."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from vqmm.contracts.batch import Batch
from vqmm.contracts.decoder import Decoder, cut, grid_mask
from vqmm.contracts.modality import Modality
from vqmm.nn.network import call_masked


class DirectDecoder(Decoder):
    """One forward pass, no randomness."""

    name = "direct"

    class Options(Decoder.Options):
        """Whether outputs are kept in the range of samples; the network's own options are the modality's."""

        added: ClassVar[frozenset[str]] = frozenset({"bounded"})
        bounded: bool = Field(
            False, description="bring outputs into the range of samples, where no reconstruction loss keeps them there"
        )

    options: Options

    def __init__(self, modality: Modality, dim: int, options: Options | None = None):
        super().__init__(modality, dim, options)
        self.network = modality.build_decoder(dim)

    def loss(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The modality's reconstruction loss, in float32 and inside `batch.mask`, and the network's output.

        With the option `bounded` both are of the output brought into the range of samples. The output has a gradient.
        """
        output = self._bounded(call_masked(self.network, vectors, grid_mask(batch, vectors)))
        target = self.modality.target(batch.target_or_x)
        return self.modality.reconstruction_loss(output.float(), target, batch.mask), output

    def sample(self, vectors: Tensor, size: Tensor, seed: int, mask: Tensor | None = None) -> list[Tensor]:
        """One pass of the network, finished by the modality and cut to each size; `seed` changes nothing."""
        return cut(self.finish(call_masked(self.network, vectors, mask)), size)

    def finish(self, output: Tensor) -> Tensor:
        """What the network gave -> finished samples (B, C, *extent), not cut to their sizes."""
        return self.modality.postprocess(self._bounded(output))

    def _bounded(self, output: Tensor) -> Tensor:
        return self.modality.output_activation(output) if self.options.bounded else output
