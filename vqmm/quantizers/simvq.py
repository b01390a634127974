"""SimVQ: the codebook is a fixed random matrix times a learnt one, so every gradient moves all codes at once.

Zhu et al. 2024 (arXiv 2411.02038, section 4): a codebook learnt row by row moves the rows that are used and leaves the
others behind; one linear map of them all leaves none.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.batch import Codes
from vqmm.quantizers.base import Quantized, Quantizer, to_rows
from vqmm.quantizers.mapped import look_up, matching_map, quantize_to


class SimVQ(Quantizer):
    """One codebook of K vectors, K x width random numbers seen through one linear layer."""

    name = "simvq"

    class Options(Quantizer.Options):
        later: ClassVar[frozenset[str]] = frozenset({"width"})
        codebook_size: int = Field(4096, ge=1, description="K, how many codes there are")
        width: int | None = Field(
            None,
            ge=1,
            description="columns of the random matrix (dim): with more of them codes move more freely",
        )
        commitment: float = Field(0.25, ge=0, description="weight of the term that draws the encoder to its codes")
        start: Literal["data", "random"] = Field(
            "data",
            description="a map that gives the codes the mean and covariance of the first latents, or none",
        )
        gradient: Literal["straight-through", "rotation"] = Field(
            "straight-through",
            description="how the gradient passes the codes: as it comes, or as the latent was turned",
        )

    frozen: Tensor
    initialised: Tensor

    def __init__(self, options: Options | None = None, rank: int = 2):
        super().__init__(options, rank)
        o = self.options
        width = o.width or o.dim
        # the wider, the smaller: an optimizer that moves every weight as far then moves a code no further
        self.scale = (o.dim / width) ** 0.5
        self.register_buffer("frozen", torch.randn(o.codebook_size, width) * self.scale)
        self.map = nn.Linear(width, o.dim)
        nn.init.orthogonal_(self.map.weight, gain=1 / self.scale)
        nn.init.zeros_(self.map.bias)
        self.register_buffer("initialised", torch.tensor(o.start == "random"))

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.options.codebook_size,),)

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        if self.initialised:
            return
        if (found := matching_map(z, mask, self.frozen.shape[1])) is not None:
            self.map.weight.copy_(found[0] / self.scale)
            self.map.bias.copy_(found[1])
        self.initialised.fill_(True)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        o = self.options
        with torch.autocast(z.device.type, enabled=False):
            return quantize_to(
                self.map(self.frozen), to_rows(z), z, commitment=o.commitment, mask=mask, gradient=o.gradient
            )

    def lookup(self, codes: Codes) -> Tensor:
        return look_up(self.map(self.frozen), codes)
