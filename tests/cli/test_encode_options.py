"""vqmm encode from the command line: in shards, gone on with, by several processes."""

import pytest


def shards(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


def test_a_finished_encode_is_gone_on_with_as_if_it_were_new(vqmm, run, pictures, tmp_path):
    words = ("encode", run, pictures, "--out", tmp_path / "tokens", "--shard-samples", 10)
    first = vqmm(*words)
    assert first.out.startswith("24 samples -> 384 codes") and len(before := shards(tmp_path / "tokens")) == 3
    again = vqmm(*words, "--resume")
    assert (again.code, again.out) == (0, first.out) and shards(tmp_path / "tokens") == before
    assert vqmm("decode", run, tmp_path / "tokens", "--out", tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").iterdir())) == 24


def test_a_lost_shard_is_missed_and_made_anew(vqmm, run, pictures, tmp_path):
    words = ("encode", run, pictures, "--out", tmp_path / "tokens", "--shard-samples", 10)
    vqmm(*words)
    before = shards(tmp_path / "tokens")
    (tmp_path / "tokens" / "part-00001.parquet").unlink()
    line = vqmm.refuses("decode", run, tmp_path / "tokens", "--out", tmp_path / "out")
    assert "holds 2 of 3 shards: finish it with vqmm encode --resume" in line
    assert vqmm(*words, "--resume").code == 0 and shards(tmp_path / "tokens") == before


def test_a_shard_cut_short_is_named_and_not_gone_on_with(vqmm, run, pictures, tmp_path):
    words = ("encode", run, pictures, "--out", tmp_path / "tokens", "--shard-samples", 10, "--resume")
    vqmm(*words)
    file = tmp_path / "tokens" / "part-00001.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    before = shards(tmp_path / "tokens")
    assert "part-00001.parquet is no token shard of vqmm, or is damaged" in vqmm.refuses(*words)
    assert shards(tmp_path / "tokens") == before


def test_views_are_asked_for_with_a_number(vqmm, run, pictures, tmp_path):
    plain = vqmm("encode", run, pictures, "--out", tmp_path / "plain", "--json").json["samples"]
    views = vqmm("encode", run, pictures, "--out", tmp_path / "views", "--augment", 2, "--json").json["samples"]
    assert plain < views < 3 * plain, "held-out samples have none"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--resume", "--augment", -1), "augment -1: take 0"),
        (("--processes", 0), "processes 0: take 1 or more"),
        (("--shard-samples", -1), "shard_samples -1: take 1 or more"),
        (("--resume", "--vectors"), "was begun otherwise: vectors was False and is True"),
        (
            ("--resume", "--shard-samples", 3),
            "was begun otherwise: shards was 1 and is 8, shard_samples was 1024 and is 3",
        ),
        ((), "exists already"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(vqmm, run, pictures, tmp_path, more, said):
    vqmm("encode", run, pictures, "--out", tmp_path / "tokens")
    before = shards(tmp_path / "tokens")
    assert said in vqmm.refuses("encode", run, pictures, "--out", tmp_path / "tokens", *more)
    assert shards(tmp_path / "tokens") == before
