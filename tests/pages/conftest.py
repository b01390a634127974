"""A small run with everything that a page can show, made once; a test that changes it takes a copy."""

import json
import shutil
from pathlib import Path

import pytest

import vqmm

TINY = [
    "modality.size=8",
    "modality.channels=1",
    "modality.stride=2",
    "modality.width=16",
    "quantizer.codebook_size=32",
]
TINY += ["quantizer.dim=8", "train.batch_size=16", "train.evaluate_every=20", "train.evaluate_samples=64"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    vqmm.train("image", "builtin:digits", out, steps=40, settings=TINY, quiet=True)
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "digits"))


def log(run: Path, **line: object) -> None:
    """One more line of metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
