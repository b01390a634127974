"""The worked example: readings from CSV, through every verb, from a plugin file of 35 lines."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.runner import Vqmm
from vqmm.commands.new_plugin import new_plugin
from vqmm.registry import Registry
from vqmm.testing import check_modality

SMALL = ("--set", "modality.width=8", "--set", "modality.stride=2")
SMALL += ("--set", "quantizer.codebook_size=16", "--set", "quantizer.dim=8", "--steps", "5")


@pytest.fixture
def plugin(tmp_path):
    return new_plugin("sensors", tmp_path)["files"][0]


@pytest.fixture
def readings(tmp_path):
    """Twelve files of 20 to 31 rows, three columns."""
    folder = tmp_path / "readings"
    folder.mkdir()
    for i in range(12):
        moments = np.arange(20 + i)[:, None] / (2 + np.arange(3))
        np.savetxt(folder / f"{i:02}.csv", np.sin(moments + i), delimiter=",", fmt="%.6f")
    return folder


def test_it_trains_encodes_and_decodes(capsys, tmp_path, plugin, readings):
    vqmm = Vqmm(capsys)
    run, mine = tmp_path / "run", ("--plugin", plugin, "--json")
    trained = vqmm("train", "sensors", "--data", readings, "--out", run, *SMALL, *mine).json
    assert 0 < trained["metrics"]["nmse"] < 10
    assert vqmm("eval", run, "--data", readings, *mine).json["view"] == "whole samples"
    encoded = vqmm("encode", run, readings, "--out", tmp_path / "tokens", *mine).json
    assert encoded["samples"] == 12 and encoded["codes"] == sum((20 + i + 1) // 2 for i in range(12))
    vqmm("decode", run, tmp_path / "tokens", "--out", tmp_path / "out", *mine)
    for i in range(12):
        assert np.loadtxt(tmp_path / "out" / f"{i:02}.csv", delimiter=",").shape == (20 + i, 3)
    line = vqmm.refuses("encode", run, readings, "--out", tmp_path / "again")
    assert "'sensors'" in line and "--plugin" in line


def test_the_example_of_the_readme_with_crops_and_an_evaluation_keeps_its_promises(plugin):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (added,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "TimedSensors" in block)
    names: dict = {}
    exec(Path(plugin).read_text() + "\n\n" + added, names)
    kind = names["TimedSensors"]
    check_modality(kind)
    modality = kind(kind.Options(seconds=0.5))
    sample = torch.randn(3, 80)
    views = [modality.crop(sample, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {view.shape for view in views} == {(3, 25)} and len({float(view[0, 0]) for view in views}) > 9
    assert torch.equal(modality.crop(sample, None), sample) and modality.evaluation().size_in_units(sample) == 1.6


def test_folders_of_readings_are_labels(plugin, readings):
    (readings / "calm").mkdir()
    for file in readings.glob("*.csv"):
        file.rename(readings / "calm" / file.name)
    samples = list(Registry.discover([plugin]).modality("sensors")().samples(readings))
    assert [(s.key, s.label) for s in samples] == [(f"calm/{i:02}.csv", "calm") for i in range(12)]


BAD = {"columns": "1,2\n3,4\n", "ragged": "1,2,3\n4,5\n", "words": "a,b,c\n", "nothing": "", "nan": "1,2,nan\n"}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_unreadable_and_named(tmp_path, plugin, name):
    from vqmm import Unreadable

    modality = Registry.discover([plugin]).modality("sensors")()
    (tmp_path / f"{name}.csv").write_text(BAD[name])
    (sample,) = modality.samples(tmp_path / f"{name}.csv")
    with pytest.raises(Unreadable, match=f"{name}.csv"):
        sample.read()
