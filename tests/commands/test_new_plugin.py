"""`vqmm new-plugin`: what it writes works as it stands; what it refuses leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vqmm
from vqmm.commands.new_plugin import new_plugin
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

CONFIG = Path(__file__).parents[2] / "pyproject.toml"


NAMES = {"modality": "wind_speeds", "quantizer": "nearest", "decoder": "absolute", "prior": "gru"}


def test_every_kind_is_short_and_clean_and_its_own_test_passes(tmp_path):
    made = {kind: new_plugin(name, tmp_path, kind=kind) for kind, name in NAMES.items()}
    for kind, name in NAMES.items():
        plugin, test = made[kind]["files"]
        lines = Path(plugin).read_text().splitlines()
        assert len(lines) <= (40 if kind == "modality" else 50) and max(map(len, lines)) < 120
        assert "{{" not in Path(plugin).read_text() + Path(test).read_text()
        found = Registry.discover([plugin]).find(kind, name)
        assert found.__name__ == "".join(part.capitalize() for part in name.split("_"))
        assert f"--plugin {plugin}" in made[kind]["next"] and "{" not in made[kind]["next"]
    ruff = shutil.which("ruff", path=Path(sys.executable).parent) or shutil.which("ruff")
    for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        found = subprocess.run([ruff, *check, "--config", CONFIG, "."], cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(pytest_command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert found.returncode == 0 and "8 passed" in found.stdout, found.stdout


def test_a_kind_that_is_written_can_be_trained_with(tmp_path):
    plugin = new_plugin("nearest", tmp_path, kind="quantizer")["files"][0]
    settings = ["quantizer.name=nearest", "quantizer.codebook_size=16", "quantizer.dim=4", "modality.width=8"]
    told = vqmm.train(
        "image", "builtin:digits", tmp_path / "run", steps=2, settings=settings, plugins=[plugin], quiet=True
    )
    assert told["metrics"]["codebook_usage"] > 0


def test_a_kind_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'modalty'.*Did you mean 'modality'"):
        new_plugin("sensors", tmp_path, kind="modalty")
    with pytest.raises(UserError, match="there is a quantizer 'vector' already"):
        new_plugin("vector", tmp_path, kind="quantizer")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Sensors", "lower-case"),
        ("my-sensors", "lower-case"),
        ("../sensors", "lower-case"),
        ("class", "lower-case"),
        ("größe", "lower-case"),
        ("", "lower-case"),
        ("image", "there is a modality 'image' already"),
        ("torch", "there is a Python module 'torch' already"),
        ("csv", "there is a Python module 'csv' already"),
    ],
)
def test_a_name_that_would_not_work_is_refused(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        new_plugin(name, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["sensors.py", "test_sensors.py"])
def test_a_file_that_is_there_is_left_alone(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(UserError, match=f"{there} exists already"):
        new_plugin("sensors", tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == [there] and (tmp_path / there).read_text() == "mine"


def test_it_says_what_it_wrote_as_json(tmp_path):
    command = [sys.executable, "-m", "vqmm", "new-plugin", "sensors", "--json"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    told = json.loads(found.stdout)
    assert told["files"] == ["sensors.py", "test_sensors.py"] and "--plugin sensors.py" in told["next"]
