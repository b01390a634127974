"""The grouped (product) quantizer: a latent is cut into parts, and each part has its own codebook.

Jégou et al. 2011 (product quantization); as a bottleneck van den Oord et al. 2017 (arXiv 1711.00937, section 4.3)
and Baevski et al. 2020 (arXiv 1910.05453, section 3.3). K codes a group say as much as K^groups codes of one book.
"""

import torch
from pydantic import Field
from torch import Tensor

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, from_rows, grid_size, to_rows
from vqmm.kernels.vector_quantize import vector_quantize
from vqmm.quantizers.codebook import ComparedQuantizer
from vqmm.utils.errors import UserError


class GroupedQuantizer(ComparedQuantizer):
    """z (B, dim, *grid) -> codes (B, groups, *grid), one stage a group."""

    name = "grouped"

    class Options(ComparedQuantizer.Options):
        """How many parts a latent is cut into, how many codes each has, and whether they share them."""

        groups: int = Field(2, ge=1, description="parts that a latent is cut into; they divide its dimensions")
        codebook_size: int = Field(512, ge=1, description="K, how many codes each group has")
        shared: bool = Field(False, description="one codebook for all groups")

    options: Options

    def __init__(self, options: Options | None = None, rank: int = 2):
        o = options or self.Options()
        inner = o.project or o.dim
        if inner % o.groups:
            raise UserError(
                f"quantizer.groups: {o.groups} groups do not divide {inner} dimensions: set quantizer.project to "
                f"{-(-inner // o.groups) * o.groups}"
            )
        sizes = (o.codebook_size,) * (1 if o.shared else o.groups)
        super().__init__(o, rank, sizes, inner // o.groups)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One map, with a stage of K codes for each group."""
        return ((self.options.codebook_size,) * self.options.groups,)

    def _parts(self, rows: Tensor) -> Tensor:
        """(N, inner) -> (G, N, width), or for a shared codebook (1, groups N, width)."""
        parts = rows.unflatten(-1, (self.options.groups, -1)).movedim(1, 0)
        return parts.reshape(len(self.codebook_sizes), -1, parts.shape[-1])

    def _joined(self, parts: Tensor) -> Tensor:
        """The inverse of `_parts`, for anything (G, N, ...): -> (N, groups, ...)."""
        return parts.reshape(self.options.groups, -1, *parts.shape[2:]).movedim(0, 1)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> int32 codes (B, groups, *grid) and vectors like z; `stages` changes nothing.

        The losses are "commitment", weighted, and with `update: gradient` also "codebook": mean squared errors of one
        coordinate, measured between codes and projected latents.
        """
        o = self.options
        with torch.autocast(z.device.type, enabled=False):
            parts = self._parts(self.project_in(to_rows(z)))
            repeated = None if mask is None else mask.reshape(1, -1).expand(o.groups, -1).reshape(parts.shape[:-1])
            result = vector_quantize(
                parts,
                self.codebook,
                metric=o.metric,
                precision=o.precision,
                gradient=o.gradient,
                mask_N=repeated,
                sizes=self.codebook_sizes,
                statistics=self.learning,
            )
            if self.learning:
                self._gather(result.counts_K, result.sums_KD, result.error_N.sum(1), result.not_finite)
            elements = max(parts.numel(), 1) if repeated is None else repeated.sum().clamp(min=1) * parts.shape[-1]
            losses = {"commitment": o.commitment * result.error_N.sum() / elements}
            if o.update == "gradient":
                losses["codebook"] = result.code_error_N.sum() / elements
            rows = self._joined(result.vectors_ND).flatten(1)
            vectors = from_rows(self.project_out(rows), len(z), z.shape[2:])
        index = from_rows(self._joined(result.index_N), len(z), z.shape[2:])
        return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        """codes (B, groups, *grid) -> the codes' vectors, joined and brought to (B, dim, *grid)."""
        index = codes.maps[0]
        rows = index.movedim(1, -1).reshape(-1, self.options.groups).long()  # (N, groups)
        if not self.options.shared:
            rows = rows + torch.arange(self.options.groups, device=rows.device) * self.options.codebook_size
        chosen = self._normal(self.codebook.float())[rows].flatten(1)
        return from_rows(self.project_out(chosen), len(index), index.shape[2:])

    def _start(self, rows: Tensor) -> None:
        for g, part in enumerate(self._parts(rows)):
            self._start_codebook(g, self._normal(part))
