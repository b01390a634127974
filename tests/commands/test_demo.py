"""`vqmm demo`: every part with a few steps, what it leaves out where sound does not load, and the commands it names."""

import json
import shlex
import shutil
import sys
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vqmm as package
from tests.cli.runner import Vqmm
from tests.utils.libraries import SAID, SYMBOL, put_broken_sound
from vqmm.commands.demo import NO_LOOPS, PARTS, demo
from vqmm.commands.demo_joint import KeypadClassifier, items
from vqmm.data.builtin import TONES_RATE_HZ, _dialled
from vqmm.data.source import Source
from vqmm.tokens.token_set import TokenSet
from vqmm.utils import requirements

MODULE = sys.modules[demo.__module__]  # the package has a function of that name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo of a few steps, in a folder whose name has a space."""
    return demo(tmp_path_factory.mktemp("a place") / "my demo", quick=True, quiet=True)


@pytest.fixture
def vqmm(capsys) -> Vqmm:
    return Vqmm(capsys)


def test_it_trains_evaluates_encodes_decodes_and_writes_pages(made):
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
    assert len(rows) == 960
    joint = made["parts"]["joint"]
    names = {"image", "audio", "text"}
    assert joint["coherence"].keys() == joint["classifiers"].keys() == names
    assert all(row.keys() == names for row in joint["coherence"].values())
    assert joint["metrics"].keys() == {"coherence", "lowest_cell"} and len(made["next"]) == 4
    page = Path(joint["report"]).read_text()
    assert page.count("<img") >= 3 and page.count("<audio") == 3 * 2 and 'href="image/run/report.html"' in page


def test_sounds_are_named_as_a_telephone_exchange_would():
    audio = package.Registry.discover().modality("audio")
    sounds = items(audio(audio.Options(sample_rate_hz=TONES_RATE_HZ)), "builtin:tones", held_out=True, most=50)
    named = KeypadClassifier().predict([sound for sound, _ in sounds])
    assert named == [label for _, label in sounds]
    star = _dialled("*", 0.2, np.random.default_rng(0))
    assert KeypadClassifier().predict([torch.tensor(star)[None], torch.zeros(1, 400)]) == [-1, -1]


def test_nothing_is_chosen_by_held_out_items(made):
    """One look at them, when the steps are done: no checkpoint is better than another."""
    for run in ("image/run", "audio/run", "text/run", "joint/prior"):
        lines = (Path(made["out"]) / run / "metrics.jsonl").read_text().splitlines()
        looks = [told["step"] for told in map(json.loads, lines) if told["kind"] == "held-out"]
        assert looks == [4], run


def test_the_seed_reaches_every_run(tmp_path, monkeypatch):
    settings = []
    monkeypatch.setattr(
        "vqmm.commands.train.train", lambda *a, settings=(), **k: settings_of(settings, {"metrics": {}})
    )
    monkeypatch.setattr("vqmm.commands.prior.train_prior", lambda *a, settings=(), **k: settings_of(settings, {}))
    for name in ("encode", "decode"):
        monkeypatch.setattr(f"vqmm.commands.{name}.{name}", lambda *a, **k: {"codes": 0})
    monkeypatch.setattr("vqmm.commands.demo_parts._write_held_out", lambda *a: None)

    def settings_of(given, told):
        settings.append("train.seed=7" in given)
        return told

    PARTS.image.make(tmp_path, 7)
    PARTS.joint.train(tmp_path, 7, {"image": tmp_path})
    assert settings == [True, False, True]  # the names' tokenizer has no weights


class Now:
    """A lane that does in this process, at once, what it is given."""

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def made_before(made, monkeypatch):
    """A demo that takes its tokenizers from another, and does the rest in this process."""
    runs = Path(made["out"])

    def make(part, out, seed):
        shutil.copytree(runs / part.name, out / part.name)
        return {**made["parts"][part.name], "run": str(out / part.name / "run"), "next": []}

    monkeypatch.setattr(MODULE.TokenizerPart, "make", make)
    monkeypatch.setattr(MODULE, "write_pages", lambda runs: None)  # they came along
    monkeypatch.setattr(MODULE, "lanes", lambda count, said: nullcontext([Now()] * count))


def test_a_sound_library_that_does_not_load_is_said_and_the_demo_goes_on(tmp_path, monkeypatch, capsys, made_before):
    """At the start and at the end, with the versions, the reason and the line that mends it."""
    put_broken_sound(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(requirements, "_broken", {})
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    ended = Vqmm(capsys)("demo", "--quick", "--out", tmp_path / "demo")
    assert ended.code == 0
    assert ended.err.startswith(f"vqmm: the demo leaves out audio: sound needs {SAID}\n")
    assert ended.err.count(SYMBOL) == 1 and f"ound needs {SAID}" in " ".join(ended.out.split()), "said again at the end"
    told = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert [*told["parts"]] == ["image", "text", "joint"] and told["left_out"] == {"audio": f"sound needs {SAID}"}
    joint = told["parts"]["joint"]
    assert joint["coherence"].keys() == {"image", "text"}
    assert all(row.keys() == {"image", "text"} for row in joint["coherence"].values())
    assert "<audio" not in Path(joint["report"]).read_text() and not (tmp_path / "demo" / "audio").exists()
    assert told["next"] and not any("audio" in command for command in told["next"])


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


def test_the_commands_it_names_work_as_they_stand(vqmm, made, monkeypatch):
    held_out = Source.held_out
    monkeypatch.setattr(Source, "held_out", lambda source: held_out(source)[:60])  # of texts there are 820
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
