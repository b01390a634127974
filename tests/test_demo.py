"""`vqmm demo`: every part with fewer steps, and the commands that it names."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

import vqmm as package
from tests.cli.runner import Vqmm
from vqmm.demo import PARTS, Part, demo


@pytest.fixture(autouse=True)
def short_parts():
    """A few steps of each; the parts as they are come back."""
    before: list[Part] = PARTS[:]
    PARTS[:] = [dataclasses.replace(part, steps=4) for part in before]
    yield
    PARTS[:] = before


@pytest.fixture
def vqmm(capsys) -> Vqmm:
    return Vqmm(capsys)


def test_it_trains_judges_encodes_decodes_and_writes_a_page(tmp_path):
    threads = torch.get_num_threads()
    told = demo(tmp_path / "demo", quiet=True)
    assert torch.get_num_threads() == threads
    json.dumps(told)
    assert told["out"] == str(tmp_path / "demo") and list(told["parts"]) == [part.name for part in PARTS]
    for part in told["parts"].values():
        assert Path(part["report"]).is_file() and part["metrics"] and part["seconds"] > 0
        names = [sorted(file.name for file in Path(part[where]).iterdir()) for where in ("originals", "decoded")]
        assert names[0] == names[1] and len(names[0]) == 8
    assert told["parts"]["image"]["codes"] == 8 * 16 and "psnr_db" in told["parts"]["image"]["metrics"]
    assert len(told["next"]) == 3


def test_a_folder_that_holds_something_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(package.UserError, match="exists already: choose another name"):
        demo(tmp_path, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken_and_the_default_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vqmm-demo").mkdir()
    assert demo(quiet=True)["out"] == "vqmm-demo"


def test_the_commands_it_names_work_as_they_stand(vqmm, tmp_path):
    told = vqmm("demo", "--out", tmp_path / "my demo", "--json").json
    for command in told["next"]:
        words = shlex.split(command)
        assert words[0] == "vqmm"
        finished = vqmm(*words[1:], *(["--steps", 1] if words[1] == "train" else []))
        assert finished.code == 0, finished.err
    assert "exists already" in vqmm.refuses("demo", "--out", tmp_path / "my demo")


def test_it_ends_with_a_table_the_page_and_what_to_try(vqmm, tmp_path):
    said = vqmm("demo", "--out", tmp_path / "demo").out
    assert "psnr_db" in said and str(tmp_path / "demo" / "image" / "run" / "report.html") in said
    assert said.rstrip().splitlines()[-4] == "Try next:" and said.count("\n  vqmm ") == 3


def test_without_scikit_learn_it_says_what_to_install(tmp_path, monkeypatch):
    from vqmm.data.builtin import builtin

    builtin.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(package.UserError, match=r"vqmm\[demo\]"):
        demo(tmp_path / "demo", quiet=True)
    assert not any(tmp_path.iterdir())
