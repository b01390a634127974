"""Several processes: one run, the same weights as one process that accumulates as many batches."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import vqmm

TINY = ["modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "train.device=cpu"]
PLAN = [
    *TINY,
    "quantizer.codebook_size=64",
    "quantizer.revive_below=0.3",
    "train.batch_size=8",
    "train.evaluate_every=20",
]


@pytest.fixture(scope="module")
def run_two(tmp_path_factory):
    """A run of two gloo processes, stopped by SIGTERM on its way and resumed; some batches of one of them are empty."""
    folder = tmp_path_factory.mktemp("two")
    data = folder / "data"
    data.mkdir()
    image = vqmm.Registry.discover().modality("image")()
    for i in range(24):
        image.write(torch.rand(3, 8, 8) * 2 - 1, data / f"{i:02d}")
    for i in range(12):
        (data / f"bad{i}.png").write_bytes(b"\x89PNG broken")
    return folder, data


def arguments(data, out, *more):
    words = [sys.executable, "-m", "vqmm", "train", "image", "--data", str(data), "--out", str(out), "--steps", "24"]
    settings = [s for s in PLAN if "batch_size" not in s and "channels" not in s]
    settings += ["train.batch_size=2", "train.checkpoint_every=6", *more]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def test_two_processes_equal_one_that_accumulates_with_bad_batches_and_a_stop(run_two):
    folder, data = run_two
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = subprocess.Popen(
        arguments(data, folder / "two", "train.devices=2"), env=environment, stderr=subprocess.PIPE, text=True
    )
    checkpoint = folder / "two" / "checkpoints" / "step-00000006"
    deadline = time.monotonic() + 120
    while two.poll() is None and not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    two.send_signal(signal.SIGTERM)
    _, said = two.communicate(timeout=120)
    assert two.returncode in (0, 143), said
    assert two.returncode == 0 or "saved: go on with --resume" in said
    again = [*arguments(data, folder / "two", "train.devices=2"), "--resume", "--json"]
    told = subprocess.run(again, env=environment, check=True, capture_output=True, text=True, timeout=120)
    result = json.loads(told.stdout)
    assert 0 < len(result["unreadable"]) <= 12

    settings = [s for s in PLAN if "batch_size" not in s and "channels" not in s]
    settings += ["train.batch_size=2", "train.checkpoint_every=6", "train.accumulate=2"]
    vqmm.train("image", data, folder / "one", steps=24, settings=settings, quiet=True)
    one, two = (vqmm.Tokenizer.load(folder / name).state_dict() for name in ("one", "two"))
    for name in one:
        tolerance = 0 if name in ("quantizer.counts", "quantizer.steps") else 2e-4
        np.testing.assert_allclose(one[name], two[name], atol=tolerance, rtol=tolerance, err_msg=name)


def test_two_nodes_equal_one_process_that_accumulates(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vqmm", "train", "image", "--data", "builtin:digits", "--out", str(tmp_path / "two")]
    words += [
        "--steps",
        "6",
        *(word for setting in (*PLAN, "train.accumulate=4", "train.nodes=2") for word in ("--set", setting)),
    ]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            words, env={**os.environ, **meeting, "NODE_RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert "psnr_db" in said[0] and said[1] == "", "the first node tells, and only it"
    vqmm.train("image", "builtin:digits", tmp_path / "one", steps=6, settings=[*PLAN, "train.accumulate=8"], quiet=True)
    one, two = (vqmm.Tokenizer.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-4)


def test_every_way_of_starting_processes_gives_the_same_bits(tmp_path):
    prints = set()
    for strategy in ("ddp_spawn", "ddp_fork", "ddp"):
        out = tmp_path / strategy
        words = [sys.executable, "-m", "vqmm", "train", "image", "--data", "builtin:digits", "--out", str(out)]
        settings = (*PLAN, "train.devices=2", f"train.strategy={strategy}")
        words += ["--steps", "6", *(word for setting in settings for word in ("--set", setting))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        told = subprocess.run(
            [*words, "--json"], env=environment, check=True, capture_output=True, text=True, timeout=120
        )
        assert json.loads(told.stdout)["run"] == str(out), "one process prints, and one object"
        prints.add(vqmm.Tokenizer.load(out).code_fingerprint())
    assert len(prints) == 1


def test_more_devices_than_there_are_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(vqmm.UserError, match=r"train.devices: 4 were asked for and there are 1 CUDA devices"):
        vqmm.train("image", "builtin:digits", tmp_path / "run", steps=1, settings=["train.devices=4"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(vqmm.UserError, match="there is no CUDA device"):
        vqmm.train("image", "builtin:digits", tmp_path / "run", steps=1, settings=["train.device=cuda"])
    assert not (tmp_path / "run").exists()


def test_a_mistake_is_told_once_whatever_the_number_of_processes(tmp_path):
    settings = [*PLAN, "train.devices=2", "condition=label"]
    (tmp_path / "data").mkdir()
    vqmm.Registry.discover().modality("image")().write(torch.rand(3, 8, 8), tmp_path / "data" / "one")
    with pytest.raises(vqmm.UserError, match="condition: label needs a label for every sample"):
        vqmm.train("image", tmp_path / "data", tmp_path / "run", steps=1, settings=settings, quiet=True)
    assert not (tmp_path / "run").exists()
