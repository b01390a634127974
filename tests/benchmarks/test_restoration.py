"""The benchmark of restoration: its baselines are what they say, and it writes a result without a place on any disk."""

import json
import sys

import numpy as np
import pytest
import torch

import vqmm
from vqmm.benchmarks import restoration
from vqmm.data.degrade import Downsample, Mask, Noise
from vqmm.plugins.image import Image

MODALITY = Image(Image.Options(width=16))


def smooth(count):
    """Pictures of 32 x 32 pixels that are waves."""
    y, x = np.mgrid[:32, :32] / 32
    phases = np.random.default_rng(0).uniform(0, 6, (count, 3, 2))
    waves = np.sin(3 * x[..., None] + phases[:, None, None, :, 0]) * np.cos(
        4 * y[..., None] + phases[:, None, None, :, 1]
    )
    return np.rint((waves + 1) * 127.5).astype(np.uint8)


def spoilt(degrade, count=4):
    pictures = torch.from_numpy(smooth(count)).movedim(-1, 1)
    batch = MODALITY.collate([*pictures], [str(i) for i in range(count)])
    return degrade.applied(batch, [torch.Generator().manual_seed(i) for i in range(count)])


@pytest.mark.parametrize("degrade", [Noise(), Downsample(), Mask()], ids=lambda d: d.name)
def test_every_filter_restores_smooth_pictures(degrade):
    batch = spoilt(degrade)
    before = batch.x.clone()
    nothing = restoration.evaluated(MODALITY, [batch], lambda batch: batch.x)["psnr_db"]
    for name, settings in restoration.filters(degrade.name).items():
        best = max(restoration.evaluated(MODALITY, [batch], restore)["psnr_db"] for restore in settings.values())
        assert best > nothing + 0.5, name
    assert torch.equal(batch.x, before)


def test_the_small_pictures_are_the_means_that_were_repeated():
    batch = spoilt(Downsample())
    means = torch.nn.functional.avg_pool2d(batch.target_or_x, 2)
    torch.testing.assert_close(restoration.small(batch.x), means)


def test_what_is_hidden_is_known_and_the_rest_is_kept():
    batch = spoilt(Mask())
    away = restoration.hidden(batch)
    assert 0 < away.float().mean() <= 0.25 and torch.equal(away.expand_as(batch.x), batch.x != batch.target_or_x)
    for settings in restoration.filters("mask").values():
        for restore in settings.values():
            assert torch.equal(torch.where(away, 0, restore(batch)), batch.x)


def test_it_writes_a_result(tmp_path, monkeypatch, capsys):
    data = tmp_path / "waves.npz"
    np.savez(data, x_train=smooth(40), x_test=smooth(6))
    monkeypatch.setattr(restoration, "RECIPES", {"tiny": ("ae", ("modality.width=16",))})
    words = ("restoration", str(data), "--name", "waves", "--tasks", "noise,mask", "--recipes", "tiny", "--steps", "2")
    monkeypatch.setattr(sys, "argv", [*words, "--set", "train.batch_size=4", "--out", str(tmp_path / "results")])
    restoration.main()
    text = (tmp_path / "results" / "restoration-waves-2.json").read_text()
    told = json.loads(text)
    assert [(row["task"], row["method"]) for row in told["rows"]] == [
        *(("noise", name) for name in ("nothing", "gaussian filter", "median filter", "tiny")),
        *(("mask", name) for name in ("nothing", "mean of the visible", "interpolation", "tiny")),
        ("mask", "tiny, visible pixels kept"),
    ]
    assert told["degraded"]["noise"] == {"name": "noise", "sigma": 0.2, "count": 6}
    assert {"cpu", "torch", "scipy", "date"} <= told.keys() and str(tmp_path) not in text
    assert vqmm.__version__ == told["vqmm"] and "of 2" in capsys.readouterr().err
