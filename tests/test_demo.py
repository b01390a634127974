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
from vqmm.data.tokens import TokenSet
from vqmm.demo import PARTS, Part, demo

MODULE = sys.modules[demo.__module__]  # the package has a function of that name


def short(part: Part) -> Part:
    return dataclasses.replace(part, steps=4, **({"count": 10} if part.name == "joint" else {}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo of a few steps, in a folder whose name has a space."""
    out = tmp_path_factory.mktemp("a place") / "my demo"
    before: list[Part] = PARTS[:]
    threads = torch.get_num_threads()
    PARTS[:] = map(short, before)
    try:
        told = demo(out, quiet=True)
    finally:
        PARTS[:] = before
    assert torch.get_num_threads() == threads
    return told


@pytest.fixture
def vqmm(capsys) -> Vqmm:
    return Vqmm(capsys)


def test_it_trains_judges_encodes_decodes_and_writes_a_page(made):
    told = made
    json.dumps(told)
    assert Path(told["out"]).name == "my demo" and list(told["parts"]) == [part.name for part in PARTS]
    tokenizers = [part for name, part in told["parts"].items() if name != "joint"]
    for part in tokenizers:
        assert Path(part["report"]).is_file() and part["metrics"] and part["seconds"] > 0
        names = [sorted(file.name for file in Path(part[where]).iterdir()) for where in ("originals", "decoded")]
        assert names[0] == names[1] and len(names[0]) == 8
    assert told["parts"]["image"]["codes"] == 8 * 32 and "psnr_db" in told["parts"]["image"]["metrics"]
    joint = told["parts"]["joint"]
    rows = TokenSet(Path(told["out"]) / "joint" / "tokens" / "image")
    assert len(rows) == 1621 * (1 + 4) + 176, "beside each training digit stand four altered ones"
    names = {"image", "audio", "text"}
    assert joint["coherence"].keys() == joint["judges"].keys() == names
    assert all(row.keys() == names for row in joint["coherence"].values())
    assert joint["metrics"].keys() == {"coherence", "lowest_cell", "goertzel"} and len(told["next"]) == 4
    page = Path(joint["report"]).read_text()
    assert page.count("<img") >= 3 and page.count("<audio") == 30 and 'href="image/run/report.html"' in page


def test_a_folder_that_holds_something_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(package.UserError, match="exists already: choose another name"):
        demo(tmp_path, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken_and_the_default_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MODULE, "PARTS", [])
    Path("vqmm-demo").mkdir()
    assert demo(quiet=True)["out"] == "vqmm-demo"


def test_the_commands_it_names_work_as_they_stand(vqmm, made):
    for command in made["next"]:
        words = shlex.split(command)
        assert words[0] == "vqmm"
        finished = vqmm(*words[1:])
        assert finished.code == 0, finished.err
    assert "exists already" in vqmm.refuses("demo", "--out", made["out"])


def test_it_ends_with_tables_the_page_and_what_to_try(vqmm, made, monkeypatch):
    monkeypatch.setattr(MODULE, "demo", lambda out: made)
    said = vqmm("demo", "--out", "anywhere").out
    assert "psnr_db" in said and "to image" in said and made["parts"]["joint"]["report"] in said
    assert said.rstrip().splitlines()[-5] == "Try next:" and said.count("\n  vqmm ") == 4
    assert vqmm("demo", "--json").json["parts"].keys() == made["parts"].keys()


def test_without_scikit_learn_it_says_what_to_install(tmp_path, monkeypatch):
    from vqmm.data.builtin import builtin

    builtin.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(package.UserError, match=r"vqmm\[demo\]"):
        demo(tmp_path / "demo", quiet=True)
    assert not any(tmp_path.iterdir())
