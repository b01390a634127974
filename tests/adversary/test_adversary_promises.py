"""Every critic keeps its promises, for every modality that it serves, and refuses the others in one line."""

import pytest
import torch
from torch import Tensor, nn

import vqmm
from tests import fakes
from vqmm.contracts.adversary import CriticLosses, CriticOutput, output_channels
from vqmm.registry import Registry
from vqmm.testing import check_adversary

FOUND = Registry.discover()
FOUND.add(fakes, "fakes")
ADVERSARIES = FOUND.offers["adversary"]
SMALL = {"width": 4, "layers": 2, "windows": (16, 32), "periods": (2, 3)}
SERVES = {
    "critic": ("image", "audio", "text", "notes", "moving"),
    "patch": ("image", "audio", "moving"),
    "sound": ("audio",),
    "tokens": ("text", "notes"),
}
PAIRS = [(name, modality) for name, modalities in SERVES.items() for modality in modalities]


def options(name, **more):
    return ADVERSARIES[name].Options(**{**SMALL, **more})


def modality_of(name):
    return FOUND.modality(name)()


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize(("name", "modality"), PAIRS)
def test_every_critic_for_every_modality(name, modality, labels):
    check_adversary(ADVERSARIES[name], modality_of(modality), options(name), labels)


@pytest.mark.parametrize("modality", ["image", "audio", "notes"])
@pytest.mark.parametrize(
    "more",
    [
        {"spectral_norm": True},
        {"loss": "wasserstein", "feature_matching": 1.0},
        {"loss": "non-saturating", "r1": 1.0, "absolute": 1.0},
        {"lecam": 0.5},
    ],
    ids=str,
)
def test_options(modality, more):
    check_adversary(ADVERSARIES["critic"], modality_of(modality), options("critic", **more), labels=2)


@pytest.mark.parametrize(
    ("name", "modality"),
    [("patch", "text"), ("sound", "image"), ("tokens", "audio"), ("sound", "notes"), ("tokens", "moving")],
)
def test_a_critic_of_another_kind_of_signal_is_refused(name, modality):
    with pytest.raises(vqmm.UserError, match=f"{name!r} judges .* {modality!r} is none: take critic"):
        ADVERSARIES[name](modality_of(modality), options(name))


@pytest.mark.parametrize(("modality", "weight"), [("audio", 1.0), ("text", 0.5)])
def test_a_perceptual_term_is_for_pictures(modality, weight):
    with pytest.raises(vqmm.UserError, match=r"perceptual_weight: .* compares pictures, and .* has none"):
        ADVERSARIES["critic"](modality_of(modality), options("critic", perceptual_weight=weight))


def test_windows_and_periods_have_a_least_size():
    for wrong in ({"windows": (2,)}, {"periods": (0,)}, {"windows": (), "periods": ()}):
        with pytest.raises(vqmm.UserError, match="windows are 4 or more, periods 1"):
            ADVERSARIES["sound"](modality_of("audio"), options("sound", **wrong))


def test_both_balances_at_once_cannot_be_said():
    with pytest.raises(vqmm.UserError, match=r"adversary.balance: .*does not fit.*'adaptive', 'gradient' or 'fixed'"):
        FOUND.part("adversary", {"name": "critic", "balance": ["adaptive", "gradient"]})


def test_a_sample_shorter_than_every_window_is_judged():
    audio = modality_of("audio")
    made = ADVERSARIES["sound"](audio, options("sound", windows=(64,), periods=(7,)))
    assert made(torch.zeros(2, 1, 5)).each.shape == (2,)
    assert made(torch.randn(1, 1, 1)).each.isfinite().all()


def test_text_is_judged_by_probabilities():
    """Logits that differ by a constant are the same output."""
    notes = modality_of("notes")
    made = ADVERSARIES["tokens"](notes, options("tokens"))
    target = notes.target(notes.example(2))
    logits = torch.randn(2, output_channels(notes), target.shape[2])
    one, _ = made.score(logits, target)
    other, _ = made.score(logits + 3, target)
    torch.testing.assert_close(one.each, other.each)
    assert output_channels(notes) == 12


class Mean(vqmm.Adversary):
    """The least that a plugin must write."""

    name = "mean"

    def __init__(self, modality, options=None, labels=0):
        super().__init__(modality, options, labels)
        self.layer = nn.Linear(output_channels(modality), 1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> CriticOutput:
        return CriticOutput((self.layer(x.flatten(2).mean(dim=2)),))

    def generator_losses(self, output, target, mask=None, label=None):
        return {"adversarial": -self.score(output, target, mask, label)[0].each.mean()}

    def critic_losses(self, output, target, mask=None, label=None):
        fake, real = self.score(output, target, mask, label)
        loss = (fake.each - 1).square().mean() + (real.each + 1).square().mean()
        return CriticLosses({"squares": loss}, fake.each.detach(), real.each.detach())


def test_a_critic_from_outside_needs_three_methods():
    check_adversary(Mean, modality_of("image"))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"generator_losses": lambda self, o, t, m=None, la=None: {}}, "terms"),
        ({"generator_losses": lambda self, o, t, m=None, la=None: {"adversarial": o[:1].sum()}}, "every output"),
        ({"seen": lambda self, output: output - output.mean()}, "padding"),
        ({"sides": lambda self, o, t, m=None: (o, t)}, "padding"),
    ],
    ids=["no terms", "one sample", "mean", "no mask"],
)
def test_broken_promises_are_named(broken, said):
    with pytest.raises(AssertionError, match=said):
        check_adversary(type("Broken", (Mean,), {"name": "broken", **broken}), modality_of("image"))
