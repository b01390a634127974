"""Losses, penalties and perceptual terms against cases that can be worked out by hand."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import vqmm
from vqmm.contracts.adversary import CriticOutput
from vqmm.plugins.adversary import losses
from vqmm.plugins.adversary.perceptual import lpips_loss, multi_scale_ssim_loss


def judged(*scores, features=()):
    return CriticOutput(tuple(torch.tensor(each).reshape(-1, 1, 1) for each in scores), tuple(features))


FAKE, REAL = judged([0.5, -2.0], [1.0, 1.0]), judged([2.0, 0.0], [0.0, -1.0])


def test_hinge_by_hand():
    # first network: mean(max(0, 1 - 2), max(0, 1 - 0)) + mean(max(0, 1.5), max(0, -1)); second: mean(1, 2) + 2
    expected = ((0 + 1) / 2 + (1.5 + 0) / 2 + 1.5 + 2) / 2
    assert losses.critic_loss("hinge", FAKE, REAL).item() == pytest.approx(expected)
    assert losses.generator_loss("hinge", FAKE).item() == pytest.approx((0.75 - 1.0) / 2)


def test_wasserstein_and_non_saturating_by_hand():
    assert losses.critic_loss("wasserstein", FAKE, REAL).item() == pytest.approx(((-0.75 - 1.0) + (1.0 + 0.5)) / 2)
    assert losses.generator_loss("wasserstein", FAKE).item() == pytest.approx(-0.125)
    soft = [math.log1p(math.exp(x)) for x in (-0.5, 2.0, -1.0, -1.0)]
    assert losses.generator_loss("non-saturating", FAKE).item() == pytest.approx(sum(soft) / 4)
    even = judged([0.0], [0.0])
    assert losses.critic_loss("non-saturating", even, even).item() == pytest.approx(2 * math.log(2))


def test_the_gradient_penalty_by_hand():
    """D(x) = a x1^2 + b x2: its slope at x is (2 a x1, b), so everything is known."""
    a, b = 0.5, torch.tensor(2.0, requires_grad=True)

    def score(x):
        return a * x[:, 0, 0].square() + b * x[:, 0, 1]

    fake, real = torch.tensor([[[0.0, 5.0]], [[4.0, 0.0]]]), torch.tensor([[[4.0, 1.0]], [[0.0, 0.0]]])
    found = losses.gradient_penalty(score, fake, real, share=torch.tensor([0.25, 1.0]))
    # the points are x1 = 1 and x1 = 0: slopes sqrt(1 + 4) and 2
    assert found.item() == pytest.approx(((math.sqrt(5) - 1) ** 2 + 1) / 2, rel=1e-5)
    (pull,) = torch.autograd.grad(found, b)  # of (|s| - 1)^2 by b: 2 (|s| - 1) b / |s|, the mean of both points
    assert pull.item() == pytest.approx(((math.sqrt(5) - 1) * 2 / math.sqrt(5) * 2 + 1 * 1 * 2) / 2, rel=1e-5)
    assert losses.zero_penalty(score, real).item() == pytest.approx(((16 + 4) + 4) / 2 / 2, rel=1e-5)


def test_points_between_are_drawn_anew():
    def score(x):
        return x[:, 0, 0] ** 3

    fake, real = torch.zeros(8, 1, 1), torch.ones(8, 1, 1)
    torch.manual_seed(0)
    found = {round(losses.gradient_penalty(score, fake, real).item(), 6) for _ in range(4)}
    assert len(found) == 4


def test_a_flat_critic_has_a_penalty_and_a_finite_gradient():
    weight = torch.zeros(3, requires_grad=True)
    found = losses.gradient_penalty(lambda x: x[:, 0] @ weight, torch.ones(2, 1, 3), torch.zeros(2, 1, 3))
    (pull,) = torch.autograd.grad(found, weight)
    assert found.item() == pytest.approx(1.0, abs=1e-4) and pull.isfinite().all()


def test_lecam_by_hand():
    fake, real = torch.tensor([-1.0, 1.0]), torch.tensor([3.0, 0.0])
    # data above the usual output -0.5: 3.5, 0.5; outputs below the usual datum 0.5: 1.5, -0.5
    found = losses.lecam(fake, real, torch.tensor(-0.5), torch.tensor(0.5))
    assert found.item() == pytest.approx((3.5**2 + 0.5**2) / 2 + (1.5**2 + 0) / 2)


def test_feature_matching_by_hand_and_without_a_gradient_for_data():
    one, other = torch.tensor([[[1.0, 3.0]]], requires_grad=True), torch.tensor([[[2.0, 2.0]]], requires_grad=True)
    fake = judged([0.0], features=[one, 10 * one])
    real = judged([0.0], features=[other, 10 * other])
    found = losses.feature_matching(fake, real)
    assert found.item() == pytest.approx(0.5), "the size of features makes no difference"
    assert torch.autograd.grad(found, other, allow_unused=True)[0] is None


def test_ssim_of_equal_opposite_and_shifted_pictures():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 24, 20) * 2 - 1
    assert multi_scale_ssim_loss(x, x).item() == pytest.approx(0, abs=1e-6)
    noisy = multi_scale_ssim_loss((x + 0.3 * torch.randn_like(x)).clamp(-1, 1), x)
    assert 0.05 < noisy < multi_scale_ssim_loss(-x, x) <= 2
    for extent in ((1, 1), (3, 50), (7,), (4, 9, 8)):
        small = torch.rand(1, 1, *extent, requires_grad=True)
        loss = multi_scale_ssim_loss(small, torch.rand(1, 1, *extent))
        assert torch.autograd.grad(loss, small)[0].isfinite().all(), extent


def test_one_scale_of_ssim_is_that_of_wang_by_hand():
    """One window: means 0 and 0.5, variances 1 and 0.25, covariance 0.5."""
    x = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 2, 2)
    y = x / 2 + 0.5
    luminance = 0.0004 / (0.25 + 0.0004)
    structure = (2 * 0.5 + 0.0036) / (1.25 + 0.0036)
    assert multi_scale_ssim_loss(x, y).item() == pytest.approx(1 - luminance * structure, rel=1e-4)


def test_lpips_without_its_package_or_weights_is_refused_and_downloads_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(vqmm.UserError, match=r"lpips needs the packages .* take ssim"):
        lpips_loss()
    made = []

    class Network(torch.nn.Module):
        def __init__(self, **told):
            super().__init__()
            made.append(told)

        def forward(self, one, other):
            return F.mse_loss(one, other, reduction="none").flatten(1).sum(dim=1)

    weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url="https://example.org/alexnet-1.pth"))
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Network))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.models", SimpleNamespace(AlexNet_Weights=weights))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(vqmm.UserError, match=r"alexnet-1.pth is not there"):
        lpips_loss()
    assert not made, "nothing may be built, and so nothing fetched, without the file"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-1.pth").touch()
    assert lpips_loss()(torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)).item() == 12.0
