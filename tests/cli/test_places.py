"""Where a verb is to write: looked at first, before a run or data are read, let alone anything is trained."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vqmm as package
from tests.cli.runner import TINY_CODES
from vqmm.cli import app
from vqmm.commands.prior import train_prior
from vqmm.commands.train import train
from vqmm.utils.errors import UserError
from vqmm.utils.files import ROOM_BYTES

# what is typed, of each verb that writes somewhere; the run and the data are not there: that would be said next
VERBS = {
    "train": ("train", "image", "--data", "nowhere", "--out"),
    "train --resume": ("train", "image", "--data", "nowhere", "--resume", "--out"),
    "prior": ("prior", "nowhere", "--tokens", "nowhere", "--out"),
    "prior --resume": ("prior", "nowhere", "--tokens", "nowhere", "--resume", "--out"),
    "encode": ("encode", "nowhere", "nowhere", "--out"),
    "encode --resume": ("encode", "nowhere", "nowhere", "--resume", "--out"),
    "decode": ("decode", "nowhere", "nowhere", "--out"),
    "reconstruct": ("reconstruct", "nowhere", "nowhere", "--out"),
    "generate": ("generate", "nowhere", "--want", "image", "--out"),
    "compress": ("compress", "nowhere", "nowhere.png", "--out"),
    "decompress": ("decompress", "nowhere", "nowhere.vqmm", "--out"),
    "compare": ("compare", "image", "--recipes", "ae", "--data", "nowhere", "--out"),
    "compare-priors": ("compare-priors", "nowhere", "--priors", "lstm", "--tokens", "nowhere", "--out"),
    "eval --show": ("eval", "nowhere", "--data", "nowhere", "--show"),
    "bench": ("bench", "--quick", "--out"),
    "new-plugin": ("new-plugin", "sonar", "--out"),
    "demo": ("demo", "--out"),
}


def test_every_verb_that_writes_somewhere_is_among_them():
    writing = {
        command.callback.__name__.replace("_", "-")
        for command in app.registered_commands
        if {"out", "show"} & inspect.signature(command.callback).parameters.keys()
    }
    assert writing == {words[0] for words in VERBS.values()}


@pytest.mark.parametrize("verb", VERBS)
def test_a_place_below_a_file_is_refused_first(vqmm, tmp_path, verb):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "deep" / "out"
    said = vqmm.refuses(*VERBS[verb], place)
    assert said == f"vqmm: {VERBS[verb][-1]} {place} cannot be made: {tmp_path}/file is a file, not a folder"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_place_on_a_full_disk_is_refused_first(vqmm, tmp_path, monkeypatch, verb):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, free=5_000_000))
    said = vqmm.refuses(*VERBS[verb], tmp_path / "out")
    assert f"5 MB are free in {tmp_path}, and " in said and "make room, or choose a place on another disk" in said
    assert not list(tmp_path.iterdir())


def test_a_page_cannot_be_written_into_a_folder_that_is_read_only(vqmm, run, monkeypatch):
    def refused(prefix, dir):
        raise PermissionError(13, "Permission denied", str(dir))

    before = b"of yesterday"
    (run / "report.html").write_bytes(before)
    monkeypatch.setattr("tempfile.mkstemp", refused)
    said = vqmm.refuses("report", run)
    assert said.startswith(f"vqmm: the run folder {run} cannot be written: {run}: permission denied: ")
    monkeypatch.undo()
    assert (run / "report.html").read_bytes() == before


def test_a_file_without_a_name_of_its_own_goes_beside_the_one_it_is_made_from(vqmm, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, free=0))
    for verb, name in (("compress", "a.png"), ("decompress", "a.vqmm")):
        assert f"0 bytes are free in {tmp_path}" in vqmm.refuses(verb, "nowhere", tmp_path / name)


def test_a_place_is_looked_at_before_torch_is_imported(tmp_path):
    """So that the answer comes within a second."""
    (tmp_path / "file").write_text("mine")
    code = "import sys\nfrom vqmm.cli import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, *VERBS["train"], str(tmp_path / "file" / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n") and done.stderr.count("\n") == 1


@pytest.fixture
def filling(monkeypatch):
    """A disk with room for the least that any command wants, and none for more."""
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(total=10**9, free=ROOM_BYTES if len(asked) == 1 else 999)

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_room_for_a_model_and_its_checkpoints_is_looked_for_before_a_step(pictures, tmp_path, filling):
    with pytest.raises(
        UserError, match=f"the run folder {tmp_path}/run: 999 bytes are free in {tmp_path}, and .* are n"
    ):
        train("image", pictures, tmp_path / "run", settings=TINY_CODES[1::2], quiet=True)
    assert not list(tmp_path.iterdir())


def test_and_for_a_prior(run, tokens, tmp_path, filling):
    with pytest.raises(
        UserError, match=f"the run folder {tmp_path}/prior: 999 bytes are free in {tmp_path}, and .* ar"
    ):
        train_prior(run, tmp_path / "prior", tokens=tokens, steps=1, quiet=True)
    assert not list(tmp_path.iterdir())


# what is called, of the same verbs as functions
CALLS = {
    "train": lambda out: train("image", "nowhere", out),
    "train, to go on": lambda out: train("image", "nowhere", out, resume=True),
    "train_prior": lambda out: train_prior("nowhere", out, tokens="nowhere"),
    "train_prior, to go on": lambda out: train_prior("nowhere", out, tokens="nowhere", resume=True),
    "encode": lambda out: package.encode("nowhere", "nowhere", out),
    "encode, to go on": lambda out: package.encode("nowhere", "nowhere", out, resume=True),
    "decode": lambda out: package.decode("nowhere", "nowhere", out),
    "reconstruct": lambda out: package.reconstruct("nowhere", "nowhere", out),
    "generate": lambda out: package.generate("nowhere", "image", out),
    "compress": lambda out: package.compress("nowhere", "nowhere.png", out),
    "decompress": lambda out: package.decompress("nowhere", "nowhere.vqmm", out),
    "compare": lambda out: package.compare("image", "ae", "nowhere", out),
    "compare_priors": lambda out: package.compare_priors("nowhere", "nowhere", "lstm", out),
    "eval": lambda out: package.eval("nowhere", "nowhere", show=out),
    "new_plugin": lambda out: package.new_plugin("sonar", out),
    "demo": lambda out: package.demo(out),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_program_is_told_as_early(tmp_path, call):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"^the .*cannot be made: {tmp_path}/file is a file, not a folder$"):
        CALLS[call](tmp_path / "file" / "deep" / "out")
