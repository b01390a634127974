"""Critics and adversarial losses for every modality."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import vqmm
from vqmm.contracts.adversary import CriticLosses, CriticOutput, output_channels
from vqmm.plugins.adversary import losses, networks
from vqmm.plugins.adversary.perceptual import lpips_loss, multi_scale_ssim_loss
from vqmm.utils.errors import UserError

USUAL = 0.99  # decay of the averages that LeCam goes by (Tseng et al. 2021)
PERCEPTUAL = 0.2  # weight of the perceptual term where samples are pictures

Kind = Literal["patch", "sound", "tokens"]


@vqmm.hookimpl
def register_adversaries(register: Callable[[type[vqmm.Adversary]], None]) -> None:
    """Offer the critics `critic`, `patch`, `sound` and `tokens`."""
    for each in (Critic, PatchCritic, SoundCritic, TokenCritic):
        register(each)


class Critic(vqmm.Adversary):
    """A critic that suits the modality: over tokens where samples are ids, over spectra and periods where they are a
    line of numbers, over patches else. Its subclasses are one of those whatever the modality.

    Raises:
        UserError: options that contradict each other, or that the modality has no use for.
    """

    name = "critic"
    kind: ClassVar[Kind | None] = None
    usual: Tensor

    class Options(vqmm.Adversary.Options):
        """The critic's networks, its loss and penalties, and the weights of the terms beside the adversarial one."""

        # networks
        width: int = Field(32, ge=4, description="channels of the first layer; they double, up to 8 times that")
        layers: int = Field(3, ge=1, description="strided layers of each network")
        windows: tuple[int, ...] = Field((256, 512, 1024), description="sound: samples of each short-time spectrum")
        periods: tuple[int, ...] = Field((2, 3, 5, 7, 11), description="sound: samples of each fold; empty: none")
        spectral_norm: bool = Field(False, description="divide every convolution by its largest singular value")
        # losses
        loss: losses.Kind = Field("hinge", description="what scores are made into")
        gradient_penalty: float = Field(10.0, ge=0, description="wasserstein: weight of the gradients' distance from 1")
        r1: float = Field(0.0, ge=0, description="weight of the gradients' squares at data; 0: off")
        lecam: float = Field(0.0, ge=0, description="weight of scores beyond the usual ones; 0: off")
        # terms beside the adversarial one
        feature_matching: float = Field(0.0, ge=0, description="weight of the critic's inner layers matched; 0: off")
        perceptual: Literal["ssim", "lpips"] = Field("ssim", description="what the perceptual term is")
        perceptual_weight: float | None = Field(
            None, ge=0, description="its weight; 0: off; none: 0.2 where samples are pictures, and off elsewhere"
        )
        absolute: float = Field(0.0, ge=0, description="weight of the mean absolute difference; 0: off")

    options: Options

    def __init__(self, modality: vqmm.Modality, options: Options | None = None, labels: int = 0):
        super().__init__(modality, options, labels)
        o = self.options
        pictures = modality.rank > 1 and modality.ids is None
        self.perceptual_weight = o.perceptual_weight if o.perceptual_weight is not None else PERCEPTUAL * pictures
        self._check()
        kind = self.kind or _suiting(modality)
        self.critics = networks.Panel(_networks(kind, modality.rank, output_channels(modality), o, labels))
        if o.spectral_norm:
            networks.spectral(self.critics)
        if o.lecam:
            self.register_buffer("usual", torch.zeros(2))  # of outputs, of data
        self._alike = lpips_loss() if self._lpips else multi_scale_ssim_loss

    def _check(self) -> None:
        o, modality = self.options, self.modality
        fits = {"patch": modality.ids is None, "sound": _suiting(modality) == "sound", "tokens": modality.ids}
        if self.kind is not None and not fits[self.kind]:
            raise UserError(
                f"adversary.name: {self.name!r} judges {NEEDS[self.kind]}, and a sample of {modality.name!r} is none: "
                "take critic, which suits every modality"
            )
        if self.perceptual_weight and (modality.rank == 1 or modality.ids is not None):
            raise UserError(
                f"adversary.perceptual_weight: {self.perceptual_weight:g}: a perceptual term compares pictures, and "
                f"{modality.name!r} has none: leave it out"
            )
        if self._lpips and (modality.rank, modality.channels in (1, 3)) != (2, True):
            raise UserError(
                f"adversary.perceptual: lpips sees pictures of 1 or 3 channels, not rank {modality.rank} with "
                f"{modality.channels}: take ssim"
            )
        if min(o.windows, default=4) < 4 or min(o.periods, default=1) < 1 or not o.windows + o.periods:
            raise UserError(f"adversary.windows: {o.windows}, periods {o.periods}: windows are 4 or more, periods 1")

    @property
    def _lpips(self) -> bool:
        return self.perceptual_weight > 0 and self.options.perceptual == "lpips"

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights above 0: `adversarial`, and `feature_matching`, `perceptual` and `absolute` where they are on."""
        o = self.options
        optional = {
            "feature_matching": o.feature_matching,
            "perceptual": self.perceptual_weight,
            "absolute": o.absolute,
        }
        return {**super().weights, **{name: weight for name, weight in optional.items() if weight}}

    def forward(self, x: Tensor, label: Tensor | None = None) -> CriticOutput:
        """x (B, C of the target, *extent), zeros under padding; label int64 (B,) -> what every network says."""
        return self.critics(x, label)

    def generator_losses(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None, label: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted scalars, one for each name in `weights`, whose gradient reaches `output` (B, C, *extent).

        The perceptual and the absolute term compare both `sides`: padding is zero on each, and counts in their means.
        """
        o = self.options
        fake_x, real_x = self.sides(output, target, mask)
        if o.feature_matching:
            fake, real = self.score(output, target, mask, label)
            terms = {"feature_matching": losses.feature_matching(fake, real)}
        else:
            fake, terms = self(fake_x, label), {}
        terms["adversarial"] = losses.generator_loss(o.loss, fake)
        if self.perceptual_weight:
            terms["perceptual"] = self._alike(fake_x, real_x)
        if o.absolute:
            terms["absolute"] = (fake_x - real_x).abs().mean()
        return terms

    def critic_losses(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None, label: Tensor | None = None
    ) -> CriticLosses:
        """The loss, named after its kind (`hinge`, say), and the penalties that are on, all weighted.

        Penalties: `gradient_penalty` (Wasserstein alone), `r1` and `lecam`. The first two run without autocast, as
        they take second derivatives. The mean scores `fake` and `real`, (B,), carry no gradient.
        """
        o = self.options
        fake, real = self.score(output, target, mask, label)
        terms: dict[str, Tensor] = {o.loss: losses.critic_loss(o.loss, fake, real)}

        def score(x: Tensor) -> Tensor:
            return self(x, label).each

        with torch.autocast(output.device.type, enabled=False):  # second derivatives, in float32
            fake_x, real_x = self.sides(output, target, mask)
            if o.loss == "wasserstein" and o.gradient_penalty:
                terms["gradient_penalty"] = o.gradient_penalty * losses.gradient_penalty(score, fake_x, real_x)
            if o.r1:
                terms["r1"] = o.r1 * losses.zero_penalty(score, real_x)
        low, high = fake.each, real.each
        if o.lecam:
            terms["lecam"] = o.lecam * losses.lecam(low, high, *self.usual)
        return CriticLosses(terms, low.detach(), high.detach())

    @torch.no_grad()
    def after_step(self, fake: float, real: float) -> None:
        """One power iteration of the spectral norms; LeCam's averages (decay 0.99) move towards these mean scores."""
        if self.options.spectral_norm:
            networks.turn(self.critics)
        if self.options.lecam:
            self.usual.lerp_(self.usual.new_tensor([fake, real]), 1 - USUAL)


class PatchCritic(Critic):
    """PatchGAN in 1, 2 or 3 dimensions."""

    name = "patch"
    kind: ClassVar[Kind | None] = "patch"


class SoundCritic(Critic):
    """Short-time spectra at several resolutions, and folds by several periods."""

    name = "sound"
    kind: ClassVar[Kind | None] = "sound"


class TokenCritic(Critic):
    """Convolutions over soft embeddings of tokens."""

    name = "tokens"
    kind: ClassVar[Kind | None] = "tokens"


NEEDS = {"patch": "signals, not ids,", "sound": "lines of numbers", "tokens": "ids"}


def _suiting(modality: vqmm.Modality) -> Kind:
    if modality.ids is not None:
        return "tokens"
    return "sound" if modality.rank == 1 else "patch"


def _networks(kind: Kind, rank: int, channels: int, o: "Critic.Options", labels: int) -> list[nn.Module]:
    if kind == "tokens":
        return [networks.Tokens(channels, o.width, o.layers, labels)]
    if kind == "patch":
        return [networks.Trunk(channels, o.width, o.layers, (4,) * rank, (2,) * rank, labels)]
    spectra = [networks.Spectra(channels, window, o.width // 2, o.layers, labels) for window in o.windows]
    folds = [networks.Period(channels, period, o.width // 2, o.layers, labels) for period in o.periods]
    return [*spectra, *folds]
