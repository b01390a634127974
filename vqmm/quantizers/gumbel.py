"""The dVAE's bottleneck: a softmax over the codes, relaxed in training, and its largest entry afterwards.

Jang et al. 2016 (arXiv 1611.01144) and Maddison et al. 2016 (arXiv 1611.00712); schedules as in Ramesh et al. 2021
(arXiv 2102.12092, appendix A.2).
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, Quantizer, Reduce, from_rows, grid_size, to_rows
from vqmm.kernels.codebook_softmax import codebook_softmax
from vqmm.kernels.nearest_code import nearest_code


class GumbelQuantizer(Quantizer):
    """Logits are products of a latent and the codes. In training each vector is a mixture of codes, drawn with Gumbel
    noise at a temperature that falls along the run; in evaluation it is the most likely code.

    The loss is the KL divergence of the codes' distribution to the uniform one, in nats a position.
    """

    name = "gumbel"
    relaxed = True

    class Options(Quantizer.Options):
        """How many codes there are, and how temperature and weight of the KL term change along the run."""

        codebook_size: int = Field(512, ge=1, description="K, how many codes there are")
        temperature: float = Field(1.0, gt=0, description="of the relaxation, at the start of the run")
        last_temperature: float = Field(1 / 16, gt=0, description="the same, from `settled` on; half a cosine between")
        settled: float = Field(0.75, gt=0, le=1, description="the share of the run after which both schedules rest")
        kl_weight: float = Field(1e-3, ge=0, description="weight of the KL term from `settled` on; it grows from 0")

    options: Options

    progress: Tensor

    def __init__(self, options: Options | None = None, rank: int = 2):
        super().__init__(options, rank)
        o = self.options
        self.project_in = nn.Linear(o.dim, o.dim)
        self.codebook = nn.Parameter(torch.randn(o.codebook_size, o.dim))
        self.register_buffer("progress", torch.zeros(()))

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One map of one stage of K codes."""
        return ((self.options.codebook_size,),)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> vectors like z and int32 codes (B, 1, *grid); `stages` changes nothing.

        In training the vectors are mixtures of codes, and the codes are drawn with the same noise, new in each call. In
        evaluation both are those of the largest logit. The loss is "kl", weighted by its schedule: the mean over the
        positions inside the mask, in nats.
        """
        o = self.options
        with torch.autocast(z.device.type, enabled=False):
            rows = self.project_in(to_rows(z))
            keep = None if mask is None else mask.reshape(-1)
            certain = codebook_softmax(rows, self.codebook, metric="dot", mask_N=keep, usage=False, vectors=False)
            count = max(len(rows), 1) if keep is None else keep.sum().clamp(min=1)
            kl = (math.log(o.codebook_size) * count - certain.entropy_N.sum()) / count
            if self.training:
                soft = codebook_softmax(
                    rows, self.codebook, metric="dot", mask_N=keep, temperature=self.temperature, usage=False,
                    seed=torch.randint(2**62, (1,), device=rows.device),
                )  # fmt: skip
                chosen, index = soft.vectors_ND, soft.index_N
            else:
                index = nearest_code(rows, self.codebook, metric="dot", mask_N=keep)
                chosen = self.codebook[index.long()]
            assert chosen is not None
            vectors = from_rows(chosen, len(z), z.shape[2:])
        losses = {"kl": o.kl_weight * self._settled() * kl}
        return Quantized(vectors, Codes((index.reshape(len(z), 1, *z.shape[2:]),), grid_size(z), mask), losses)

    def lookup(self, codes: Codes) -> Tensor:
        """codes (B, 1, *grid) -> their vectors (B, dim, *grid): those of a forward in evaluation."""
        index = codes.maps[0][:, 0]
        return from_rows(self.codebook.float()[index.reshape(-1).long()], len(index), index.shape[1:])

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Scale the logits to a spread of 1, so that the relaxation starts neither uniform nor hard."""
        rows = to_rows(z) if mask is None else to_rows(z)[mask.reshape(-1)]
        rows = rows[rows.isfinite().all(1)]
        spread = (self.project_in(rows) @ self.codebook.T[:, :64]).std() if rows.numel() > 1 else rows.new_zeros(())
        if spread > 0:
            self.project_in.weight.div_(spread)
            self.project_in.bias.div_(spread)

    @torch.no_grad()
    def after_step(self, reduce: Reduce, progress: float) -> None:
        """Keep `progress`, which temperature and KL weight follow; in evaluation they stay where they are."""
        if self.training:
            self.progress.fill_(progress)

    def _settled(self) -> Tensor:
        """0 at the start, 1 from `settled` on."""
        return 0.5 - 0.5 * torch.cos(math.pi * (self.progress / self.options.settled).clamp(max=1.0))

    @property
    def temperature(self) -> Tensor:
        """Of the relaxation, now: a tensor, so that nothing waits for it."""
        o = self.options
        return o.temperature + (o.last_temperature - o.temperature) * self._settled()
