"""The verbs, used as they should be; and how the command line behaves as a program."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.runner import TINY, TINY_CODES

PRINTING_PLUGIN = """
import vqmm

print("hello from a plugin")


class Loud(vqmm.Modality):
    name, rank, channels = "loud", 1, 1

    def samples(self, path):
        return iter(())

    def write(self, sample, path):
        return path


@vqmm.hookimpl
def register_modalities(register):
    print("and from its hook")
    register(Loud)
"""


def python(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_train_writes_a_run_with_its_whole_recipe(vqmm, pictures, tmp_path):
    out = tmp_path / "deep" / "run"
    finished = vqmm("train", "image", "--data", pictures, "--out", out, "--steps", 2, *TINY_CODES)
    assert finished.code == 0 and "psnr_db" in finished.out and "step 2 of 2" in finished.err
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert recipe["train"]["steps"] == 2 and recipe["quantizer"]["codebook_size"] == 32
    assert recipe["modality"]["name"] == "image" and recipe["data"] == str(pictures.resolve())
    assert (out / "tokenizer" / "model.safetensors").is_file()


def test_train_leaves_out_the_page_where_none_is_wanted(vqmm, pictures, tmp_path):
    words = ("train", "image", "--data", pictures, "--out", tmp_path / "run", "--steps", 1, "--no-report", *TINY_CODES)
    finished = vqmm(*words)
    assert finished.code == 0 and "held-out samples\n" in finished.out and "see " not in finished.out
    assert not {"report.html", "reconstructions.png"} & {file.name for file in (tmp_path / "run").iterdir()}


def test_what_was_encoded_is_decoded_under_its_own_names(vqmm, run, pictures, tmp_path):
    told = vqmm("encode", run, pictures, "--out", tmp_path / "tokens", "--json").json
    assert (told["samples"], told["codes"], told["bits"]) == (24, 24 * 16, 24 * 16 * 5)  # 8 / 2 squared; log2(32)
    finished = vqmm("decode", run, tmp_path / "tokens", "--out", tmp_path / "out")
    assert finished.out == f"24 samples in {tmp_path / 'out'}\n"
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(f.name for f in pictures.iterdir())


def test_every_verb_with_json_prints_one_object_and_nothing_else(vqmm, run, pictures, tokens, tmp_path):
    trained = vqmm("train", "image", "--data", pictures, "--out", tmp_path / "run", "--steps", 1, *TINY_CODES, "--json")
    assert trained.json["run"] == str(tmp_path / "run") and "step 1 of 1" in trained.err
    judged = vqmm("eval", run, "--data", pictures, "--json").json
    assert judged["metrics"].keys() == judged["rules"].keys() and judged["count"] < 24
    assert vqmm("decode", run, tokens, "--out", tmp_path / "out", "--json").json["samples"] == 24
    assert "vqvae-ema" in vqmm("recipes", "--json").json["recipes"]
    assert vqmm("plugins", "--json").json["plugins"]["image"] == ["modality image"]
    files = vqmm("new-plugin", "sensors", "--out", tmp_path, "--json").json["files"]
    assert files == [str(tmp_path / "sensors.py"), str(tmp_path / "test_sensors.py")]


def test_the_next_command_works_as_it_is_printed(vqmm, pictures, tmp_path):
    """In a folder whose name has a space, and with the plugin that its tokenizer is made of."""
    folder = tmp_path / "a place"
    folder.mkdir()
    plugin, _ = vqmm("new-plugin", "bands", "--kind", "quantizer", "--out", folder, "--json").json["files"]
    words = ["train", "image", "--data", pictures, "--out", folder / "run", "--steps", 1, "--no-report"]
    trained = vqmm(*words, *TINY, "--plugin", plugin, "--set", "quantizer.name=bands")
    program, *following = shlex.split(trained.out.splitlines()[-1].removeprefix("Next: "))
    assert program == "vqmm" and following[-2:] == ["--plugin", plugin]
    assert "psnr_db" in vqmm(*following, "--json").json["metrics"]


def test_a_plugin_that_prints_does_not_get_into_the_json(vqmm, tmp_path):
    plugin = tmp_path / "loud.py"
    plugin.write_text(PRINTING_PLUGIN)
    finished = vqmm("plugins", "--plugin", plugin, "--json")
    assert finished.json["plugins"][str(plugin)] == ["modality loud"]
    assert "hello from a plugin" in finished.err and "and from its hook" in finished.err


def test_json_has_null_where_a_number_is_not_finite(capsys, monkeypatch):
    from vqmm.cli import output

    monkeypatch.setattr(output, "_reserved", [sys.stdout])
    output.print_json({"metrics": {"nmse": float("nan"), "mse": 0.5}, "rows": [float("inf")], "name": "é\udcff"})
    said = capsys.readouterr().out
    assert json.loads(said)["metrics"] == {"nmse": None, "mse": 0.5} and json.loads(said)["rows"] == [None]
    assert said.isascii()


def test_an_autoencoder_trains_and_is_judged_without_codes(vqmm, pictures, tmp_path):
    out = tmp_path / "ae"
    arguments = ("--data", pictures, "--out", out, "--recipe", "ae", "--steps", 1)
    assert vqmm("train", "image", *arguments, *TINY).code == 0
    assert vqmm("eval", out, "--data", pictures, "--json").json["metrics"]["codebook_usage"] is None
    line = vqmm.refuses("encode", out, pictures, "--out", tmp_path / "tokens")
    assert "has no codes" in line and "vqvae-ema" in line
    assert [f.name for f in tmp_path.iterdir()] == ["ae"]


def test_without_a_verb_it_shows_its_verbs(vqmm):
    finished = vqmm()
    assert finished.code == 0 and finished.err == ""
    assert all(
        verb in finished.out for verb in ("train", "encode", "decode", "eval", "plugins", "new-plugin", "recipes")
    )
    assert vqmm("--version").out.strip().count(".") == 2


def test_help_and_import_are_light():
    told = """
import sys, vqmm
plugins = [name for name in sys.modules if name.startswith("vqmm.plugins.")]
assert not plugins and "torch" not in sys.modules, plugins
from vqmm.cli import main
for verb in ([], ["train"], ["plugins"], ["new-plugin"]):
    try:
        main([*verb, "--help"])
    except SystemExit as left:
        assert left.code == 0
assert "torch" not in sys.modules and "vqmm.registry" not in sys.modules
"""
    finished = python("-c", told)
    assert finished.returncode == 0, finished.stderr
    assert "Usage: vqmm train" in finished.stdout


def test_python_m_vqmm_is_vqmm():
    script = Path(sys.executable).with_name("vqmm")
    for arguments in (["--help"], ["train", "--nope"]):
        module = python("-m", "vqmm", *arguments)
        command = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)
        assert (module.returncode, module.stdout, module.stderr) == (command.returncode, command.stdout, command.stderr)


def test_our_own_fault_gives_a_traceback_and_exit_code_1():
    broken = (
        "import vqmm.registry as r; r.Registry.discover = lambda *_: 1 / 0; import vqmm.cli; vqmm.cli.main(['plugins'])"
    )
    finished = python("-c", broken)
    assert finished.returncode == 1 and "Traceback" in finished.stderr and "ZeroDivisionError" in finished.stderr


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "/vault"), OSError(28, "No space left", "/x")]
)
def test_what_the_machine_refuses_is_said_in_one_line(vqmm, monkeypatch, error):
    from vqmm.registry import Registry

    def refuse(*_):
        raise error

    monkeypatch.setattr(Registry, "discover", refuse)
    assert vqmm.refuses("plugins") == f"vqmm: {error.strerror}: {error.filename}"


def test_a_stop_from_the_keyboard_is_no_traceback(vqmm, monkeypatch):
    from vqmm.registry import Registry

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "discover", stop)
    finished = vqmm("plugins")
    assert (finished.code, finished.err) == (130, "vqmm: interrupted\n")
