"""No bottleneck but the width of the latents: an autoencoder, the bound that every quantizer is measured against."""

from torch import Tensor

from vqmm.contracts.quantizer import Quantized, Quantizer


class NoQuantizer(Quantizer):
    """vectors = z. No codes, no losses."""

    name = "none"

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return ()

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        return Quantized(z, None, {})
