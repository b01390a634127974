"""The vector quantizer: each latent becomes the nearest of K learnt vectors.

van den Oord et al. 2017 (arXiv 1711.00937): nearest code (equation 1), straight-through gradient and the losses of
equation 3. How the codebook learns: `codebook.py`.
"""

import torch
from pydantic import Field
from torch import Tensor

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, from_rows, grid_size, to_rows
from vqmm.kernels.vector_quantize import vector_quantize
from vqmm.quantizers.codebook import ComparedQuantizer


class VectorQuantizer(ComparedQuantizer):
    """One codebook of K vectors; z (B, dim, *grid) -> codes (B, 1, *grid)."""

    name = "vector"

    class Options(ComparedQuantizer.Options):
        """How many codes there are."""

        codebook_size: int = Field(512, ge=1, description="K, how many codes there are")

    options: Options

    def __init__(self, options: Options | None = None, rank: int = 2):
        options = options or self.Options()
        super().__init__(options, rank, (options.codebook_size,), options.project or options.dim)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One map of one stage of K codes."""
        return ((self.options.codebook_size,),)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> the nearest codes, int32 (B, 1, *grid), and their vectors; `stages` changes nothing.

        The losses are "commitment", weighted, and with `update: gradient` also "codebook": mean squared errors of one
        coordinate, measured between codes and projected latents.
        """
        o = self.options
        with torch.autocast(z.device.type, enabled=False):
            rows = self.project_in(to_rows(z))
            result = vector_quantize(
                rows,
                self.codebook,
                metric=o.metric,
                precision=o.precision,
                gradient=o.gradient,
                mask_N=None if mask is None else mask.reshape(-1),
                statistics=self.learning,
            )
            if self.learning:
                self._gather(result.counts_K, result.sums_KD, result.error_N.sum(), result.not_finite)
            elements = max(rows.numel(), 1) if mask is None else mask.sum().clamp(min=1) * rows.shape[1]
            losses = {"commitment": o.commitment * result.error_N.sum() / elements}
            if o.update == "gradient":
                losses["codebook"] = result.code_error_N.sum() / elements
            vectors = from_rows(self.project_out(result.vectors_ND), len(z), z.shape[2:])
        index = result.index_N.reshape(len(z), 1, *z.shape[2:])
        return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        """codes (B, 1, *grid) -> their vectors (B, dim, *grid); for the metric cosine of length 1, before `project`."""
        index = codes.maps[0][:, 0]
        rows = self.project_out(self._normal(self.codebook.float())[index.reshape(-1).long()])
        return from_rows(rows, len(index), index.shape[1:])

    def _start(self, rows: Tensor) -> None:
        self._start_codebook(0, rows)
