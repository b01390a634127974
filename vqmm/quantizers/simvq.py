"""SimVQ: the codebook is a fixed random matrix times a learnt one, so every gradient moves all codes at once.

Zhu et al. 2024 (arXiv 2411.02038, section 4): a codebook learnt row by row moves the rows that are used and leaves the
others behind; one linear map of them all leaves none.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.batch import Codes
from vqmm.kernels.vector_quantize import vector_quantize
from vqmm.quantizers.base import Quantized, Quantizer, from_rows, grid_size, to_rows


class SimVQ(Quantizer):
    """One codebook of K vectors, K x dim random numbers seen through one linear layer."""

    name = "simvq"

    class Options(Quantizer.Options):
        codebook_size: int = Field(4096, ge=1, description="K, how many codes there are")
        commitment: float = Field(0.25, ge=0, description="weight of the term that draws the encoder to its codes")
        start: Literal["data", "random"] = Field(
            "data", description="a map that gives the codes the mean and covariance of the first latents, or none"
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
        self.register_buffer("frozen", torch.randn(o.codebook_size, o.dim))
        self.map = nn.Linear(o.dim, o.dim)
        nn.init.eye_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.register_buffer("initialised", torch.tensor(o.start == "random"))

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.options.codebook_size,),)

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        if self.initialised:
            return
        rows = to_rows(z)
        rows = rows[torch.isfinite(rows).all(1) & (True if mask is None else mask.reshape(-1))].double()
        if len(rows) > 1:
            covariance = torch.cov(rows.T).reshape(rows.shape[1], -1)
            values, axes = torch.linalg.eigh(covariance)
            self.map.weight.copy_((axes * values.clamp(min=0).sqrt()) @ axes.T)  # the symmetric square root
            self.map.bias.copy_(rows.mean(0))
        self.initialised.fill_(True)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        o = self.options
        with torch.autocast(z.device.type, enabled=False):
            rows = to_rows(z)
            mask_rows = None if mask is None else mask.reshape(-1)
            found = vector_quantize(rows, self.map(self.frozen), mask_N=mask_rows, gradient=o.gradient)
            elements = max(rows.numel(), 1) if mask is None else mask.sum().clamp(min=1) * rows.shape[1]
            losses = {
                "commitment": o.commitment * found.error_N.sum() / elements,
                "codebook": found.code_error_N.sum() / elements,
            }
            vectors = from_rows(found.vectors_ND, len(z), z.shape[2:])
        index = found.index_N.reshape(len(z), 1, *z.shape[2:])
        return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        index = codes.maps[0][:, 0]
        return from_rows(self.map(self.frozen)[index.reshape(-1).long()], len(index), index.shape[1:])
