"""SimVQ: the codebook is a fixed matrix times a learnt one, so every gradient moves all codes at once.

Zhu et al. 2024 (arXiv 2411.02038, section 4): a codebook learnt row by row moves the rows that are used and leaves the
others behind; one linear map of them all leaves none.

The paper's matrix is random, of as many columns as codes have dimensions: a thousandth of a codebook's freedom at a
codebook of 65,536. More columns give more, and columns of falling size keep the first few in charge. Columns of a
Hadamard matrix, drawn at random, stand at right angles, and any number of them costs one fast transform (as in Ailon &
Chazelle 2009, The fast Johnson-Lindenstrauss transform); all of them make any codebook.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, Quantizer, to_rows
from vqmm.quantizers.mapped import look_up, quantize_to, starting_map, walsh_sums


class SimVQ(Quantizer):
    """One codebook of K vectors, a fixed matrix of K x width numbers seen through one linear layer."""

    name = "simvq"

    class Options(Quantizer.Options):
        """How many codes there are, what the fixed matrix is, how the learnt map starts, and how the encoder learns."""

        added: ClassVar[frozenset[str]] = frozenset({"matrix", "width", "falloff"})
        codebook_size: int = Field(4096, ge=1, description="K, how many codes there are")
        matrix: Literal["gaussian", "hadamard"] = Field(
            "gaussian",
            description="of random numbers, or columns of a Hadamard matrix, drawn at random: many cost little there",
        )
        width: int | None = Field(
            None,
            ge=1,
            description="columns of the matrix (dim), hadamard: fewer than K; with more of them codes move more freely",
        )
        falloff: float = Field(
            0.0,
            ge=0,
            description="column j of the matrix has size j^-falloff: the first steer, the others refine",
        )
        commitment: float = Field(0.25, ge=0, description="weight of the term that draws the encoder to its codes")
        start: Literal["data", "random"] = Field(
            "data",
            description="a map that lays the codes where the first latents are, or none",
        )
        gradient: Literal["straight-through", "rotation"] = Field(
            "straight-through",
            description="how the gradient passes the codes: as it comes, or as the latent was turned",
        )

    options: Options

    frozen: Tensor
    places: Tensor
    spreads: Tensor
    initialised: Tensor

    def __init__(self, options: Options | None = None, rank: int = 2):
        super().__init__(options, rank)
        o = self.options
        width = o.width or o.dim
        if o.matrix == "hadamard":
            self.order = 1 << max((o.codebook_size - 1).bit_length(), 1)
            width = min(width, self.order - 1)  # its first column is constant, as the bias is
            self.register_buffer("places", 1 + torch.randperm(self.order - 1)[:width])
        sizes = torch.arange(1, width + 1) ** -o.falloff
        # the wider, the smaller: an optimizer that moves every weight as far then moves a code no further
        self.register_buffer("spreads", sizes * (o.dim / sizes.square().sum()).sqrt(), persistent=False)
        if o.matrix == "gaussian":
            self.register_buffer("frozen", torch.randn(o.codebook_size, width) * self.spreads)
        self.map = nn.Linear(width, o.dim)
        nn.init.orthogonal_(self.map.weight, gain=(width / o.dim) ** 0.5)
        nn.init.zeros_(self.map.bias)
        self.register_buffer("initialised", torch.tensor(o.start == "random"))

    def codebook(self) -> Tensor:
        """(K, dim): the fixed matrix times the learnt map."""
        if self.options.matrix == "gaussian":
            return self.map(self.frozen)
        weight = (self.map.weight * self.spreads).T
        sums = walsh_sums(weight.new_zeros(self.order, self.options.dim).index_copy(0, self.places, weight))
        return sums[: self.options.codebook_size] + self.map.bias

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One map of one stage of K codes."""
        return ((self.options.codebook_size,),)

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Set the map once, so that codes lie along the directions in which z (B, dim, *grid) varies most.

        A map that has started, or that starts at random, stays as it is. Without two finite latents that count it keeps
        its random start.
        """
        if self.initialised:
            return
        if (initial := starting_map(z, mask, self.spreads, self.options.codebook_size)) is not None:
            self.map.weight.copy_(initial[0])
            self.map.bias.copy_(initial[1])
        self.initialised.fill_(True)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> the nearest codes, int32 (B, 1, *grid), and their vectors; `stages` changes nothing.

        The losses are "commitment", weighted, and "codebook": mean squared errors of one coordinate.
        """
        o = self.options
        with torch.autocast(z.device.type, enabled=False):
            return quantize_to(self.codebook(), to_rows(z), z, commitment=o.commitment, mask=mask, gradient=o.gradient)

    def lookup(self, codes: Codes) -> Tensor:
        """codes (B, 1, *grid) -> their rows of `codebook()`, (B, dim, *grid)."""
        return look_up(self.codebook(), codes)
