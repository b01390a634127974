"""The worked example: readings from CSV, through every verb, from a plugin file of 40 lines."""

import numpy as np
import pytest

from tests.cli.runner import Vqmm
from vqmm.commands.new_plugin import new_plugin
from vqmm.registry import Registry

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


BAD = {"columns": "1,2\n3,4\n", "ragged": "1,2,3\n4,5\n", "words": "a,b,c\n", "nothing": "", "nan": "1,2,nan\n"}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_unreadable_and_named(tmp_path, plugin, name):
    from vqmm import Unreadable

    modality = Registry.discover([plugin]).modality("sensors")()
    (tmp_path / f"{name}.csv").write_text(BAD[name])
    (sample,) = modality.samples(tmp_path / f"{name}.csv")
    with pytest.raises(Unreadable, match=f"{name}.csv"):
        sample.read()
