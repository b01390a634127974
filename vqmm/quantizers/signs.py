"""Codes that are signs: log2 K of them make one of K codes, and no codebook is learnt row by row.

`lfq`: Yu et al. 2023 (arXiv 2310.05737, section 3.1). `bsq`: Zhao et al. 2024 (arXiv 2406.07548, section 4).

The papers take every sign by itself. Signs whose directions are not at right angles can say more (one direction with
weights 4, 2 and 1 has eight even levels), but only when they are chosen together: that is what `assign: nearest` does.
"""

import math
from itertools import combinations
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, Quantizer, to_rows
from vqmm.kernels.codebook_softmax import codebook_softmax
from vqmm.kernels.finite import finite_rows
from vqmm.quantizers.mapped import look_up, quantize_to, starting_map, walsh_sums
from vqmm.quantizers.scalar import ScalarQuantizer
from vqmm.utils.errors import UserError


class LookupFreeQuantizer(ScalarQuantizer):
    """The signs of log2 K numbers. An entropy term wants each code to be certain and all codes to be used.

    With `assign: nearest` a code is the one, of all K, whose vector is nearest to the latent. Its vector is a learnt
    sum of its signs and of products of them (`SignCodebook`). All codes are used without an entropy term.
    """

    name = "lfq"

    class Options(Quantizer.Options):
        """How many codes there are, how a latent gets its signs, and what the losses weigh.

        Options whose description begins with "nearest" are for `assign: nearest` alone.
        """

        added: ClassVar[frozenset[str]] = frozenset({"assign", "degree", "refinement"})
        codebook_size: int = Field(4096, description="K, a power of two: log2 K signs")
        assign: Literal["sign", "nearest"] = Field(
            "sign", description="each sign is that of a number, or all are those of the code nearest to the latent"
        )
        degree: int = Field(3, ge=1, description="nearest: products of up to so many signs make a code's vector")
        refinement: float = Field(
            1.0, gt=0, description="nearest: how far products of over three signs move codes, beside those of fewer"
        )
        commitment: float | None = Field(
            None, ge=0, description="weight of the term that draws latents to their codes (0.02; with nearest 0.25)"
        )
        entropy: float | None = Field(None, ge=0, description="weight of the entropy term (0.0075; with nearest 0)")
        diversity: float = Field(1.0, ge=0, description="weight, inside that term, of the use of all codes")
        temperature: float = Field(1.0, gt=0, description="softness of the assignment whose entropies are taken")
        count: Literal["codes", "bits"] = Field(
            "codes",
            description="use is of all K codes, exactly, or of each sign by itself: an upper bound, for large K",
        )

    options: Options

    default_entropy = 0.0075  # of signs by themselves

    def __init__(self, options: Options | None = None, rank: int = 2):
        o = options or self.Options()
        bits = (o.codebook_size - 1).bit_length()
        if o.codebook_size < 2 or 2**bits != o.codebook_size:
            near = f"{2 ** (bits - 1)} or {2**bits}" if bits > 1 else "2"
            raise UserError(f"quantizer.codebook_size: {o.codebook_size} is no power of two; signs make {near} codes")
        super().__init__(o, rank, (2,) * bits)
        self.joint = o.assign == "nearest"
        self.commitment = o.commitment if o.commitment is not None else 0.25 if self.joint else 0.02
        self.entropy = o.entropy if o.entropy is not None else 0.0 if self.joint else self.default_entropy
        if self.joint:
            if o.count == "bits" and self.entropy > 0:
                raise UserError("quantizer.count: bits is of signs by themselves; with assign: nearest take codes")
            self.project_in = self.project_out = nn.Identity()
            self.corners = SignCodebook(bits, o.dim, o.degree, o.refinement)

    @property
    def side(self) -> float:
        """The absolute value of every dimension of a code."""
        return 1.0

    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        """With `assign: nearest`, lay the codes, once, along the directions in which z varies most; else do nothing."""
        if self.joint:
            self.corners.initialise(z, mask)

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z (B, dim, *grid) -> integer codes (B, 1, *grid) and vectors like z; `stages` changes nothing.

        The losses are "commitment", weighted, with `assign: nearest` also "codebook", both mean squared errors of one
        coordinate, and "entropy" where its weight is above 0, of entropies in nats.
        """
        if not self.joint:
            return super().forward(z, mask, stages)
        with torch.autocast(z.device.type, enabled=False):
            rows = to_rows(z)
            keep = finite_rows(rows.detach())
            if mask is not None:
                keep = keep & mask.reshape(-1)
            rows, table = self._placed(torch.where(keep[:, None], rows, 0.0)), self._placed(self.corners())
            quantized = quantize_to(table, rows, z, commitment=self.commitment, mask=mask, keep=keep)
            if self.entropy > 0:
                soft = codebook_softmax(rows, table, temperature=self.options.temperature, mask_N=keep, vectors=False)
                certainty = soft.entropy_N.sum() / keep.sum().clamp(min=1)
                use = torch.special.entr(soft.usage_K).sum()
                quantized.losses["entropy"] = self.entropy * (certainty - self.options.diversity * use)
        return quantized

    def lookup(self, codes: Codes) -> Tensor:
        """codes (B, 1, *grid) -> the vectors (B, dim, *grid) that their signs make."""
        return look_up(self._placed(self.corners()), codes) if self.joint else super().lookup(codes)

    def _placed(self, x: Tensor) -> Tensor:
        """Latents or codes (N, dim) where they are compared."""
        return x

    def _round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows, (rows.detach() > 0).long()

    def _values(self, digits: Tensor) -> Tensor:
        return (2 * digits - 1).float() * self.side

    def _losses(self, bounded: Tensor, values: Tensor, keep: Tensor) -> dict[str, Tensor]:
        o = self.options
        count = keep.sum().clamp(min=1)
        error = torch.where(keep[:, None], bounded - values, 0.0).square().sum() / (count * len(self.levels))
        losses = {"commitment": self.commitment * error}
        if self.entropy > 0:
            # softmax over codes c of -|z - c|^2 / temperature: the dimensions are independent, each a sigmoid
            odds = bounded * (4 * self.side / o.temperature)
            certainty = torch.where(keep[:, None], binary_entropy(odds), 0.0).sum() / count
            use = self._use(bounded, odds, keep, count)
            losses["entropy"] = self.entropy * (certainty - o.diversity * use)
        return losses

    def _use(self, bounded: Tensor, odds: Tensor, keep: Tensor, count: Tensor) -> Tensor:
        """The entropy, in nats, of the codes on average over the batch."""
        o = self.options
        if o.count == "bits":
            share = torch.where(keep[:, None], torch.sigmoid(odds), 0.0).sum(0) / count
            return torch.special.entr(share).sum() + torch.special.entr(1 - share).sum()
        codes = self._values(self._split(torch.arange(o.codebook_size, device=bounded.device)))
        soft = codebook_softmax(bounded, codes, metric="dot", temperature=o.temperature / 2, mask_N=keep)
        return torch.special.entr(soft.usage_K).sum()


class SphericalQuantizer(LookupFreeQuantizer):
    """`lfq` on a sphere: latents are normalised, codes are the corners of the cube inside it.

    With `assign: nearest` latents and codes are points of the plane touching a sphere of r = `radius` sqrt(dim), and
    are seen from its centre: x becomes x r / sqrt(r^2 + |x|^2), the point of the sphere less its last coordinate.
    """

    name = "bsq"

    class Options(LookupFreeQuantizer.Options):
        """As those of `lfq`, with the radius of the sphere, and defaults for codes that lie closer together."""

        added: ClassVar[frozenset[str]] = LookupFreeQuantizer.Options.added | {"radius"}
        radius: float = Field(
            2.0,
            gt=0,
            description="nearest: of the sphere, in units of sqrt(dim); the wider, the flatter, the nearer to lfq",
        )
        entropy: float | None = Field(None, ge=0, description="weight of the entropy term (0.005; with nearest 0)")
        # codes are close together on the sphere: at 1 every assignment would be nearly even, and the term say nothing
        temperature: float = Field(0.05, gt=0, description="softness of the assignment whose entropies are taken")

    options: Options

    default_entropy = 0.005

    @property
    def side(self) -> float:
        """The absolute value of every dimension of a code, 1 / sqrt(log2 K): its length is 1."""
        return 1 / math.sqrt(len(self.levels))

    def _round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        bounded = F.normalize(rows, dim=-1)
        return bounded, (bounded.detach() > 0).long()

    def _placed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) / self.options.radius**2 + 1).rsqrt()


class SignCodebook(nn.Module):
    """2^bits vectors, each a learnt sum of the code's signs and of the products of up to `degree` of them.

    That is a polynomial of the signs, its coefficients the low part of a Walsh spectrum (O'Donnell 2014, Analysis of
    Boolean Functions, section 1.2). Of degree 1, with directions at right angles, the nearest code is that of the signs
    one by one; of degree `bits` it is any codebook.
    """

    subsets: Tensor
    scale: Tensor
    initialised: Tensor

    def __init__(self, bits: int, dim: int, degree: int, refinement: float = 1.0):
        super().__init__()
        self.bits = bits
        # which signs each product takes, as bits of a number; the signs themselves come first
        taken = [sum(1 << b for b in c) for size in range(1, degree + 1) for c in combinations(range(bits), size)]
        self.register_buffer("subsets", torch.tensor(taken), persistent=False)
        # the more products of a size, the smaller: an optimizer moves every weight as far, and so moves codes as far
        # along their few signs as along the many products. Those of over three signs say little that many codes share
        scale = [(dim / math.comb(bits, n)) ** 0.5 * (refinement if n > 3 else 1) for n in map(int.bit_count, taken)]
        self.register_buffer("scale", torch.tensor(scale)[:, None], persistent=False)
        weight = torch.zeros(len(taken), dim)
        nn.init.orthogonal_(weight[:bits])
        self.weight = nn.Parameter(weight / self.scale)
        self.centre = nn.Parameter(torch.zeros(dim))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self) -> Tensor:
        """(K, dim): row k is that of the signs in the bits of k, 1 for plus."""
        rows = torch.cat((self.centre[None], self.weight * self.scale))
        places = torch.cat((self.subsets.new_zeros(1), self.subsets))
        return walsh_sums(rows.new_zeros(2**self.bits, len(self.centre)).index_copy(0, places, rows))

    @torch.no_grad()
    def initialise(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Signs alone, along the directions in which z (B, dim, *grid) varies most."""
        if self.initialised:
            return
        if (initial := starting_map(z, mask, self.scale[: self.bits, 0], 2**self.bits)) is not None:
            self.weight.zero_()
            self.weight[: self.bits] = initial[0].T
            self.centre.copy_(initial[1])
        self.initialised.fill_(True)


def binary_entropy(odds: Tensor) -> Tensor:
    """The entropy, in nats, of a coin whose log-odds are given."""
    return F.softplus(odds) - odds * torch.sigmoid(odds)
