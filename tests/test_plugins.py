"""The seam: how plugins are found, what a broken one does to the others, and that the guide is complete."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vqmm
from vqmm import hookspecs
from vqmm.commands.new_plugin import TEMPLATES
from vqmm.registry import KINDS, Registry
from vqmm.utils.errors import UserError

README = Path(__file__).parents[1] / "README.md"
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, "vqmm_spec")}

MODALITY = """
import vqmm

class Mine(vqmm.Modality):
    name, rank, channels = "{name}", 1, 1

    def samples(self, path):
        return iter(())

    def write(self, sample, path):
        return path

@vqmm.hookimpl
def register_modalities(register):
    register(Mine)
"""


def plugin_file(folder, name, text=MODALITY):
    file = folder / f"{name}.py"
    file.write_text(text.replace("{name}", name))
    return str(file)


def test_every_kind_has_its_hook_and_every_hook_its_kind():
    assert sorted(HOOKS) == sorted(KINDS.values())


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_hook_says_what_it_is_for(name):
    assert len(inspect.getdoc(HOOKS[name])) > 40


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_hook_is_in_the_readme_with_its_arguments(name):
    assert f"{name}({', '.join(inspect.signature(HOOKS[name]).parameters)})" in README.read_text(encoding="utf-8")


def test_the_example_of_the_readme_is_the_template():
    example = (TEMPLATES / "modality.py.txt").read_text().replace("{{name}}", "sensors").replace("{{Class}}", "Sensors")
    assert f"```python\n{example}```" in README.read_text(encoding="utf-8")


def test_all_that_comes_with_vqmm_loads():
    found = Registry.discover()
    assert found.failed == {}
    assert {"image", "quantizers", "decoders", "recipes"} <= found.plugins.keys()


def test_plugins_come_from_the_environment_and_by_name(tmp_path, monkeypatch):
    first, second = plugin_file(tmp_path, "first"), plugin_file(tmp_path, "second")
    monkeypatch.setenv("VQMM_PLUGINS", os.pathsep.join([first, "", first]))
    found = Registry.discover([second, first])  # asked for twice: loaded once
    assert {"first", "second", "image"} <= found.offers["modality"].keys() and not found.failed
    monkeypatch.syspath_prepend(tmp_path)
    assert "second" in Registry.discover(["second"]).offers["modality"]


BROKEN = {
    "raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "does_not_parse": ("def (:", "SyntaxError"),
    "wants_a_module": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "leaves": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "misspelt": (MODALITY.replace("register_modalities", "register_modality"), "Did you mean 'register_modalities("),
    "offers_nothing": ("", "offers nothing"),
    "hook_raises": (MODALITY.replace("register(Mine)", "raise OSError('disk')"), "OSError: disk"),
    "image": (MODALITY, "the name 'image' is taken by plugin 'image'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_and_hides_nobody(tmp_path, monkeypatch, name):
    text, said = BROKEN[name]
    broken, good = plugin_file(tmp_path, name, text), plugin_file(tmp_path, "good")
    monkeypatch.setenv("VQMM_PLUGINS", os.pathsep.join([broken, good]))
    found = Registry.discover()
    assert {"good", "image"} <= found.offers["modality"].keys() and "vector" in found.offers["quantizer"]
    assert list(found.failed) == [broken] and said in found.failed[broken] and "\n" not in found.failed[broken]
    with pytest.raises(UserError, match="did not load"):  # asked for by name it is an error
        Registry.discover([broken])


def test_vqmm_plugins_lists_the_broken_one_last(tmp_path, monkeypatch, capsys):
    from vqmm.cli import main

    broken = plugin_file(tmp_path, "broken", "1 / 0")
    monkeypatch.setenv("VQMM_PLUGINS", broken)
    with pytest.raises(SystemExit, match="0"):
        main(["plugins"])
    told = capsys.readouterr()
    assert "modality image" in told.out and "quantizer vector" in told.out
    assert told.err == f"the plugin '{broken}' did not load: ZeroDivisionError: division by zero\n"


SETUP = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "vqmm-aardvark"
version = "1"
[project.entry-points.vqmm]
aardvark = "aardvark"
image = "aardvark_broken"
abacus = "aardvark_greedy"
[tool.setuptools]
py-modules = ["aardvark", "aardvark_broken", "aardvark_greedy"]
"""


def test_an_installed_package_is_found_by_its_entry_point(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "pyproject.toml").write_text(SETUP)
    plugin_file(source, "aardvark")
    plugin_file(source, "aardvark_broken", "1 / 0")
    plugin_file(source, "aardvark_greedy", MODALITY.replace("{name}", "image"))  # ours keep their names
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", target, source], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    listed = [sys.executable, "-m", "vqmm", "plugins", "--json"]
    told = json.loads(subprocess.run(listed, check=True, capture_output=True, text=True, env=environment).stdout)
    assert told["plugins"]["aardvark"] == ["modality aardvark"] and told["plugins"]["image"] == ["modality image"]
    assert told["failed"].keys() == {"image (aardvark_broken)", "abacus"}
    assert "division by zero" in told["failed"]["image (aardvark_broken)"]
    assert "hook 'register_modalities': the name 'image' is taken by plugin 'image'" in told["failed"]["abacus"]


def test_the_public_names_are_all_there():
    for name in vqmm.__all__:
        assert getattr(vqmm, name) is not None
    assert set(vqmm.__all__) <= set(dir(vqmm))
    with pytest.raises(AttributeError, match="no attribute 'Modalty'"):
        vqmm.Modalty  # noqa: B018
