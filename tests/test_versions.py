"""Which versions pip may choose: the tested sets satisfy the bounds, and nothing is open above."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOME = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())
SETS = sorted((HOME / "constraints").glob("*.txt"))
TOGETHER = {"torch", "torchaudio", "triton", "numpy"}


def requirements() -> Iterator[tuple[str, Requirement]]:
    """Every dependency, and where it stands."""
    groups = {"build": PROJECT["build-system"]["requires"], "core": PROJECT["project"]["dependencies"]}
    for where, lines in (groups | PROJECT["project"]["optional-dependencies"]).items():
        yield from ((where, Requirement(line)) for line in lines)


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "a name and a version: no hosts, no paths"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_there_is_a_newest_and_an_oldest_set():
    assert [path.stem for path in SETS] == ["newest", "oldest"]


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_a_tested_set_satisfies_the_core_and_every_extra(path):
    pinned = pins(path)
    asked = [(where, found, canonicalize_name(found.name)) for where, found in requirements()]
    for where, found, name in asked:
        assert found.specifier.contains(pinned[name]), f"{path.name}: {name} {pinned[name]}, {where} asks for {found}"
    assert pinned.keys() == {name for _, _, name in asked}, "direct dependencies, all of them and no others"


def test_every_dependency_ends_somewhere():
    for where, found in requirements():
        assert any(part.operator in ("<", "<=", "==", "~=") for part in found.specifier), f"{where}: {found}"


def test_what_goes_together_ends_at_the_newest_tested_patch():
    newest = pins(SETS[0])
    ends = {found.name: found.specifier for _, found in requirements() if found.name in TOGETHER}
    assert ends.keys() == TOGETHER
    for name, specifier in ends.items():
        assert [part.version for part in specifier if part.operator == "<="] == [newest[name]]
        *front, patch = newest[name].split(".")
        assert not specifier.contains(".".join([*front, str(int(patch) + 1)]))


@pytest.mark.parametrize("untested", ["2.12.1", "2.13.0", "2.14.0", "2.15.0"])
def test_no_torch_between_the_sets_comes_in(untested):
    (specifier,) = [found.specifier for _, found in requirements() if found.name == "torch"]
    assert not specifier.contains(untested)


def test_a_dependency_has_the_same_bounds_wherever_it_stands():
    seen: dict[str, Requirement] = {}
    for where, found in requirements():
        assert seen.setdefault(found.name, found).specifier == found.specifier, f"{where}: {found}"


def test_a_neighbour_has_an_extra_of_its_name_and_tests():
    extras = PROJECT["project"]["optional-dependencies"]
    marks = "".join(path.read_text() for path in sorted((HOME / "tests").rglob("test_*.py")))
    for line in extras["test-neighbours"]:
        name = Requirement(line).name
        assert extras[name] == [line] and f'@pytest.mark.neighbour(name="{name}")' in marks


def test_only_neighbours_that_changed_are_tested(tmp_path):
    for name in (".ci/neighbours", "pyproject.toml", "constraints/newest.txt", "constraints/oldest.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((HOME / name).read_bytes())
    code, tests = tmp_path / "plugins" / "sound.py", tmp_path / "tests" / "test_curves.py"
    for path, text in ((code, "from pesq import pesq"), (tests, '@pytest.mark.neighbour(name="tensorboard")')):
        path.parent.mkdir()
        path.write_text(text)

    def changed(*more: str) -> list[str]:
        command = [sys.executable, str(tmp_path / ".ci" / "neighbours"), *more]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert changed() == ["pesq", "tensorboard"]
    assert changed("--renew") == changed() == []
    code.write_text("import pesq")
    assert changed() == ["pesq"]
    changed("--renew")
    tests.write_text('@pytest.mark.neighbour(name="tensorboard")  # another')
    assert changed() == ["tensorboard"]
    changed("--renew")
    (tmp_path / "plugins" / "other.py").write_text("pesq = 3  # a column's name")
    assert changed() == []
    pins = tmp_path / "constraints" / "newest.txt"
    pins.write_text(pins.read_text().replace("pesq==0.0.4", "pesq==0.0.5"))
    assert changed() == ["pesq"]


def test_both_commands_of_the_readme_take_the_newest_set():
    text = (HOME / "README.md").read_text()
    for extra, then in (("demo", "vqmm demo"), ("test", "pytest")):
        (line,) = [line for line in text.splitlines() if f'pip install -e ".[{extra}]"' in line]
        assert f'pip install -e ".[{extra}]" -c constraints/newest.txt && {then}' in line
