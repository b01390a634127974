"""Quantizer: continuous latents to codes and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from vqmm.contracts.batch import Codes
from vqmm.contracts.options import PartOptions

if TYPE_CHECKING:
    from vqmm.contracts.modality import Modality

Reduce = Callable[[Tensor], Tensor]  # sums a tensor over the processes; the identity where there is one


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of z.

    Attributes:
        vectors: (B, D, *grid), like z; what the decoder reads.
        codes: the choice made, with `size` the grid of z; None for a bottleneck without codes.
        losses: named scalars, already weighted: to be added to the reconstruction loss as they are.
        measures: named means over the positions that count, for an evaluation to report: `Quantizer.measured`.
    """

    vectors: Tensor
    codes: Codes | None
    losses: dict[str, Tensor]
    measures: dict[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module):
    """A bottleneck between any encoder and any decoder. A plugin registers the class; the core makes one of its
    options and the rank of the modality.

    Promises (`vqmm.testing.check_quantizer` checks them):
    - `lookup(codes)` equals `vectors` of the forward that gave the codes, bit for bit, in training and evaluation; in
      evaluation alone for a `relaxed` one, whose training vectors are mixtures of codes.
    - Statistics are gathered in forward only when training and gradients are on, and change the codebook only in
      `after_step`, once per optimizer step however many forwards there were. In evaluation nothing moves.
    - float32 inside, whatever autocast says. The state dict holds everything.
    - Positions outside the mask take no part in losses and statistics.
    """

    name: ClassVar[str]
    relaxed: ClassVar[bool] = False
    discrete_input: ClassVar[bool] = False  # reads samples that are ids, not latents; its decoder gives ids back
    needs: ClassVar[Mapping[str, str]] = {}  # libraries: what is imported, and what pip installs for it
    measured: ClassVar[Mapping[str, str]] = {}  # the names of `Quantized.measures`, and the rule of each

    class Options(PartOptions):
        """What a recipe can set under `quantizer` besides the name; a subclass adds its own."""

        dim: int = Field(64, ge=1, description="channels of the latents that come in and go out")

    options: Options

    def __init__(self, options: Options | None = None, rank: int = 2):
        super().__init__()
        self.options = self.Options() if options is None else options
        self.rank = rank

    @classmethod
    def build(cls, options: Options, rank: int, registry: "QuantizersByName") -> "Quantizer":
        """How the core makes one. A quantizer made of others finds them in the registry."""
        return cls(options, rank)

    def encoder_for(self, modality: "Modality") -> nn.Module:
        """What stands between samples and this quantizer: the modality's network."""
        return modality.build_encoder(self.options.dim)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The codebook size of every stage of every map, coarse map first. Empty: this bottleneck has no codes."""
        raise NotImplementedError(f"{type(self).__name__} needs a property sizes")

    @property
    def codebook_size(self) -> int:
        """The largest of `sizes`; 0 without codes."""
        return max((size for stages in self.sizes for size in stages), default=0)

    @property
    def stages(self) -> int:
        """Codes a position of the last map takes; 0 without codes."""
        return len(self.sizes[-1]) if self.sizes else 0

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, D, *grid), mask bool (B, *grid); `stages`: use only the first so many, for all or for each sample."""
        raise NotImplementedError(f"{type(self).__name__} needs a method forward(z, mask, stages)")

    def lookup(self, codes: Codes) -> Tensor:
        """The vectors (B, D, *grid) that codes stand for."""
        raise NotImplementedError(f"{type(self).__name__} needs a method lookup(codes)")

    @torch.no_grad()
    def code_vectors(self) -> list[Tensor] | None:
        """For each stage (K, D): the vectors of its codes beside code 0 of the other stages. None for several maps."""
        if len(self.sizes) != 1:
            return None
        stages, ones = self.sizes[0], [1] * self.rank
        vectors = []
        for number, size in enumerate(stages):
            maps = torch.zeros(size, len(stages), *ones, dtype=torch.int64)
            maps[:, number] = torch.arange(size).view(-1, *ones)
            codes = Codes((maps,), torch.ones(size, self.rank, dtype=torch.int64))
            device = next((each.device for each in (*self.parameters(), *self.buffers())), None)
            vectors.append(self.lookup(codes if device is None else codes.to(device)).flatten(1).float())
        return vectors

    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Start from data. The loop calls it once before the first step, on the same z in every process."""

    def after_step(self, reduce: Reduce, progress: float) -> None:
        """Apply what the forwards since the last optimizer step have gathered; `progress` in [0, 1] drives schedules.

        Everything to be summed over processes goes through one call of `reduce`.
        """

    def sample(self, count: int, grid: Sequence[int], generator: torch.Generator) -> Tensor | None:
        """Vectors (count, D, *grid) from the bottleneck's own prior, on the CPU; None where it has none."""
        return None


class QuantizersByName(Protocol):
    """`PartsByName` for quantizers alone: what one that is made of others finds them in."""

    def part(self, kind: Literal["quantizer"], config: Mapping[str, Any]) -> tuple[type[Quantizer], Quantizer.Options]:
        """The class of a quantizer and its checked options; a `UserError` as `PartsByName.part` raises it."""
        ...


def to_rows(z: Tensor) -> Tensor:
    """(B, D, *grid) -> (N, D), float32."""
    return z.movedim(1, -1).reshape(-1, z.shape[1]).float()


def from_rows(rows: Tensor, batch: int, grid: Sequence[int]) -> Tensor:
    """(N, D) -> (B, D, *grid)."""
    return rows.reshape(batch, *grid, rows.shape[-1]).movedim(-1, 1)


def grid_size(z: Tensor) -> Tensor:
    """The grid of z as the `size` of Codes: int64 (B, rank)."""
    return torch.tensor(z.shape[2:], dtype=torch.int64).repeat(len(z), 1)
