"""What a person can get wrong about a training run: one line, exit code 2, and no run folder."""

import subprocess
import sys

import pytest
from PIL import Image

from tests.cli.runner import TINY_CODES, Vqmm

# what is typed after `vqmm train image --data PICTURES --out OUT`, and what the line must say
WRONG = {
    "unknown recipe": (["--recipe", "vqvae-emma"], ["'vqvae-emma'", "Did you mean 'vqvae-ema'?"]),
    "no recipe file": (["--recipe", "no.yaml"], ["no recipe file no.yaml", "vqvae-ema"]),
    "unknown part": (["--set", "trian.steps=1"], ["'trian'", "Did you mean 'train'?"]),
    "unknown training option": (["--set", "train.stepz=1"], ["train.stepz", "Did you mean 'steps'?"]),
    "unknown quantizer": (["--set", "quantizer.name=vectr"], ["'vectr'", "Did you mean 'vector'?"]),
    "unknown quantizer option": (
        ["--set", "quantizer.codebook_siz=9"],
        ["quantizer.codebook_siz", "Did you mean 'codebook_size'?"],
    ),
    "unknown modality option": (["--set", "modality.sise=8"], ["modality.sise", "Did you mean 'size'?"]),
    "another modality": (["--set", "modality.name=audio"], ["'audio'", "'image'"]),
    "a word for a number": (["--set", "train.steps=many"], ["train.steps", "'many'", "integer"]),
    "a fraction for a count": (["--set", "train.steps=1.5"], ["train.steps", "1.5", "integer"]),
    "a switch for a number": (["--set", "train.steps=yes"], ["train.steps", "True", "switches"]),
    "a date for a number": (["--set", "train.steps=2024-01-01"], ["train.steps", "integer"]),
    "a number for a name": (["--set", "quantizer.name=3"], ["quantizer.name", "3", "string"]),
    "not one of the choices": (["--set", "condition=labels"], ["condition", "'labels'", "'label'"]),
    "too small": (["--steps", "0"], ["train.steps", "0", "greater than or equal to 1"]),
    "no number at all": (["--set", "train.learning_rate=.nan"], ["train.learning_rate", "nan"]),
    "infinite": (["--set", "train.learning_rate=.inf"], ["train.learning_rate", "inf", "finite"]),
    "out of range": (["--set", "quantizer.decay=1"], ["quantizer.decay", "1", "less than 1"]),
    "a value for a part": (["--set", "train=3"], ["train", "3", "train.OPTION=VALUE"]),
    "a name for a part": (["--set", "quantizer=vector"], ["'vector'", "quantizer.OPTION=VALUE"]),
    "a part emptied": (["--set", "quantizer={}"], ["quantizer.name", "missing"]),
    "a part below an option": (["--set", "train.steps.x=3"], ["train.steps", "integer"]),
    "no equals sign": (["--set", "train.steps"], ["'train.steps'", "part.option=value"]),
    "no name": (["--set", "=3"], ["'=3'", "part.option=value"]),
    "an empty name": (["--set", "train..steps=3"], ["part.option=value"]),
    "not YAML": (["--set", "train.steps=[1"], ["'[1'", "not a YAML value"]),
    "a month too many": (["--set", "train.steps=2024-13-01"], ["'2024-13-01'", "not a YAML value"]),
    "a size that strides do not divide": (["--set", "modality.size=9"], ["9 pixels", "stride 2", "8 or 10"]),
    "a stride that is no power of two": (["--set", "modality.stride=3"], ["stride", "3", "power of two"]),
    "a stride for too many axes": (["--set", "modality.stride=[2, 2, 2]"], ["3 axes", "image has 2"]),
    "labels that are not there": (["--set", "condition=label"], ["condition", "label for every sample"]),
    "a plugin file that is not there": (["--plugin", "no.py"], ["'no.py'", "there is no file"]),
    "a plugin module that is not there": (["--plugin", "no_such_module"], ["'no_such_module'", "ModuleNotFoundError"]),
    "an unknown flag": (["--stepz", "3"], ["--stepz", "vqmm train --help"]),
    "a flag without its value": (["--set"], ["--set", "requires an argument"]),
    "a value that is no number": (["--steps", "x"], ["--steps", "integer"]),
}


@pytest.mark.parametrize(("typed", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_setting_is_answered_before_anything_is_made(vqmm, pictures, tmp_path, typed, said):
    out = tmp_path / "run"
    line = vqmm.refuses("train", "image", "--data", pictures, "--out", out, *TINY_CODES, *typed)
    assert all(part in line for part in said), line
    assert not any(tmp_path.iterdir())


RECIPES = {
    "not YAML": (b"quantizer: [", "not YAML"),
    "not text": (b"\xff\xfe\x00", "not YAML"),
    "a control character": (b"\x00", "not YAML"),
    "empty": (b"", "holds NoneType"),
    "a list": (b"- 1", "holds list"),
    "a number for a name": (b"1: 2", "1: there is no such option"),
    "a number for an option": (b"train: {1: 2}", "train.1: there is no such option"),
    "a number for a part's option": (b"quantizer: {name: vector, 1: 2}", "quantizer.1: there is no such option"),
    "an unknown name": (b"quantiser: {name: vector}", "Did you mean 'quantizer'?"),
    "an unknown name in a part": (b"train: {stepz: 1}\nquantiser: 1", "Did you mean 'steps'?"),
    "empty parts": (b"train: null\nquantizer: null", "train: None does not fit"),
    "another modality": (b"modality: {name: text}", "'text', and 'image'"),
    "a modality that is no part": (b"modality: image", "modality.OPTION=VALUE"),
}


@pytest.mark.parametrize(("content", "said"), RECIPES.values(), ids=RECIPES.keys())
def test_a_wrong_recipe_file_is_answered_in_one_line(vqmm, pictures, tmp_path, content, said):
    recipe = tmp_path / "own.yaml"
    recipe.write_bytes(content)
    line = vqmm.refuses("train", "image", "--data", pictures, "--out", tmp_path / "run", "--recipe", recipe)
    assert said in line, line
    assert list(tmp_path.iterdir()) == [recipe]


def test_an_unknown_modality(vqmm, pictures, tmp_path):
    line = vqmm.refuses("train", "imgae", "--data", pictures, "--out", tmp_path / "run")
    assert "'imgae'" in line and "Did you mean 'image'?" in line
    line = vqmm.refuses("train", "smell", "--data", pictures, "--out", tmp_path / "run")
    assert "--plugin" in line


def test_data_that_is_not_there_or_not_pictures(vqmm, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for said in ("holds no picture", "holds no picture"):  # an empty folder; a folder of something else
        assert said in vqmm.refuses("train", "image", "--data", texts, "--out", tmp_path / "run")
        (texts / "a.txt").write_text("a")
    out = ("--out", tmp_path / "run")
    assert "a.txt" in vqmm.refuses("train", "image", "--data", texts / "a.txt", *out)
    assert "there is nothing at" in vqmm.refuses("train", "image", "--data", tmp_path / "no", *out)
    assert "Did you mean 'digits'?" in vqmm.refuses("train", "image", "--data", "builtin:digit", *out)
    (texts / "b.png").write_bytes(b"no picture")
    assert "none of the 1 samples can be read" in vqmm.refuses("train", "image", "--data", texts, *out)
    assert list(tmp_path.iterdir()) == [texts]


SAID_BEFORE = """
import sys
from vqmm.cli import main
try:
    main(sys.argv[1:])
finally:
    print([name for name in ("torch", "lightning_fabric") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["train", "image", "--data", "gone", "--out", "run"], "there is nothing at gone"),
        (["train", "image", "--data", "builtin:digit", "--out", "run"], "Did you mean 'digits'?"),
        (["train", "image", "--data", ".", "--out", "."], "the run folder . exists already"),
        (["prior", "gone", "--tokens", ".", "--out", "run"], "/gone: give the folder of a run"),
        (["prior", ".", "--tokens", "gone", "--out", "run"], "/gone: give a folder of tokens"),
        (["prior", ".", "--pairs", "gone.csv", "--out", "run"], "there is nothing at gone.csv: give a CSV of pairs"),
    ],
)
def test_what_is_not_there_is_named_before_anything_heavy_is_imported(tmp_path, typed, said):
    (tmp_path / "file").touch()
    program = [sys.executable, "-c", SAID_BEFORE, *typed]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("vqmm: ") and said in ended.stderr, ended.stderr
    assert ended.stdout == "[]\n" and [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_run_folder_that_exists_is_left_alone(vqmm, pictures, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "note.txt").write_text("mine")
    line = vqmm.refuses("train", "image", "--data", pictures, "--out", out, *TINY_CODES)
    assert f"the run folder {out} exists already" in line
    assert [f.name for f in out.iterdir()] == ["note.txt"] and (out / "note.txt").read_text() == "mine"
    line = vqmm.refuses("train", "image", "--data", pictures, "--out", out / "note.txt" / "run", *TINY_CODES)
    assert "note.txt is a file, not a folder" in line


@pytest.fixture
def damaged(pictures, tmp_path):
    """Four good pictures, one cut short, one that is none."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name in ("00.png", "01.png", "02.png", "03.png"):
        (folder / name).write_bytes((pictures / name).read_bytes())
    Image.effect_noise((64, 64), 90).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    (folder / "none.png").write_text("not a picture")
    return folder


def test_damaged_pictures_are_skipped_counted_and_named(vqmm, damaged, tmp_path):
    finished = vqmm("train", "image", "--data", damaged, "--out", tmp_path / "run", "--steps", 4, *TINY_CODES)
    assert finished.code == 0
    assert "2 damaged samples were skipped" in finished.err and "cut.jpg" in finished.err and "none.png" in finished.err
    finished = vqmm("encode", tmp_path / "run", damaged, "--out", tmp_path / "tokens", "--json")
    assert finished.json["samples"] == 4 and len(finished.json["unreadable"]) == 2
    assert "2 damaged samples were skipped" in finished.err and "cut.jpg" in finished.err


def test_strict_refuses_damaged_pictures(vqmm: Vqmm, run, damaged, tmp_path):
    line = vqmm.refuses("train", "image", "--data", damaged, "--out", tmp_path / "run", "--strict", *TINY_CODES)
    assert "2 of 6 samples are damaged" in line and "cut.jpg" in line and "none.png" in line
    assert "cut.jpg" in vqmm.refuses("encode", run, damaged, "--out", tmp_path / "tokens", "--strict")
    assert list(tmp_path.iterdir()) == [damaged]


@pytest.mark.parametrize("typed", [["frobnicate"], ["--nope"], ["train"], ["encode", "run"], ["eval", "run", "two"]])
def test_an_unfinished_or_unknown_command(vqmm, typed):
    assert "--help" in vqmm.refuses(*typed)


def test_a_mistyped_verb(vqmm):
    assert "Did you mean 'train'?" in vqmm.refuses("trian")
