"""Several processes: one run, the same weights as one process that accumulates as many batches."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import vqmm
from tests.processes import Program, output_of

TINY = ["modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "train.device=cpu"]
PLAN = [
    *TINY,
    "quantizer.codebook_size=64",
    "quantizer.revive_below=0.3",
    "train.batch_size=8",
    "train.evaluate_every=20",
    "train.evaluate_samples=16",
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


def words(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def test_two_processes_equal_one_that_accumulates_with_bad_batches_and_a_stop(run_two):
    folder, data = run_two
    settings = [s for s in PLAN if "batch_size" not in s and "channels" not in s]
    settings += ["train.batch_size=2", "train.checkpoint_every=6"]
    arguments = ["train", "image", "--data", data, "--out", folder / "two", "--steps", "24"]
    arguments += words(*settings, "train.devices=2")
    checkpoint = folder / "two" / "checkpoints" / "step-00000006"
    with Program(*arguments) as two:
        deadline = time.monotonic() + 120
        while two.running() and not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        two.send(signal.SIGTERM)
        code, _, said = two.ended()
    assert code in (0, 143), said
    assert code == 0 or "saved: go on with --resume" in said
    result = json.loads(output_of(*arguments, "--resume", "--json"))
    assert 0 < len(result["unreadable"]) <= 12

    vqmm.train("image", data, folder / "one", steps=24, settings=[*settings, "train.accumulate=2"], quiet=True)
    one, two = (vqmm.Tokenizer.load(folder / name).state_dict() for name in ("one", "two"))
    for name in one:
        tolerance = 0 if name in ("quantizer.counts", "quantizer.steps") else 2e-4
        np.testing.assert_allclose(one[name], two[name], atol=tolerance, rtol=tolerance, err_msg=name)


def test_two_nodes_equal_one_process_that_accumulates(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["train", "image", "--data", "builtin:digits", "--out", tmp_path / "two", "--steps", "6"]
    arguments += words(*PLAN, "train.accumulate=4", "train.nodes=2")
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    first, second = (Program(*arguments, **meeting, NODE_RANK=str(rank)) for rank in (0, 1))
    with first, second:
        ended = [node.ended() for node in (first, second)]
    assert [code for code, _, _ in ended] == [0, 0], ended
    said = [out for _, out, _ in ended]
    assert "psnr_db" in said[0] and said[1] == "", "the first node tells, and only it"
    vqmm.train("image", "builtin:digits", tmp_path / "one", steps=6, settings=[*PLAN, "train.accumulate=8"], quiet=True)
    one, two = (vqmm.Tokenizer.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-4)


def test_every_way_of_starting_processes_gives_the_same_bits(tmp_path):
    """Spawned (the default), started as the command once more, and forked."""
    data, plan = "builtin:digits", [*PLAN, "train.devices=2"]
    told = vqmm.train("image", data, tmp_path / "spawned", steps=6, settings=plan, quiet=True)  # the default
    assert Path(told["shown"]).is_file(), "the process that has judged hands over what it saw"
    out = str(tmp_path / "started")  # "ddp" starts the same command again, so there must be one
    command = [sys.executable, "-m", "vqmm", "train", "image", "--data", data, "--out", out, "--steps", "6", "--json"]
    command += [*words(*plan, "train.strategy=ddp"), "--no-report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300).stdout
    assert json.loads(said)["run"] == out, "one process prints, and one object"
    forked = str(tmp_path / "forked")
    with Program("train", "image", "--data", data, "--out", forked, "--steps", "6", *words(*plan)) as program:
        assert program.ended()[0] == 0
    prints = {vqmm.Tokenizer.load(tmp_path / each).code_fingerprint() for each in ("spawned", "started", "forked")}
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
    (tmp_path / "data").mkdir()
    vqmm.Registry.discover().modality("image")().write(torch.rand(3, 8, 8), tmp_path / "data" / "one")
    arguments = ["train", "image", "--data", tmp_path / "data", "--out", tmp_path / "run", "--steps", "1"]
    with Program(*arguments, *words(*PLAN, "train.devices=2", "condition=label")) as program:
        code, out, err = program.ended()
    assert (code, out) == (2, "") and len(err.splitlines()) == 1, err
    assert err.startswith("vqmm: condition: label needs a label for every sample")
    assert not (tmp_path / "run").exists()
