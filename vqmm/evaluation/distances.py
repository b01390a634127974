"""How far two sets of feature vectors are from each other: what sees realism, where no sample has a counterpart."""

import torch
from torch import Tensor

NEIGHBOURS = 3  # Kynkaanniemi et al. 2019, section 4
AT_ONCE = 1024  # rows of a table of distances held in memory


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Between Gaussians fitted to features (N, D) and (M, D), at least 2 each: |m - n|^2 + tr(S + T - 2 (S T)^(1/2)).

    Source: Dowson and Landau 1982; over Inception features it is the FID of Heusel et al. 2017 (arXiv 1706.08500). In
    float64; the trace of the root is the sum of the roots of the eigenvalues of S^(1/2) T S^(1/2), which is symmetric.
    """
    check(real, fake)
    means = [each.double().mean(dim=0) for each in (real, fake)]
    spreads = [each.double().T.cov().reshape(each.shape[1], -1) for each in (real, fake)]
    root = _root(spreads[0])
    mixed = torch.linalg.eigvalsh(root @ spreads[1] @ root).clamp(min=0).sqrt().sum()
    apart = (means[0] - means[1]).square().sum() + spreads[0].trace() + spreads[1].trace() - 2 * mixed
    return max(float(apart), 0.0)


def _root(spread: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(spread)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def precision_and_recall(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of fakes that lie among the real, and of the real that lie among the fakes.

    Features (N, D) and (M, D), more of each than `neighbours`. A point lies among a set where it is no farther from
    some member than that member is from its own `neighbours`-th nearest (Kynkaanniemi et al. 2019, arXiv 1904.06991,
    equations 1 to 3).
    """
    check(real, fake, neighbours + 1)
    return _inside(fake, real, neighbours), _inside(real, fake, neighbours)


def _inside(points: Tensor, members: Tensor, neighbours: int) -> float:
    points, members = points.double(), members.double()
    # the nearest of all is the member itself, at distance 0
    parts = [torch.cdist(some, members).kthvalue(neighbours + 1, dim=1).values for some in members.split(AT_ONCE)]
    radius = torch.cat(parts)
    inside = [(torch.cdist(some, members) <= radius).any(dim=1) for some in points.split(AT_ONCE)]
    return float(torch.cat(inside).double().mean())


def check(real: Tensor, fake: Tensor, least: int = 2) -> None:
    """A `ValueError` for features of different widths, or too few."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < least:
        raise ValueError(
            f"features of {tuple(real.shape)} and {tuple(fake.shape)}: must be (N, D) and (M, D), {least} rows or more"
        )
