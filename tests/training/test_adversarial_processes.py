"""A critic in several processes: the same weights as in one process that accumulates as many batches."""

from pathlib import Path

import torch

import vqmm
from tests.processes import output_of
from vqmm.training.checkpoint import checkpoints, read_checkpoint

TINY = [
    *("modality.size=8", "modality.stride=2", "modality.width=8", "modality.blocks=1", "train.batch_size=2"),
    *("train.evaluate_samples=16", "train.device=cpu", "quantizer.codebook_size=16", "quantizer.dim=8"),
    *("adversary.width=4", "adversary.layers=2"),
]


def last_tensors(out):
    return read_checkpoint(checkpoints(Path(out) / "checkpoints")[-1])[0]


def test_two_processes_equal_one_that_accumulates(tmp_path):
    """And some of their batches are empty: those processes still take part in every reduction."""
    data = tmp_path / "data"
    data.mkdir()
    image = vqmm.Registry.discover().modality("image")()
    for i in range(12):
        image.write(torch.rand(3, 8, 8) * 2 - 1, data / f"{i:02d}")
    for i in range(6):
        (data / f"bad{i}.png").write_bytes(b"\x89PNG broken")
    plan = [*TINY, "adversary.start=0.2", "adversary.warm=0.1", "adversary.spectral_norm=true"]
    plan += ["train.evaluate_every=10", "quantizer.start=random"]
    arguments = ["train", "image", "--data", data, "--out", tmp_path / "two", "--recipe", "vqgan", "--steps", "10"]
    settings = (*plan, "train.devices=2")
    output_of(*arguments, *(word for setting in settings for word in ("--set", setting)))
    settings = [*plan, "train.accumulate=2"]
    vqmm.train("image", data, tmp_path / "one", "vqgan", steps=10, settings=settings, quiet=True)
    one, two = (last_tensors(tmp_path / name) for name in ("one", "two"))
    for name in one:
        if name.startswith(("model.", "critic.")):
            torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=2e-2, msg=lambda s, n=name: f"{n}: {s}")
