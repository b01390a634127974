"""`vqmm new-plugin`: what it writes works as it stands; what it refuses leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vqmm.commands.new_plugin import new_plugin
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

CONFIG = Path(__file__).parents[2] / "pyproject.toml"


def test_it_is_short_clean_and_its_own_test_passes(tmp_path):
    plugin, test = new_plugin("wind_speeds", tmp_path)["files"]
    lines = Path(plugin).read_text().splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) < 120
    assert "{{" not in Path(plugin).read_text() + Path(test).read_text()
    assert Registry.discover([plugin]).modality("wind_speeds").__name__ == "WindSpeeds"
    ruff = shutil.which("ruff", path=Path(sys.executable).parent) or shutil.which("ruff")
    for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        found = subprocess.run([ruff, *check, "--config", CONFIG, "."], cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", test]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(pytest_command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert found.returncode == 0 and "2 passed" in found.stdout, found.stdout


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
    assert json.loads(found.stdout) == {"files": ["sensors.py", "test_sensors.py"]}
