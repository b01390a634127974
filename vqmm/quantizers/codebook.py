"""What every quantizer with a learnt codebook shares: how the codes are held, started, moved and revived.

The codebook learns by exponential moving averages (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1) or by
gradient. Added since, each an option: codes compared by angle and a narrow projection around the codebook (Yu et al.
2021, arXiv 2110.04627, section 3.2), a start from data by k-means, and revival of codes that fell out of use.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.quantizer import Quantizer, Reduce, to_rows
from vqmm.kernels.update_codebook import update_codebook_
from vqmm.kernels.vector_quantize import unit
from vqmm.quantizers.kmeans import kmeans
from vqmm.quantizers.revival import revive_


class CodebookQuantizer(Quantizer):
    """G codebooks, one after the other in one tensor of sum K rows, with their moving averages."""

    class Options(Quantizer.Options):
        """How the codebook starts, learns and is revived, how wide its codes are, and how it is searched."""

        update: Literal["ema", "gradient"] = Field("ema", description="how the codebook learns")
        decay: float = Field(0.99, gt=0, lt=1, description="of the moving averages, reached at the end of the run")
        commitment: float = Field(0.25, ge=0, description="weight of the term that draws the encoder to its codes")
        project: int | None = Field(None, ge=1, description="dimensions of the codes, if not those of the latents")
        start: Literal["data", "random"] = Field("data", description="k-means on the first latents, or a random start")
        revive_below: float = Field(0.1, ge=0, le=1, description="a code used less than this share of 1/K is revived")
        precision: Literal["exact", "fast", "certified"] = Field(
            "exact", description="of the search on a GPU; certified: the codes of exact, at nearly the price of fast"
        )

    options: Options

    counts: Tensor
    sums: Tensor
    initialised: Tensor
    steps: Tensor
    not_finite: Tensor

    def __init__(self, options: Options | None, rank: int, sizes: Sequence[int], width: int):
        """`sizes`: rows of each codebook; `width`: dimensions of a code."""
        super().__init__(options, rank)
        o = self.options
        self.codebook_sizes = tuple(sizes)
        inner = o.project or o.dim
        self.project_in = nn.Linear(o.dim, inner) if o.project else nn.Identity()
        self.project_out = nn.Linear(inner, o.dim) if o.project else nn.Identity()
        codebook = self._normal(torch.randn(sum(sizes), width) / width**0.5)
        if o.update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(sum(sizes)))
        self.register_buffer("sums", codebook.clone())  # with the counts above: sums / counts is the codebook
        self.register_buffer("initialised", torch.tensor(o.start == "random"))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("not_finite", torch.zeros((), dtype=torch.int64))
        self._gathered: Tensor | None = None  # float64: counts, sums, squared errors, vectors not finite

    def _normal(self, x: Tensor) -> Tensor:
        """Codes as they are compared; a quantizer that compares by angle gives them length 1."""
        return x

    @property
    def normalised(self) -> bool:
        """Whether codes have length 1, so that they are compared by angle."""
        return False

    @property
    def learning(self) -> bool:
        """Whether a forward gathers statistics."""
        return self.training and torch.is_grad_enabled()

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Set the codebooks by k-means on z (B, dim, *grid), on the positions inside the mask (B, *grid).

        It does so once: a codebook that has started, or that starts at random, stays as it is.

        Raises:
            ValueError: no vector of z that counts is finite.
        """
        if self.initialised:
            return
        rows = self._normal(self.project_in(to_rows(z)))
        self._start(rows if mask is None else rows[mask.reshape(-1)])
        self.initialised.fill_(True)

    def _start(self, rows: Tensor) -> None:
        """Set every codebook from the first latents (N, project or dim)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method _start(rows)")

    def _start_codebook(self, g: int, rows: Tensor) -> None:
        """Set codebook g by k-means on (N, width)."""
        first = sum(self.codebook_sizes[:g])
        span = slice(first, first + self.codebook_sizes[g])
        codebook, counts = kmeans(rows, self.codebook_sizes[g], normalise=self.normalised)
        self.codebook.data[span] = codebook
        # as if the averages had seen one batch of uniform size; a code that k-means left empty starts with nothing
        self.counts[span] = counts / counts.mean().clamp(min=1e-12)
        self.sums[span] = codebook * self.counts[span][:, None]

    @torch.no_grad()
    def _gather(self, counts: Tensor | None, sums: Tensor | None, errors: Tensor, not_finite: Tensor) -> None:
        """Keep for the step: counts (sum K,), sums (sum K, width), squared errors (G,), and how many are not finite."""
        assert counts is not None and sums is not None  # asked for with statistics=True
        now = torch.cat([part.double().flatten() for part in (counts, sums, errors, not_finite)])
        self._gathered = now if self._gathered is None else self._gathered + now

    @torch.no_grad()
    def after_step(self, reduce: Reduce, progress: float) -> None:
        """Move the averages, and with `update: ema` the codebook, by what all processes gathered; revive unused codes.

        All statistics go through one `reduce`. In evaluation nothing moves, and what was gathered is dropped.
        """
        if not self.training:  # a frozen tokenizer stays as it is
            self._gathered = None
            return
        parts = [self.counts.numel(), self.sums.numel(), len(self.codebook_sizes), 1]
        if self._gathered is None:  # a process whose batch was empty still takes part in the sum
            self._gathered = torch.zeros(sum(parts), device=self.sums.device, dtype=torch.float64)
        total, self._gathered = reduce(self._gathered), None
        counts, sums, errors, not_finite = total.split(parts)
        self.not_finite += not_finite.long()[0]
        o = self.options
        updated = update_codebook_(
            self.codebook.detach() if o.update == "ema" else self.codebook.detach().clone(),
            self.counts,
            self.sums,
            counts.long(),
            sums.view_as(self.sums).float(),
            decay=decay_at(o.decay, progress),
            dead_below=o.revive_below,
            normalise=self.normalised,
            sizes=self.codebook_sizes,
        )
        if o.revive_below > 0:
            self._revive(updated.dead_K, counts, errors)
        self.steps += 1

    def _revive(self, dead: Tensor, counts: Tensor, errors: Tensor) -> None:
        each = [part.split(self.codebook_sizes) for part in (self.codebook.data, self.counts, self.sums, dead, counts)]
        for g, (codebook, ema_counts, ema_sums, dead_here, seen) in enumerate(zip(*each, strict=True)):
            # the root-mean-square error of a coordinate says how far apart two codes must be to share a cell
            spread = (errors[g] / (seen.sum() * codebook.shape[1]).clamp(min=1)).sqrt().float()
            revive_(codebook, ema_counts, ema_sums, dead_here, spread, self.steps * len(self.codebook_sizes) + g)
        if self.normalised:
            self.codebook.data.copy_(self._normal(self.codebook.data))


class ComparedQuantizer(CodebookQuantizer):
    """Codebooks whose codes can be compared by distance or by angle."""

    class Options(CodebookQuantizer.Options):
        """Whether codes are compared by distance or by angle, and how the gradient passes them."""

        metric: Literal["euclidean", "cosine"] = Field("euclidean", description="how codes are compared")
        gradient: Literal["straight-through", "rotation"] = Field(
            "straight-through",
            description="how the gradient passes the codes: as it comes, or as the latent was turned",
        )

    options: Options

    @property
    def normalised(self) -> bool:
        """True for the metric cosine."""
        return self.options.metric == "cosine"

    def _normal(self, x: Tensor) -> Tensor:
        return unit(x) if self.normalised else x


def decay_at(decay: float, progress: float, first_steps: float = 10.0) -> float:
    """The decay of the moving averages, whose memory grows along the run from 10 steps to 1 / (1 - decay).

    Early the encoder moves fast, and averages over its past draw the codes to where nothing is any more; late, long
    averages give quiet codes.
    """
    last_steps = 1 / (1 - decay)
    first_steps = min(first_steps, last_steps)
    return 1 - 1 / (first_steps + (last_steps - first_steps) * min(max(progress, 0.0), 1.0))
