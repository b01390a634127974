"""vqmm compress and decompress with a prior as the model."""

import re

import pytest
from PIL import Image

import vqmm
from tests.cli.runner import TINY_CODES
from vqmm.commands.train import train

PRIOR = ["prior.name=pixelcnn", "prior.width=8", "prior.depth=1", "train.batch_size=4", "train.evaluate_samples=4"]
SIDE = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pictures of two classes, a tokenizer, its tokens, and priors that are told classes."""
    home = tmp_path_factory.mktemp("model")
    for i in range(12):
        folder = home / "pictures" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(90 * (i % 2)).resize((SIDE, SIDE)).save(folder / f"{i:02}.png")
    train("image", home / "pictures", home / "run", "vqvae-ema", steps=20, settings=TINY_CODES[1::2], quiet=True)
    vqmm.encode(home / "run", home / "pictures", home / "tokens")
    for seed in (0, 1):
        vqmm.train_prior(
            home / "run",
            home / f"prior{seed}",
            tokens=home / "tokens",
            condition="label",
            steps=20,
            settings=[*PRIOR, f"train.seed={seed}"],
            quiet=True,
        )
    return home


@pytest.fixture(scope="module")
def packed(home):
    out = home / "packed.vqmm"
    vqmm.compress(home / "run", home / "pictures" / "a" / "00.png", out, model=home / "prior0")
    return out


def test_a_picture_comes_back_as_without_a_model(vqmm, home, tmp_path):
    picture = home / "pictures" / "b" / "01.png"
    run = home / "run"
    plain = vqmm("compress", run, picture, "--out", tmp_path / "plain.vqmm", "--json").json
    vqmm("decompress", run, tmp_path / "plain.vqmm")
    for name, label in (("with", ()), ("told", ("--label", "b"))):
        file = tmp_path / f"{name}.vqmm"
        told = vqmm("compress", run, picture, "--out", file, "--model", home / "prior0", *label, "--json").json
        assert told["bytes"] == file.stat().st_size and told["codes"] == plain["codes"]
        assert told["model_bits"] - 8 < told["code_bits"] < told["model_bits"] * 1.01 + 16 and told["margin"] > 1e-6
        assert vqmm("decompress", run, file, "--model", home / "prior0").code == 0
        again, before = (Image.open(tmp_path / f"{each}.decoded.png").tobytes() for each in (name, "plain"))
        assert again == before


def test_it_says_what_the_model_was_worth(vqmm, home, tmp_path):
    out = vqmm(
        "compress",
        home / "run",
        home / "pictures" / "a" / "00.png",
        "--out",
        tmp_path / "x",
        "--model",
        home / "prior0",
    ).out
    assert re.search(r"the model [0-9a-f]{16} says [\d,]+ bits, [\d,]+ were written; margin 0\.\d+", out), out


def test_a_file_of_another_model_is_refused(vqmm, home, packed):
    other = vqmm("decompress", home / "run", packed, "--model", home / "prior1")
    assert other.code == 2 and "\n" not in other.err.strip()
    assert re.search(r"was compressed with the model [0-9a-f]{16}, and \S+prior1 is [0-9a-f]{16}: give the", other.err)
    without = vqmm("decompress", home / "run", packed)
    assert without.code == 2 and "give the run of that prior with --model" in without.err
    assert not packed.with_name("packed.decoded.png").exists()


def test_a_model_where_there_was_none_is_refused(vqmm, home, tmp_path):
    file = tmp_path / "plain.vqmm"
    vqmm("compress", home / "run", home / "pictures" / "a" / "00.png", "--out", file)
    told = vqmm("decompress", home / "run", file, "--model", home / "prior0")
    assert told.code == 2 and "was compressed without a model" in told.err and "leave --model out" in told.err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--label", "c"), "no label is called 'c'. There is: a, b."),
        (("--model", "nowhere"), "nowhere holds no prior: give the folder of a run made by vqmm prior"),
    ],
)
def test_mistakes_write_nothing(vqmm, home, tmp_path, changed, said):
    out = tmp_path / "x.vqmm"
    picture = home / "pictures" / "a" / "00.png"
    told = vqmm("compress", home / "run", picture, "--out", out, "--model", home / "prior0", *changed)
    assert told.code == 2 and said in told.err and not out.exists()


def test_a_picture_of_another_size_is_refused(vqmm, home, tmp_path):
    small = tmp_path / "small.png"
    Image.new("L", (SIDE // 2, SIDE)).save(small)
    told = vqmm("compress", home / "run", small, "--model", home / "prior0")
    assert told.code == 2 and "the vocabulary has [1] on" in told.err
