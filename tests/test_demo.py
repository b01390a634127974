"""`vqmm demo`: every part with a few steps, what it leaves out where sound does not load, and the commands it names."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vqmm as package
from tests.cli.runner import Vqmm
from vqmm.data.tokens import TokenSet
from vqmm.demo import NO_LOOPS, PARTS, demo

MODULE = sys.modules[demo.__module__]  # the package has a function of that name
BROKEN = "sound needs torchaudio, which did not load (undefined symbol: x; torchaudio 2.11.1): pip install it"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo of a few steps, in a folder whose name has a space."""
    return demo(tmp_path_factory.mktemp("a place") / "my demo", quick=True, quiet=True)


@pytest.fixture
def vqmm(capsys) -> Vqmm:
    return Vqmm(capsys)


def test_it_trains_judges_encodes_decodes_and_writes_pages(made):
    out = Path(made["out"])
    assert json.loads((out / "demo.json").read_text()) == json.loads(json.dumps(made))
    assert out.name == "my demo" and [*made["parts"]] == ["image", "audio", "text", "joint"]
    assert made["left_out"] == {} and made["seed"] == 0 and made["seconds"] > 0
    for part in [made["parts"][name] for name in ("image", "audio", "text")]:
        assert Path(part["report"]).is_file() and part["metrics"] and part["seconds"] > 0
        names = [sorted(file.name for file in Path(part[where]).iterdir()) for where in ("originals", "decoded")]
        assert names[0] == names[1] and len(names[0]) == 8
    assert made["parts"]["image"]["codes"] == 8 * 16 and "psnr_db" in made["parts"]["image"]["metrics"]
    rows = TokenSet(out / "image" / "all-tokens")
    assert len(rows) == 9600
    joint = made["parts"]["joint"]
    names = {"image", "audio", "text"}
    assert joint["coherence"].keys() == joint["judges"].keys() == names
    assert all(row.keys() == names for row in joint["coherence"].values())
    assert joint["metrics"].keys() == {"coherence", "lowest_cell", "goertzel"} and len(made["next"]) == 4
    page = Path(joint["report"]).read_text()
    assert page.count("<img") >= 3 and page.count("<audio") == 30 and 'href="image/run/report.html"' in page


def test_nothing_is_chosen_by_held_out_items(made):
    """One look at them, when the steps are done: no checkpoint is better than another."""
    for run in ("image/run", "audio/run", "text/run", "joint/prior"):
        lines = (Path(made["out"]) / run / "metrics.jsonl").read_text().splitlines()
        looks = [told["step"] for told in map(json.loads, lines) if told["kind"] == "held-out"]
        assert looks == [4], run


def test_the_seed_reaches_every_run(tmp_path, monkeypatch):
    settings = []
    monkeypatch.setattr("vqmm.training.run.train", lambda *a, settings=(), **k: settings_of(settings, {"metrics": {}}))
    monkeypatch.setattr("vqmm.training.prior_run.train_prior", lambda *a, settings=(), **k: settings_of(settings, {}))
    for name in ("encode", "decode"):
        monkeypatch.setattr(f"vqmm.transcode.{name}", lambda *a, **k: {"codes": 0})
    monkeypatch.setattr("vqmm.demo_parts._write_held_out", lambda *a: None)

    def settings_of(given, told):
        settings.append("train.seed=7" in given)
        return told

    PARTS.image.make(tmp_path, 7)
    PARTS.joint.train(tmp_path, 7, {"image": tmp_path})
    assert settings == [True, False, True]  # the names' tokenizer has no weights


def test_without_sound_it_goes_on_with_pictures_and_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MODULE, "_left_out", lambda: {"audio": BROKEN})
    made = demo(tmp_path / "demo", quick=True)
    said = capsys.readouterr().err
    assert said.count(BROKEN) == 1 and said.index(BROKEN) < said.index("part 1 of 3, image")
    assert [*made["parts"]] == ["image", "text", "joint"] and made["left_out"] == {"audio": BROKEN}
    joint = made["parts"]["joint"]
    assert joint["coherence"].keys() == {"image", "text"} and "goertzel" not in joint["metrics"]
    assert "<audio" not in Path(joint["report"]).read_text() and not (tmp_path / "demo" / "audio").exists()
    assert not any("audio" in command for command in made["next"])
    monkeypatch.setattr(MODULE, "demo", lambda out, **options: made)
    vqmm = Vqmm(capsys)
    ended = vqmm("demo", "--out", "anywhere")
    assert BROKEN[1:] in ended.out, "said again at the end"


def test_a_library_that_does_not_load_is_found_before_anything_is_made(tmp_path, monkeypatch):
    def wrong(library, install=None):
        return f"{library}, which did not load: mend it" if library == "torchaudio" else None

    monkeypatch.setattr(MODULE, "problem", wrong)
    assert MODULE._left_out() == {"audio": "sound needs torchaudio, which did not load: mend it"}
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(package.UserError, match=r"the demo needs scikit-learn.*vqmm\[demo\]"):
        demo(tmp_path / "demo", quiet=True)
    assert not any(tmp_path.iterdir())


def test_without_compiled_loops_it_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MODULE, "_has_loops", lambda: False)
    monkeypatch.setattr(MODULE, "_run", lambda parts, out, seed, progress: {})
    demo(tmp_path / "demo", quick=True)
    assert capsys.readouterr().err == f"{NO_LOOPS}\n"


def test_a_folder_that_holds_something_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(package.UserError, match="exists already: choose another name"):
        demo(tmp_path, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_of_two_that_begin_together_one_is_told_to_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "must_be_free", lambda *given: None)  # both have looked before either made anything
    monkeypatch.setattr(MODULE, "_run", lambda parts, out, seed, progress: {})
    demo(tmp_path / "demo", quiet=True)
    with pytest.raises(package.UserError, match="another demo's, which has just begun: choose another name"):
        demo(tmp_path / "demo", quiet=True)


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=10**9, free=1_000_000))
    with pytest.raises(package.UserError, match="demo folder"):
        demo(tmp_path / "demo", quiet=True)
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_is_taken_and_the_default_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MODULE, "_run", lambda parts, out, seed, progress: {})
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
    monkeypatch.setattr(MODULE, "demo", lambda out, **options: made)
    said = vqmm("demo", "--out", "anywhere").out
    assert "psnr_db" in said and "to image" in said and made["parts"]["joint"]["report"] in said
    assert said.rstrip().splitlines()[-5] == "Try next:" and said.count("\n  vqmm ") == 4
    assert vqmm("demo", "--json").json["parts"].keys() == made["parts"].keys()
