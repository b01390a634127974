"""What a person can get wrong about runs and tokens, and files that are damaged: one line, and nothing written."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.runner import TINY_CODES
from vqmm.commands.train import train


@pytest.fixture
def copy(run, tmp_path):
    """A run to damage."""
    return shutil.copytree(run, tmp_path / "copy")


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_that_is_no_run(vqmm, pictures, tokens, tmp_path):
    for verb in (
        ["encode", tmp_path, pictures, "--out", tmp_path / "out"],
        ["decode", tmp_path, tokens, "--out", tmp_path / "out"],
        ["eval", tmp_path, "--data", pictures],
    ):
        assert "holds no tokenizer" in vqmm.refuses(*verb)
    assert not files(tmp_path)


@pytest.mark.parametrize("length", [0, 5, 1000])
def test_weights_cut_short(vqmm, copy, pictures, tmp_path, length):
    weights = copy / "tokenizer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    before = files(tmp_path)
    assert "model.safetensors is damaged" in vqmm.refuses("encode", copy, pictures, "--out", tmp_path / "out")
    assert "model.safetensors is damaged" in vqmm.refuses("eval", copy, "--data", pictures)
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"modality": 3}', '{"modality": {"name": "image"}}', "\x00"])
def test_a_damaged_config(vqmm, copy, pictures, tmp_path, content):
    (copy / "tokenizer" / "config.json").write_text(content)
    before = files(tmp_path)
    assert "config.json" in vqmm.refuses("encode", copy, pictures, "--out", tmp_path / "out")
    assert files(tmp_path) == before


def test_a_run_whose_plugin_is_missing(vqmm, copy, pictures, tmp_path):
    file = copy / "tokenizer" / "config.json"
    config = json.loads(file.read_text())
    config["modality"]["name"] = "sensors"
    file.write_text(json.dumps(config))
    line = vqmm.refuses("encode", copy, pictures, "--out", tmp_path / "out")
    assert "'sensors'" in line and "--plugin" in line


def test_tokens_of_another_tokenizer(vqmm, run, tokens, pictures, tmp_path):
    other = tmp_path / "other"
    train("image", pictures, other, steps=1, settings=[*TINY_CODES[1::2], "train.seed=1"], quiet=True)
    fingerprints = [json.loads((r / "tokenizer/config.json").read_text())["code_fingerprint"] for r in (run, other)]
    line = vqmm.refuses("decode", other, tokens, "--out", tmp_path / "out")
    assert fingerprints[0] != fingerprints[1] and all(each in line for each in fingerprints)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_there_already(vqmm, run, pictures, tokens, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert vqmm("decode", run, tokens, "--out", out).code == 0  # an empty folder is free
    before = {name: (out / name).read_bytes() for name in files(out)}
    assert "exists already" in vqmm.refuses("decode", run, tokens, "--out", out)
    assert "exists already" in vqmm.refuses("encode", run, pictures, "--out", out)
    assert "exists already" in vqmm.refuses("encode", run, pictures, "--out", out / "00.png")
    assert {name: (out / name).read_bytes() for name in files(out)} == before


def test_inputs_that_cannot_be_encoded(vqmm, run, pictures, tmp_path):
    out = ("--out", tmp_path / "deep" / "tokens")
    assert "there is nothing at" in vqmm.refuses("encode", run, tmp_path / "no", *out)
    assert "24 names stand for two samples" in vqmm.refuses("encode", run, pictures, pictures, *out)
    (tmp_path / "bad.png").write_text("no picture")
    assert "none of the 1 samples can be read" in vqmm.refuses("encode", run, tmp_path / "bad.png", *out)
    assert files(tmp_path) == ["bad.png"]  # not even the folder above the one that was to be made


def test_a_file_name_that_is_no_text_goes_there_and_back(vqmm, run, pictures, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    try:
        shutil.copy(pictures / "00.png", folder / "caf\udce9.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    assert vqmm("encode", run, folder, "--out", tmp_path / "tokens").code == 0
    assert vqmm("decode", run, tmp_path / "tokens", "--out", tmp_path / "out").code == 0
    assert files(tmp_path / "out") == ["caf\\udce9.png"]


def rewritten(tokens, folder, change):
    """The same shards with `change` made to their table."""
    folder.mkdir()
    for file in tokens.glob("*.parquet"):
        pq.write_table(change(pq.read_table(file)), folder / file.name)
    return folder


def renamed(keys):
    return lambda table: table.set_column(0, "key", pa.array((keys * len(table))[: len(table)], pa.string()))


DAMAGE = {
    "other metadata": (lambda t: t.replace_schema_metadata({}), "no token shard of vqmm"),
    "metadata that is no object": (lambda t: t.replace_schema_metadata({"vqmm": "[1]"}), "no token shard of vqmm"),
    "no codes": (lambda t: t.drop_columns(["map0"]), "lacks the columns map0"),
    "codes that do not fill the grid": (
        lambda t: t.set_column(3, "map0_grid", pa.array([[3, 5]] * len(t), pa.list_(pa.int32()))),
        "reshape",
    ),
    "codes beyond the codebook": (
        lambda t: t.set_column(4, "map0", pa.array([[32] * 16] * len(t), pa.list_(pa.uint8()))),
        "where the codebook has 0 to 31",
    ),
    "no size": (lambda t: t.set_column(2, "size", pa.array([None] * len(t), pa.list_(pa.int32()))), "no token shard"),
    "one key twice": (renamed(["a.png"]), "two samples 'a.png'"),
    "a key above the folder": (renamed(["../../escaped.png"]), "no place inside an output folder"),
    "a key from the root": (renamed(["/escaped.png"]), "no place inside an output folder"),
    "a hidden way out": (renamed(["a/../../escaped.png"]), "no place inside an output folder"),
    "no key": (renamed([None]), "no place inside an output folder"),
    "an empty key": (renamed(["."]), "no place inside an output folder"),
    "a key with a zero byte": (renamed(["a\0b"]), "no place inside an output folder"),
}


@pytest.mark.parametrize(("change", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_shards_that_are_not_as_they_were_written(vqmm, run, tokens, tmp_path, change, said):
    bad = rewritten(tokens, tmp_path / "bad", change)
    before = files(tmp_path)
    line = vqmm.refuses("decode", run, bad, "--out", tmp_path / "out")
    assert said in line, line
    assert files(tmp_path) == before


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_shards_cut_short(vqmm, run, tokens, tmp_path, keep):
    bad = shutil.copytree(tokens, tmp_path / "bad")
    (file,) = bad.glob("*.parquet")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    assert "part-00000.parquet is no token shard" in vqmm.refuses("decode", run, bad, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_with_a_damaged_page(vqmm, run, tokens, tmp_path):
    bad = shutil.copytree(tokens, tmp_path / "bad")
    (file,) = bad.glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[4:600] = bytes(596)  # the first pages; the footer stays whole
    file.write_bytes(content)
    assert "part-00000.parquet is no token shard" in vqmm.refuses("decode", run, bad, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_shards(vqmm, run, pictures, tmp_path):
    assert "holds no token shards" in vqmm.refuses("decode", run, pictures, "--out", tmp_path / "out")
    assert "holds no token shards" in vqmm.refuses("decode", run, tmp_path / "no", "--out", tmp_path / "out")
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.parquet")
    assert "x.parquet is no token shard" in vqmm.refuses("decode", run, tmp_path, "--out", tmp_path / "out")
