"""Libraries that are installed and do not load: what is said, when, and what is left behind; and which versions fit."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.utils.libraries import SAID, SYMBOL, put, put_broken_sound
from vqmm.registry import Registry
from vqmm.utils import requirements
from vqmm.utils.errors import UserError
from vqmm.utils.requirements import TESTED, Problem, libraries, load, must_load, problem

TOP = Path(__file__).parents[2]


@pytest.fixture
def stub(tmp_path) -> dict[str, str]:
    """The environment of a process that has torchaudio 2.11.1 beside torch 2.11.0."""
    put_broken_sound(tmp_path / "site")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site")}


def test_a_verb_of_sound_says_it_before_anything_is_read_or_made(stub, tmp_path):
    """The data are damaged: what is wrong with the machine comes first. Only that they are not there is said sooner."""
    (tmp_path / "site" / "damaged.wav").write_bytes(b"RIFF")
    words = ["train", "audio", "--data", str(tmp_path / "site" / "damaged.wav"), "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "vqmm", *words], capture_output=True, text=True, env=stub)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr == f"vqmm: the modality 'audio' needs {SAID}\n"
    assert [file.name for file in tmp_path.iterdir()] == ["site"]


def test_vqmm_plugins_says_it_of_each_library(stub):
    code = """
from vqmm.cli import main
for words in (["plugins"], ["plugins", "--json"]):
    try: main(words)
    except SystemExit as left: print("left", left.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=stub)
    table, told, _ = done.stdout.split("left 0\n")
    assert "torchaudio 2.11.1 (does not load), soundfile" in table
    assert done.stderr == f"the plugin 'audio' needs {SAID}\n"
    told = json.loads(told)
    broken, *others = told["libraries"]["audio"]
    assert broken == {
        "name": "torchaudio",
        "version": "2.11.1",
        "loads": False,
        "versions": {"torchaudio": "2.11.1", "torch": "2.11.0"},
        "reason": f"/site/torchaudio/lib/_torchaudio.so: {SYMBOL}",
        "fix": "pip install torchaudio==2.11.0",
    }
    assert all(library["loads"] and library.keys() == broken.keys() for library in others) and not told["failed"]
    assert told["libraries"]["image"] == []


def test_the_check_comes_before_what_trains_is_imported(stub):
    """So that it is answered within a second or two: Lightning and torchmetrics take longer than torch to import."""
    code = f"""
import sys, vqmm
try:
    vqmm.train("audio", "builtin:tones", {str(Path(stub["PYTHONPATH"]) / "run")!r})
except vqmm.UserError as error:
    print([name for name in ("lightning_fabric", "torchmetrics", "matplotlib", "scipy") if name in sys.modules], error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=stub, check=True)
    assert done.stdout == f"[] the modality 'audio' needs {SAID}\n"


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder before all others in which this process looks for libraries; what broke in it is forgotten again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(requirements, "_broken", {})
    return tmp_path


@pytest.mark.parametrize(
    ("torch", "torchaudio", "fix"),
    [
        ("2.11.0+cpu", "2.11.1+cpu", "pip install torchaudio==2.11.0"),
        ("2.14.1", "2.11.0", "pip install torchaudio==2.11.1"),
        ("2.14.1", "2.11.1", "pip install --force-reinstall --no-deps torchaudio==2.11.1"),
        ("2.12.1", "2.11.1", "pip install torch==2.14.1 torchaudio==2.11.1"),
    ],
)
def test_the_pair_that_fits_the_torch_that_is_there(monkeypatch, torch, torchaudio, fix):
    monkeypatch.setattr(requirements, "installed", {"torch": torch, "torchaudio": torchaudio}.get)
    found = requirements._explained("torchaudio", "vqmm[audio]", SYMBOL)
    assert found == Problem("torchaudio", {"torchaudio": torchaudio, "torch": torch}, SYMBOL, fix)
    missing = requirements._explained("torchaudio", "vqmm[audio]", None, incomplete=True)
    assert missing.fix.startswith('pip install "vqmm[audio]" ') and missing.fix.endswith(fix.split()[-1])


def test_triton_belongs_to_torch_as_well(monkeypatch):
    monkeypatch.setattr(requirements, "installed", {"torch": "2.11.0", "triton": "3.8.0"}.get)
    assert requirements._explained("triton", None, "x").fix == "pip install triton==3.6.0"
    monkeypatch.setattr(requirements, "installed", {"torch": "2.12.1", "triton": "3.8.0", "torchaudio": "2.11.0"}.get)
    assert (
        requirements._explained("triton", None, "x").fix == "pip install torch==2.14.1 torchaudio==2.11.1 triton==3.8.0"
    )


def test_what_is_said_of_a_library_that_is_absent_incomplete_or_broken(site):
    absent = problem("no_such_sound", "vqmm[audio]")
    assert str(absent) == 'no_such_sound, which is not installed: pip install "vqmm[audio]"'
    put(site, "half_sound", "0.3", "import no_such_foundation")
    assert str(problem("half_sound")) == (
        "half_sound, which did not load (No module named 'no_such_foundation'; half_sound 0.3): pip install half_sound"
    )
    put(site, "old_sound", "1.2", "raise ValueError('numpy.dtype size\\nchanged')")
    assert str(problem("old_sound", "vqmm[audio]")) == (
        "old_sound, which did not load (ValueError: numpy.dtype size changed; old_sound 1.2): pip install "
        "--force-reinstall --no-deps old_sound==1.2"
    )
    put(site, "loose_sound", None, "raise ImportError")  # a folder that nobody installed
    assert str(problem("loose_sound")).endswith("(ImportError:): pip install --force-reinstall --no-deps loose_sound")


def test_a_library_that_broke_is_not_imported_twice_and_one_that_was_absent_is(site):
    note = "with open(__file__ + '.tried', 'a') as file: file.write('x')\n"
    put(site, "broken_sound", "1", f"{note}raise OSError('no luck')")
    for module in ("broken_sound", "broken_sound.part", "broken_sound"):
        with pytest.raises(
            UserError, match=r"sound needs broken_sound, which did not load \(no luck; broken_sound 1\)"
        ):
            load(module, None, "sound")
    assert (site / "broken_sound" / "__init__.py.tried").read_text() == "x"
    assert problem("late_sound") is not None
    put(site, "late_sound", "2", "")
    assert problem("late_sound") is None and load("late_sound", None, "sound").__name__ == "late_sound"
    del sys.modules["late_sound"]


def test_a_package_of_another_name_is_found(monkeypatch):
    assert [one.name for one in libraries({"sklearn": "vqmm[demo]", "yaml": "PyYAML"})] == ["scikit-learn", "PyYAML"]
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        UserError, match=r'digits needs scikit-learn, which is not installed: pip install "vqmm\[demo\]"'
    ):
        must_load({"yaml": "PyYAML", "sklearn": "vqmm[demo]"}, "digits")


NEEDY = """
import vqmm

class Needy(vqmm.Modality):
    name, rank, channels, needs = "needy", 1, 1, NEEDS

    def samples(self, path):
        return iter(())

    def write(self, sample, path):
        return path

@vqmm.hookimpl
def register_modalities(register):
    register(Needy)
"""


def test_a_plugin_of_anybody_says_what_it_needs(tmp_path):
    file = tmp_path / "needy.py"
    file.write_text(NEEDY.replace("NEEDS", "{'no_such_sonar': 'sonar-tools'}"))
    found = Registry.discover([str(file)])
    assert found.needs(str(file)) == {"no_such_sonar": "sonar-tools"}
    with pytest.raises(UserError, match=r"the modality 'needy' needs no_such_sonar, .*: pip install sonar-tools"):
        found.part("modality", {"name": "needy"})
    file.write_text(NEEDY.replace("NEEDS", "('no_such_sonar',)"))
    with pytest.raises(
        UserError, match=r"Needy.needs is \('no_such_sonar',\): name each library with what pip installs"
    ):
        Registry.discover([str(file)])


def test_what_the_built_in_plugins_need_is_in_the_extra_that_they_name():
    extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = Registry.discover()
    for plugin in found.plugins:
        for module, install in found.needs(plugin).items():
            extra = extras[install.removeprefix("vqmm[").removesuffix("]")]
            assert any(line.startswith(module) for line in extra), (plugin, module, install)


@pytest.mark.parametrize(("name", "tested"), [("newest", TESTED[0]), ("oldest", TESTED[1])])
def test_the_sets_of_versions_are_those_of_the_constraint_files(name, tested):
    lines = (TOP / "constraints" / f"{name}.txt").read_text().splitlines()
    pins = dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0])
    assert {library: pins[library] for library in tested} == dict(tested)


def old_python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    begin = f"import runpy, sys; sys.version_info = (3, 10, 4, 'final', 0); sys.argv = {list(argv)!r}; "
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)


def test_an_old_python_is_told_which_one_is_needed():
    line = f"vqmm needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}): use a newer one"
    for argv in (["-m"], ["/usr/bin/vqmm", "demo"]):
        done = old_python("runpy.run_module('vqmm', run_name='__main__')", *argv)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"vqmm: {line}\n")
    done = old_python("import vqmm", "mine.py")  # a program of somebody's: an error that it may catch
    assert done.returncode == 1 and done.stderr.rstrip().endswith(f"ImportError: {line}")


def test_the_file_that_says_so_can_be_read_by_an_old_python():
    ast.parse((TOP / "vqmm" / "__init__.py").read_text(encoding="utf-8"), feature_version=(3, 7))
