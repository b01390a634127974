"""A folder of pictures and a run trained on it, made once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import TINY_CODES, Vqmm
from vqmm.commands.train import train


@pytest.fixture
def vqmm(capsys) -> Vqmm:
    return Vqmm(capsys)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """24 gray pictures of 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def run(pictures, tmp_path_factory) -> Path:
    """A tokenizer of 32 codes, trained for three steps."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train("image", pictures, out, steps=3, settings=TINY_CODES[1::2], quiet=True)
    return out


@pytest.fixture(scope="session")
def tokens(run, pictures, tmp_path_factory) -> Path:
    from vqmm.commands.encode import encode

    out = tmp_path_factory.mktemp("tokens") / "tiny"
    encode(run, pictures, out)
    return out
