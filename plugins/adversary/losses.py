"""What critics and decoders learn from scores: hinge, Wasserstein, non-saturating; penalties; feature matching."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vqmm.contracts.adversary import CriticOutput

Kind = Literal["hinge", "wasserstein", "non-saturating"]
Score = Callable[[Tensor], Tensor]  # samples (B, C, *extent) -> (B,)


def generator_loss(kind: Kind, fake: CriticOutput) -> Tensor:
    """What a decoder lowers to be scored like data: -D (hinge, Wasserstein), or softplus(-D) (Goodfellow et al. 2014).

    The mean over patches and samples, then over the critic's networks, as everywhere here.
    """
    return _mean([(F.softplus(-score) if kind == "non-saturating" else -score) for score in fake.scores])


def critic_loss(kind: Kind, fake: CriticOutput, real: CriticOutput) -> Tensor:
    """What a critic lowers: hinge max(0, 1 - D(x)) + max(0, 1 + D(y)) (Lim and Ye 2017, arXiv 1705.02894), Wasserstein
    D(y) - D(x) (Arjovsky et al. 2017), or softplus(-D(x)) + softplus(D(y)), for data x and outputs y."""
    terms = []
    for low, high in zip(fake.scores, real.scores, strict=True):
        if kind == "hinge":
            terms.append(F.relu(1 - high).mean() + F.relu(1 + low).mean())
        elif kind == "wasserstein":
            terms.append(low.mean() - high.mean())
        else:
            terms.append(F.softplus(-high).mean() + F.softplus(low).mean())
    return torch.stack(terms).mean()


def gradient_penalty(score: Score, fake: Tensor, real: Tensor, share: Tensor | None = None) -> Tensor:
    """The mean of (|grad D| - 1)^2 at points between outputs and data (Gulrajani et al. 2017, arXiv 1704.00028,
    equation 3).

    Args:
        fake, real: (B, C, *extent), in float32: a second derivative is taken.
        share: (B,) in [0, 1], how much of each point is data; drawn uniformly where there is none.
    """
    share = torch.rand(len(real), device=real.device) if share is None else share
    mixed = torch.lerp(fake, real, share.view(-1, *[1] * (real.ndim - 1))).detach().requires_grad_()
    return (slope(score, mixed) - 1).square().mean()


def zero_penalty(score: Score, real: Tensor) -> Tensor:
    """R1: the mean of |grad D|^2 at data, halved (Mescheder et al. 2018, arXiv 1801.04406, equation 9)."""
    return slope(score, real.detach().requires_grad_()).square().mean() / 2


def slope(score: Score, x: Tensor) -> Tensor:
    """(B,): the length of the gradient of each sample's score, itself differentiable."""
    (pull,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return (pull.flatten(1).square().sum(dim=1) + 1e-12).sqrt()  # a plain norm has no gradient at zero


def lecam(fake: Tensor, real: Tensor, usual_fake: Tensor, usual_real: Tensor) -> Tensor:
    """How far scores go beyond the usual ones of the other side (Tseng et al. 2021, arXiv 2104.03310).

    Args:
        fake, real: (B,), mean scores.
        usual_fake, usual_real: scalars, their moving averages.
    """
    return F.relu(real - usual_fake).square().mean() + F.relu(usual_real - fake).square().mean()


def feature_matching(fake: CriticOutput, real: CriticOutput) -> Tensor:
    """The mean absolute difference of features over the mean size of the data's, over all layers (Larsen et al. 2016,
    arXiv 1512.09300; normalised as in Defossez et al. 2022, section 3.4)."""
    return torch.stack(
        [
            (generated.float() - other.detach().float()).abs().mean()
            / other.detach().float().abs().mean().clamp(min=1e-6)
            for generated, other in zip(fake.features, real.features, strict=True)
        ]
    ).mean()


def _mean(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.float().mean() for each in maps]).mean()
