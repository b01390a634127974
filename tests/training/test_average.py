"""Averaged weights: what is saved, beside what is trained."""

import pytest
import torch

import vqmm
from vqmm.training.average import Average

TINY = [
    "modality.size=8",
    "modality.channels=1",
    "modality.stride=2",
    "modality.width=16",
    "quantizer.codebook_size=32",
]


def test_the_average_by_hand():
    module = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average = Average(module, 0.5)
    for step, value in enumerate((1.0, 3.0), start=1):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update(step)
    first = (1 - 2 / 11) * 1.0  # decay (1 + 1) / (10 + 1)
    second = first + (1 - 3 / 12) * (3.0 - first)  # decay (1 + 2) / (10 + 2)
    with average.applied():
        assert module.weight.item() == pytest.approx(second)
    assert module.weight.item() == 3.0
    average.restart()
    assert average.tensors["weight"].item() == 3.0


def test_off_it_holds_nothing_and_changes_nothing():
    module = torch.nn.BatchNorm1d(2)
    average = Average(module, None)
    average.update(1)
    average.restart()
    with average.applied():
        assert average.tensors == {}


def test_the_module_gets_its_own_weights_back_whatever_happens():
    module = torch.nn.Linear(2, 2)
    average = Average(module, 0.9)
    before = module.weight.clone()
    with torch.no_grad():
        module.weight.add_(1)
    with pytest.raises(KeyError), average.applied():
        assert torch.equal(module.weight, before)
        raise KeyError
    assert torch.equal(module.weight, before + 1)


def test_a_run_saves_the_average_and_trains_as_without_it(tmp_path):
    settings = [*TINY, "train.checkpoint_every=10"]
    for out, more in (("plain", []), ("averaged", ["train.average=0.9"])):
        options = {"steps": 20, "settings": [*settings, *more], "quiet": True}
        vqmm.train("image", "builtin:digits", tmp_path / out, **options)
    from vqmm.training.checkpoint import checkpoints, read_checkpoint

    plain, averaged = (
        read_checkpoint(checkpoints(tmp_path / out / "checkpoints")[-1])[0] for out in ("plain", "averaged")
    )
    name = "model.encoder.layers.0.weight"
    assert torch.equal(plain[name], averaged[name])
    saved = vqmm.Tokenizer.load(tmp_path / "averaged").state_dict()["encoder.layers.0.weight"]
    assert torch.equal(saved, averaged["average.encoder.layers.0.weight"]) and not torch.equal(saved, plain[name])


@pytest.mark.neighbour(name="tensorboard")
def test_curves_for_tensorboard(tmp_path):
    settings = [*TINY, "train.tensorboard=true"]
    vqmm.train("image", "builtin:digits", tmp_path / "run", steps=20, settings=settings, quiet=True)
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    raw = events.read_bytes()
    assert b"train/losses/reconstruction" in raw and b"held-out/metrics/psnr_db" in raw


def test_tensorboard_that_is_missing_is_said(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    settings = [*TINY, "train.tensorboard=true"]
    with pytest.raises(vqmm.UserError, match=r'pip install "vqmm\[tensorboard\]"'):
        vqmm.train("image", "builtin:digits", tmp_path / "run", steps=1, settings=settings, quiet=True)
    assert not (tmp_path / "run").exists()
