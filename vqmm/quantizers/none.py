"""No bottleneck but the width of the latents: an autoencoder, the bound that every quantizer is measured against."""

from torch import Tensor

from vqmm.contracts.quantizer import Quantized, Quantizer


class NoQuantizer(Quantizer):
    """vectors = z. No codes, no losses."""

    name = "none"

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Empty: there are no codes."""
        return ()

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> vectors that are z itself; `mask` and `stages` change nothing."""
        return Quantized(z, None, {})
