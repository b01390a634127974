"""Runs that learn to undo a degradation: what they see, how they are judged, and that they are used on files."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vqmm
from vqmm.cli import main
from vqmm.commands.reconstruct import reconstruct
from vqmm.data.source import Source
from vqmm.training.checkpoint import checkpoints
from vqmm.training.loop import Loop

TINY = [
    *("modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "modality.flip=false"),
    *("train.batch_size=16", "train.evaluate_every=50"),
]
CODES = [*TINY, "quantizer.codebook_size=32"]


def train(out, recipe="ae", settings=TINY, steps=3, **options):
    return vqmm.train("image", "builtin:digits", out, recipe, steps=steps, settings=settings, quiet=True, **options)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "denoiser"
    settings = [*TINY, "train.degrade=noise", "train.degrade.sigma=0.4"]
    return out, train(out, settings=settings, steps=150)


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    """One with codes, hardly trained."""
    out = tmp_path_factory.mktemp("runs") / "coder"
    train(out, "vqvae-ema", [*CODES, "train.degrade=mask"])
    return out


def test_a_restorer_beats_what_it_was_given(denoiser):
    given = 20 * np.log10(2 / 0.4)  # PSNR of noise of that sigma on a range of 2
    assert denoiser[1]["metrics"]["psnr_db"] > given + 2


def test_the_recipe_keeps_the_degradation_with_its_options(denoiser):
    recipe = yaml.safe_load((denoiser[0] / "recipe.yaml").read_text())
    assert recipe["train"]["degrade"] == {"name": "noise", "sigma": 0.4}


def test_eval_degrades_in_the_same_way_says_so_and_repeats(denoiser, tmp_path):
    out, told = denoiser
    first, second = (vqmm.eval(out, "builtin:digits", batch_size=size) for size in (32, 50))
    names = ("mse", "psnr_db", "ssim")
    assert [first["metrics"][n] for n in names] == pytest.approx([second["metrics"][n] for n in names], rel=1e-5)
    assert [first["metrics"][n] for n in names] == pytest.approx([told["metrics"][n] for n in names], rel=1e-5)
    assert first["view"].endswith("pixels, given with Gaussian noise of sigma 0.4 on the range [-1, 1]")
    assert first["degrade"] == {"name": "noise", "sigma": 0.4}
    clean = vqmm.eval(out / "tokenizer", "builtin:digits")  # without its recipe nothing is known of a degradation
    assert clean["degrade"] is None and "noise" not in clean["view"]


def test_the_picture_shows_what_was_given_too(denoiser, coder, tmp_path):
    heights = {}
    train(tmp_path / "plain")
    for name, out in (("plain", tmp_path / "plain"), ("noise", denoiser[0])):
        vqmm.eval(out, "builtin:digits", show=tmp_path / name)
        shown = read(tmp_path)[f"{name}.png"]
        assert shown.shape == read(out)["reconstructions.png"].shape
        heights[name] = shown.shape[0]
    assert heights["noise"] > 1.4 * heights["plain"]


@pytest.mark.parametrize("name", ["noise", "downsample", "mask"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(name, tmp_path, monkeypatch):
    settings = [*CODES, f"train.degrade={name}", "train.checkpoint_every=3"]
    train(tmp_path / "whole", "vqvae-ema", settings, 8)
    train_step = Loop.train_step

    def die(self, stop=0):
        if self.step == 5:
            raise RuntimeError("killed")
        return train_step(self, stop)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Loop, "train_step", die)
        train(tmp_path / "killed", "vqvae-ema", settings, 8)
    assert [path.name for path in checkpoints(tmp_path / "killed" / "checkpoints")] == ["step-00000003"]
    train(tmp_path / "killed", "vqvae-ema", settings, 8, resume=True)
    prints = {vqmm.Tokenizer.load(tmp_path / out).fingerprint() for out in ("whole", "killed")}
    assert len(prints) == 1
    with pytest.raises(vqmm.UserError, match=r"train\.degrade"):
        train(tmp_path / "killed", "vqvae-ema", [*settings, "train.degrade=null"], 8, resume=True)


def test_ids_and_wrong_axes_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "notes").mkdir()
    for i in range(4):
        (tmp_path / "notes" / f"{i}.txt").write_text("1 2 3 4")
    with pytest.raises(vqmm.UserError, match=r"train\.degrade: samples that are whole numbers"):
        vqmm.train(
            *("notes", tmp_path / "notes", tmp_path / "run", "vqvae-ema"),
            settings=["train.degrade=mask"],
            plugins=["tests.fakes"],
            quiet=True,
        )
    with pytest.raises(vqmm.UserError, match=r"\[2, 2, 2\] is for 3 axes, and samples have 2"):
        train(tmp_path / "run", settings=[*TINY, "train.degrade={name: downsample, factor: [2, 2, 2]}"])
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


# On files


def write(folder, count=5, size=(8, 8)):
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def read(folder):
    found = {}
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            found[path.name] = np.asarray(picture)
    return found


def test_reconstruct_is_encode_then_decode(coder, tmp_path):
    pictures = write(tmp_path / "in", size=(11, 14))
    told = reconstruct(coder, pictures, tmp_path / "out")
    assert told == {"out": str(tmp_path / "out"), "samples": 5, "unreadable": []}
    vqmm.encode(coder, pictures, tmp_path / "tokens")
    vqmm.decode(coder, tmp_path / "tokens", tmp_path / "decoded")
    one, other = read(tmp_path / "out"), read(tmp_path / "decoded")
    assert one.keys() == other.keys() and len(one) == 5
    assert all(np.array_equal(one[name], other[name]) and one[name].shape == (11, 14) for name in one)


def test_a_run_without_codes_restores_files(denoiser, tmp_path):
    modality = vqmm.Tokenizer.load(denoiser[0]).modality
    clean = [s.read() for s in Source(modality, "builtin:digits").held_out()[:20]]
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(clean):
        spoilt = picture[0] + 51 * torch.randn(8, 8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(spoilt.clamp(0, 255).byte().numpy()).save(tmp_path / "in" / f"{i}.png")
    reconstruct(denoiser[0], [tmp_path / "in"], tmp_path / "out")
    errors = []
    for folder in ("in", "out"):
        found = read(tmp_path / folder)
        errors.append(np.mean([(found[f"{i}.png"] - clean[i][0].numpy().astype(float)) ** 2 for i in range(20)]))
    assert errors[1] < 0.8 * errors[0]


def test_small_pictures_are_enlarged_first(denoiser, tmp_path):
    pictures = write(tmp_path / "in", count=2, size=(5, 4))
    big = tmp_path / "big"
    big.mkdir()
    for name, picture in read(pictures).items():
        Image.fromarray(picture.repeat(2, 0).repeat(2, 1)).save(big / name)
    reconstruct(denoiser[0], pictures, tmp_path / "one", enlarge=2)
    reconstruct(denoiser[0], big, tmp_path / "other")
    one, other = read(tmp_path / "one"), read(tmp_path / "other")
    assert all(np.array_equal(one[name], other[name]) and one[name].shape == (10, 8) for name in other)


def test_labels_reach_a_conditional_decoder(tmp_path):
    train(tmp_path / "run", settings=[*TINY, "condition=label"])
    for label in ("3", "5"):
        write(tmp_path / "in" / label, count=2)
    reconstruct(tmp_path / "run", tmp_path / "in", tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")) == [
        *("3/0.png", "3/1.png", "5/0.png", "5/1.png"),
    ]
    same = (tmp_path / "in" / "3" / "0.png").read_bytes() == (tmp_path / "in" / "5" / "0.png").read_bytes()
    found = [read(tmp_path / "out" / label)["0.png"] for label in "35"]
    assert same and not np.array_equal(*found)
    with pytest.raises(vqmm.UserError, match="these samples: no label is given, and the decoder needs one"):
        reconstruct(tmp_path / "run", write(tmp_path / "bare"), tmp_path / "none")


def test_mistakes_of_reconstruct_are_one_line_and_write_nothing(coder, tmp_path):
    pictures, out = write(tmp_path / "in"), tmp_path / "out"
    (pictures / "bad.png").write_bytes(b"nothing")
    cases = [
        ({"enlarge": 0}, "enlarge 0: take 1"),
        ({"stages": 2}, "2 stages: the quantizer 'vector' of this run has 1"),
        ({"strict": True}, r"bad\.png"),
        ({"inputs": [pictures, pictures]}, "names stand for two samples, .*: reconstruct their folders one by one"),
        ({"inputs": []}, "nothing to reconstruct"),
        ({"inputs": pictures / "bad.png"}, "none of the 1 samples can be read"),
        ({"out": pictures}, "exists already"),
    ]
    for options, said in cases:
        with pytest.raises(vqmm.UserError, match=said):
            reconstruct(coder, **{"inputs": pictures, "out": out, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    told = reconstruct(coder, pictures, out)
    assert told["samples"] == 5 and len(told["unreadable"]) == 1


def test_the_verb_says_what_it_did(denoiser, tmp_path, capsys):
    pictures = write(tmp_path / "in", count=2, size=(5, 4))
    arguments = ["reconstruct", str(denoiser[0]), str(pictures), "--enlarge", "2", "--out"]
    for options, said in (([], f"2 samples in {tmp_path / 'a'}\n"), (["--json"], '"samples": 2')):
        out = tmp_path / "ab"[len(options)]
        with pytest.raises(SystemExit) as left:
            main([*arguments, str(out), *options])
        assert left.value.code == 0 and said in capsys.readouterr().out and len(read(out)) == 2
