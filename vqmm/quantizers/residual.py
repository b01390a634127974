"""The residual quantizer: each stage says what the stages before it left out.

Juang and Gray 1982; as a bottleneck Zeghidour et al. 2021 (SoundStream, arXiv 2107.03312, section III.C), whose dropout
of stages makes the rate a choice at encode time; Lee et al. 2022 (arXiv 2203.01941) share one codebook.
"""

from itertools import accumulate

import torch
from pydantic import Field
from torch import Tensor

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, from_rows, grid_size, to_rows
from vqmm.kernels.nearest_code import nearest_code
from vqmm.kernels.residual_quantize import residual_lookup, residual_quantize
from vqmm.quantizers.codebook import CodebookQuantizer
from vqmm.utils.errors import UserError


class ResidualQuantizer(CodebookQuantizer):
    """z (B, dim, *grid) -> codes (B, stages, *grid); the first stages alone are codes of a lower rate."""

    name = "residual"

    class Options(CodebookQuantizer.Options):
        """How many stages there are, how large each codebook is, whether they share one, and how many training uses."""

        stages: int = Field(4, ge=1, description="how many codes stand for a latent, each for what is left")
        codebook_size: int | tuple[int, ...] = Field(256, description="K of every stage, or one for each")
        shared: bool = Field(False, description="one codebook for all stages")
        dropout: float = Field(
            0.0, ge=0, le=1, description="share of the training samples that use fewer stages, drawn uniformly"
        )

    options: Options

    def __init__(self, options: Options | None = None, rank: int = 2):
        o = options or self.Options()
        given = o.codebook_size
        self._sizes = (given,) * o.stages if isinstance(given, int) else tuple(given)
        if len(self._sizes) != o.stages or min(self._sizes) < 1:
            raise UserError(
                f"quantizer.codebook_size: {given} for {o.stages} stages: give one number, at least 1, or {o.stages}"
            )
        if o.shared and len(set(self._sizes)) > 1:
            raise UserError(f"quantizer.shared: one codebook has one size, and codebook_size is {given}: give one")
        self._offsets = (0,) * o.stages if o.shared else (0, *accumulate(self._sizes[:-1]))  # each stage's first row
        super().__init__(o, rank, self._sizes[:1] if o.shared else self._sizes, o.project or o.dim)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One map, with the codebook size of every stage, also where they share a codebook."""
        return (self._sizes,)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> int32 codes (B, stages, *grid) and the sum of their vectors.

        With a number for `stages`, only so many codes are there. With integers (B,), or drawn by `dropout` in training,
        each sample has its own number, and -1 for the code of a stage that it does not use.

        The losses are "commitment", weighted, and with `update: gradient` also "codebook": mean squared errors of one
        coordinate, added up over the stages.

        Raises:
            UserError: a number of stages that is not 1 to the option `stages`.
        """
        o = self.options
        if stages is None and self.training and o.dropout:
            stages = self._drawn(len(z), z.device)
        if isinstance(stages, int) and not 1 <= stages <= o.stages:
            raise UserError(f"{stages} stages: this tokenizer has 1 to {o.stages}")
        with torch.autocast(z.device.type, enabled=False):
            rows = self.project_in(to_rows(z))
            each = stages.repeat_interleave(z[0, 0].numel()) if isinstance(stages, Tensor) else stages
            result = residual_quantize(
                rows,
                self.codebook,
                self._sizes,
                offsets=self._offsets,
                precision=o.precision,
                mask_N=None if mask is None else mask.reshape(-1),
                stages=each,
                statistics=self.learning,
            )
            if self.learning:
                errors = result.error_NQ.sum(0)
                self._gather(result.counts_K, result.sums_KD, errors.sum() if o.shared else errors, result.not_finite)
            elements = max(rows.numel(), 1) if mask is None else mask.sum().clamp(min=1) * rows.shape[1]
            losses = {"commitment": o.commitment * result.error_NQ.sum() / elements}
            if o.update == "gradient":
                losses["codebook"] = result.code_error_NQ.sum() / elements
            vectors = from_rows(self.project_out(result.vectors_ND), len(z), z.shape[2:])
        index = result.index_NQ[:, :stages] if isinstance(stages, int) else result.index_NQ
        return Quantized(vectors, Codes((from_rows(index, len(z), z.shape[2:]),), grid_size(z), mask), losses)

    def _drawn(self, count: int, device: torch.device) -> Tensor:
        """How many stages each sample of a training batch uses."""
        fewer = torch.randint(1, self.options.stages + 1, (count,), device=device)
        return torch.where(torch.rand(count, device=device) < self.options.dropout, fewer, self.options.stages)

    def lookup(self, codes: Codes) -> Tensor:
        """codes (B, first stages, *grid) -> the vectors of all of them added up, (B, dim, *grid).

        A code of -1 adds nothing.
        """
        index = codes.maps[0]
        used = index.shape[1]
        flat = index.movedim(1, -1).reshape(-1, used)
        rows = residual_lookup(flat, self.codebook.float(), self._sizes[:used], offsets=self._offsets[:used])
        return from_rows(self.project_out(rows), len(index), index.shape[2:])

    def _start(self, rows: Tensor) -> None:
        """Each codebook from what the ones before leave; a shared one from the latents and what they leave."""
        left = rows
        for g in range(len(self.codebook_sizes)):
            self._start_codebook(g, left)
            codebook = self.codebook.data.split(self.codebook_sizes)[g]
            left = left - codebook[nearest_code(left, codebook).long()]
        if self.options.shared:
            self._start_codebook(0, torch.cat([rows, left]))
