"""The variational bottleneck: Kingma and Welling 2014 (arXiv 1312.6114)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.quantizer import Quantized, Quantizer, from_rows, to_rows
from vqmm.nn.masks import masked_mean


class GaussianQuantizer(Quantizer):
    """A diagonal Gaussian at every position: drawn from in training, its mean in evaluation. No codes.

    The loss is the KL divergence to the standard normal (appendix B of the paper), per latent dimension.
    """

    name = "gaussian"
    measured: ClassVar[Mapping[str, str]] = {
        "kl_per_dim": "KL divergence to the standard normal, in nats per latent dimension: the mean over positions"
    }

    class Options(Quantizer.Options):
        """How much the KL divergence weighs."""

        kl_weight: float = Field(0.01, ge=0, description="weight of the KL divergence, in nats per latent dimension")

    options: Options

    def __init__(self, options: Options | None = None, rank: int = 2):
        super().__init__(options, rank)
        self.moments = nn.Linear(self.options.dim, 2 * self.options.dim)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Empty: there are no codes."""
        return ()

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> vectors like z: a draw in training, the mean in evaluation; `stages` changes nothing.

        A linear map of z gives the mean and the log-variance, which is clamped to [-20, 10]. The loss is "kl",
        weighted; the measure "kl_per_dim" is the same without the weight, in nats per latent dimension.
        """
        with torch.autocast(z.device.type, enabled=False):
            mean, log_variance = self.moments(to_rows(z)).chunk(2, dim=1)
            log_variance = log_variance.clamp(-20, 10)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
            noise = torch.randn_like(mean) * (log_variance / 2).exp() if self.training else 0
            vectors = from_rows(mean + noise, len(z), z.shape[2:])
            mean_kl = masked_mean(from_rows(kl, len(z), z.shape[2:]), mask)
        return Quantized(vectors, None, {"kl": self.options.kl_weight * mean_kl}, {"kl_per_dim": mean_kl})

    def sample(self, count: int, grid: Sequence[int], generator: torch.Generator) -> Tensor:
        """Vectors (count, dim, *grid) from the standard normal, the prior that the KL divergence is taken to."""
        return torch.randn(count, self.options.dim, *grid, generator=generator)
