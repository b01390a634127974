"""The vector quantizer: each latent becomes the nearest of K learnt vectors.

van den Oord et al. 2017 (arXiv 1711.00937): nearest code (equation 1), straight-through gradient and the losses of
equation 3; the codebook learns by exponential moving averages (their appendix A.1) or by gradient. Added since, each an
option: codes compared by angle and a narrow projection around the codebook (Yu et al. 2021, arXiv 2110.04627, section
3.2), a start from data by k-means, and revival of codes that fell out of use.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.batch import Codes
from vqmm.kernels.update_codebook import update_codebook_
from vqmm.kernels.vector_quantize import VectorQuantized, unit, vector_quantize
from vqmm.quantizers.base import Quantized, Quantizer, Reduce, from_rows, grid_size, to_rows
from vqmm.quantizers.kmeans import kmeans
from vqmm.quantizers.revival import revive_


class VectorQuantizer(Quantizer):
    """One codebook of K vectors; z (B, dim, *grid) -> codes (B, 1, *grid)."""

    name = "vector"

    class Options(Quantizer.Options):
        codebook_size: int = Field(512, ge=1, description="K, how many codes there are")
        update: Literal["ema", "gradient"] = Field("ema", description="how the codebook learns")
        decay: float = Field(0.99, gt=0, lt=1, description="of the moving averages, reached at the end of the run")
        commitment: float = Field(0.25, ge=0, description="weight of the term that draws the encoder to its codes")
        metric: Literal["euclidean", "cosine"] = Field("euclidean", description="how codes are compared")
        project: int | None = Field(None, ge=1, description="dimensions of the codes, if not those of the latents")
        start: Literal["data", "random"] = Field("data", description="k-means on the first latents, or a random start")
        revive_below: float = Field(0.1, ge=0, le=1, description="a code used less than this share of 1/K is revived")

    counts: Tensor
    sums: Tensor
    initialised: Tensor
    steps: Tensor
    not_finite: Tensor

    def __init__(self, options: Options | None = None, rank: int = 2):
        super().__init__(options, rank)
        o = self.options
        width = o.project or o.dim
        self.inward = nn.Linear(o.dim, width) if o.project else nn.Identity()
        self.outward = nn.Linear(width, o.dim) if o.project else nn.Identity()
        codebook = self._normal(torch.randn(o.codebook_size, width) / width**0.5)
        if o.update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(o.codebook_size))
        self.register_buffer("sums", codebook.clone())  # with the counts above: sums / counts is the codebook
        self.register_buffer("initialised", torch.tensor(o.start == "random"))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("not_finite", torch.zeros((), dtype=torch.int64))
        self._gathered: Tensor | None = None  # float64: counts, sums, squared error, vectors not finite

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.options.codebook_size,),)

    def _normal(self, x: Tensor) -> Tensor:
        return unit(x) if self.options.metric == "cosine" else x

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        o = self.options
        with torch.autocast(z.device.type, enabled=False):
            rows = self.inward(to_rows(z))
            learning = self.training and torch.is_grad_enabled()
            found = vector_quantize(
                rows,
                self.codebook,
                metric=o.metric,
                mask_N=None if mask is None else mask.reshape(-1),
                statistics=learning,
            )
            if learning:
                self._gather(found)
            elements = max(rows.numel(), 1) if mask is None else mask.sum().clamp(min=1) * rows.shape[1]
            losses = {"commitment": o.commitment * found.error_N.sum() / elements}
            if o.update == "gradient":
                losses["codebook"] = found.code_error_N.sum() / elements
            vectors = from_rows(self.outward(found.vectors_ND), len(z), z.shape[2:])
        index = found.index_N.reshape(len(z), 1, *z.shape[2:])
        return Quantized(vectors, Codes((index,), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        index = codes.maps[0][:, 0]
        rows = self.outward(self._normal(self.codebook.float())[index.reshape(-1).long()])
        return from_rows(rows, len(index), index.shape[1:])

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        if self.initialised:
            return
        rows = self._normal(self.inward(to_rows(z)))
        if mask is not None:
            rows = rows[mask.reshape(-1)]
        codebook, counts = kmeans(rows, self.options.codebook_size, normalise=self.options.metric == "cosine")
        self.codebook.copy_(codebook)
        # as if the averages had seen one batch of uniform size; a code that k-means left empty starts with nothing
        self.counts.copy_(counts / counts.mean().clamp(min=1e-12))
        self.sums.copy_(codebook * self.counts[:, None])
        self.initialised.fill_(True)

    @torch.no_grad()
    def _gather(self, found: VectorQuantized) -> None:
        assert found.counts_K is not None and found.sums_KD is not None  # asked for with statistics=True
        parts = (found.counts_K, found.sums_KD.flatten(), found.error_N.sum()[None], found.not_finite[None])
        now = torch.cat([part.double() for part in parts])
        self._gathered = now if self._gathered is None else self._gathered + now

    @torch.no_grad()
    def after_step(self, reduce: Reduce, progress: float) -> None:
        o = self.options
        if not self.training:  # a frozen tokenizer stays as it is
            self._gathered = None
            return
        if self._gathered is None:  # a process whose batch was empty still takes part in the sum
            self._gathered = torch.zeros(self.counts.numel() + self.sums.numel() + 2, device=self.sums.device).double()
        total, self._gathered = reduce(self._gathered), None
        counts, sums, error, not_finite = total.split([self.counts.numel(), self.sums.numel(), 1, 1])
        self.not_finite += not_finite.long()[0]
        updated = update_codebook_(
            self.codebook.detach() if o.update == "ema" else self.codebook.detach().clone(),
            self.counts,
            self.sums,
            counts.long(),
            sums.view_as(self.sums).float(),
            decay=decay_at(o.decay, progress),
            dead_below=o.revive_below,
            normalise=o.metric == "cosine",
        )
        if o.revive_below > 0:
            # the root-mean-square error of a coordinate says how far apart two codes must be to share a cell
            spread = (error / (counts.sum() * self.sums.shape[1]).clamp(min=1)).sqrt().float()
            revive_(self.codebook.data, self.counts, self.sums, updated.dead_K, spread, self.steps)
            if o.metric == "cosine":
                self.codebook.data.copy_(self._normal(self.codebook.data))
        self.steps += 1


def decay_at(decay: float, progress: float, first_steps: float = 10.0) -> float:
    """The decay of the moving averages, whose memory grows along the run from 10 steps to 1 / (1 - decay).

    Early the encoder moves fast, and averages over its past draw the codes to where nothing is any more; late, long
    averages give quiet codes.
    """
    last_steps = 1 / (1 - decay)
    first_steps = min(first_steps, last_steps)
    return 1 - 1 / (first_steps + (last_steps - first_steps) * min(max(progress, 0.0), 1.0))
