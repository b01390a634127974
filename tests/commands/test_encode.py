"""vqmm encode over several shards: the same bytes however it was made, and nothing lost or twice."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import vqmm
from tests.cli.runner import TINY_CODES
from tests.processes import SERVER
from vqmm.commands.encode import EncodeStopped, Work, check_decodes
from vqmm.data.source import Source
from vqmm.quantizers.vector import VectorQuantizer
from vqmm.tokens.shards import PLAN, codes_of, read_header, read_rows
from vqmm.tokens.token_set import TokenSet
from vqmm.utils.errors import UserError

HALF = {"shard_samples": 8}  # of 22 samples: shards of 8, 8 and 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """22 gray pictures of two sizes in two folders, two of them damaged, and a tokenizer trained on them."""
    home = tmp_path_factory.mktemp("encode")
    random = np.random.default_rng(1)
    for i in range(22):
        file = home / "pictures" / "ab"[i % 2] / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 8 + 3 * (i // 7)), dtype=np.uint8)).save(file)
    for name in ("a/06.png", "b/21.png"):
        (home / "pictures" / name).write_bytes(b"\x89PNG broken")
    vqmm.train("image", home / "pictures", home / "run", steps=2, settings=TINY_CODES[1::2], quiet=True)
    return home / "run"


@pytest.fixture(scope="module")
def whole(run):
    """What an encode that nothing disturbed gave, and told."""
    out = run.parent / "whole"
    return out, vqmm.encode(run, run.parent / "pictures", out, **HALF)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def die_in(monkeypatch, shard, error):
    """From here on the encode of that shard fails after its first batch."""
    real = Work.shard

    def broken(self, number, request=None):
        if number == shard:
            monkeypatch.setattr("vqmm.tokens.shards.ShardWriter.add", lambda *_: (_ for _ in ()).throw(error))
        real(self, number, request)

    monkeypatch.setattr(Work, "shard", broken)


def test_shards_hold_all_samples_once_in_order(run, whole):
    out, told = whole
    header, files = read_header(out)
    assert sorted(contents(out)) == [PLAN, *(f"part-{n:05d}.parquet" for n in range(3))]
    rows = list(read_rows(header, files))
    tokenizer = vqmm.Tokenizer.load(run)
    samples = [s for s in tokenizer.modality.samples(run.parent / "pictures") if s.key not in ("a/06.png", "b/21.png")]
    assert [(row.key, row.label) for row in rows] == [(s.key, s.label) for s in samples]
    for row, sample in zip(rows, samples, strict=True):
        alone = tokenizer.encode(tokenizer.modality.collate([sample.read()], [sample.key]))
        assert np.array_equal(row.maps[0], alone.maps[0][0]) and row.size == tuple(sample.read().shape[1:])
    assert told["samples"] == 20 and told["codes"] == sum(row.maps[0].size for row in rows)
    assert told["bits"] == 5 * told["codes"]
    assert [said.partition("pictures/")[2][:9] for said in told["unreadable"]] == ["a/06.png:", "b/21.png:"]


def test_the_split_of_every_row_is_that_of_training(run, whole):
    header, files = read_header(whole[0])
    found = {row.key for row in read_rows(header, files) if row.split == "train"}
    source = Source(vqmm.Tokenizer.load(run).modality, run.parent / "pictures")
    trained = {sample.key for sample in source.training()} - {"a/06.png", "b/21.png"}
    assert found == trained and 0 < len(found) < 20 and "lowest" in header.split
    assert len(TokenSet(whole[0], "train")) == len(found)


@pytest.mark.parametrize("shard", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError("power"), KeyboardInterrupt()])
def test_what_was_broken_off_goes_on_and_ends_with_the_same_bytes(run, whole, tmp_path, monkeypatch, shard, error):
    out = tmp_path / "tokens"
    with monkeypatch.context() as broken:
        die_in(broken, shard, error)
        with pytest.raises(type(error)):
            vqmm.encode(run, run.parent / "pictures", out, **HALF)
    assert sorted(contents(out)) == [PLAN, *(f"part-{n:05d}.parquet" for n in range(shard))]
    with pytest.raises(UserError, match=f"holds {shard} of 3 shards: finish it with vqmm encode --resume"):
        read_header(out)
    made = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    (out / ".part-00001.parquet.0123abcd.tmp").write_text("of a process that was killed")
    assert vqmm.encode(run, run.parent / "pictures", out, resume=True, **HALF) == {**whole[1], "tokens": str(out)}
    assert contents(out) == contents(whole[0])
    assert all((out / name).stat().st_mtime_ns == at for name, at in made.items()), "finished shards are kept"


def test_resuming_what_is_finished_or_not_begun(run, whole, tmp_path):
    out = tmp_path / "deep" / "tokens"
    for _ in range(2):
        assert vqmm.encode(run, run.parent / "pictures", out, resume=True, **HALF)["samples"] == 20
        assert contents(out) == contents(whole[0])


@pytest.fixture
def forked(monkeypatch):
    """Processes that need not import torch first; the last test has those that a user gets."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: SERVER)


def test_several_processes_name_a_mistake_and_go_on_to_the_same_bytes(run, whole, tmp_path, forked):
    out = tmp_path / "tokens"
    with pytest.raises(vqmm.Unreadable, match=r"a/06\.png"):
        vqmm.encode(run, run.parent / "pictures", out, processes=2, strict=True, **HALF)
    kept = contents(out) if out.exists() else {}
    assert "part-00000.parquet" not in kept and kept.items() <= contents(whole[0]).items()
    told = vqmm.encode(run, run.parent / "pictures", out, processes=2, resume=True, **HALF)
    assert told == {**whole[1], "tokens": str(out)} and contents(out) == contents(whole[0])


@pytest.mark.parametrize("was_there", [False, True])
def test_a_failure_before_the_first_shard_leaves_nothing(run, tmp_path, monkeypatch, was_there):
    out = tmp_path / "a" / "b"
    if was_there:
        out.mkdir(parents=True)
    die_in(monkeypatch, 0, RuntimeError("half way"))
    with pytest.raises(RuntimeError, match="half way"):
        vqmm.encode(run, run.parent / "pictures", out, **HALF)
    assert [path for path in tmp_path.rglob("*") if path.name not in ("a", "b")] == []
    assert out.exists() == was_there and (tmp_path / "a").exists() == was_there


def test_nothing_that_can_be_read_leaves_nothing(run, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.png").write_text("no picture")
    with pytest.raises(UserError, match=r"none of the 3 samples can be read; the first: .*0\.png"):
        vqmm.encode(run, tmp_path / "in", tmp_path / "out", shard_samples=1)
    with pytest.raises(UserError, match="nothing to encode"):
        vqmm.encode(run, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_views_stand_beside_training_samples_and_are_none_of_held_out_ones(run, whole, tmp_path):
    told = vqmm.encode(run, run.parent / "pictures", tmp_path / "views", augment=2, shard_samples=8)
    rows = TokenSet(tmp_path / "views")
    known = {row.key: row for row in TokenSet(whole[0])}
    expected = [
        f"{key[:4]}{view}.png"
        for key, row in known.items()
        for view in ("", "~1", "~2")
        if row.split == "train" or not view
    ]
    assert [row.key for row in rows] == expected and told["samples"] == len(expected) > 2 * len(known)
    altered = 0
    for row in rows:
        own = known[f"{row.key[:4]}.png"]
        assert (row.label, row.split, row.size) == (own.label, own.split, own.size)
        same = np.array_equal(row.maps[0], own.maps[0])
        assert same or "~" in row.key
        altered += not same
    assert altered > 5  # half are mirrored


def test_views_are_the_same_by_two_processes_and_go_on_as_they_began(run, tmp_path, forked):
    one, two = tmp_path / "one", tmp_path / "two"
    vqmm.encode(run, run.parent / "pictures/a", one, augment=1, shard_samples=8)
    vqmm.encode(run, run.parent / "pictures/a", two, augment=1, shard_samples=8, processes=2)
    assert contents(one) == contents(two) and len(contents(one)) > 2
    with pytest.raises(UserError, match=r"was begun otherwise: .*, samples was 21 and is 11"):
        vqmm.encode(run, run.parent / "pictures/a", one, shard_samples=8, resume=True)


CHANGES = {
    "stages": ({"vectors": True}, "vectors was False and is True"),
    "shards": ({"shard_samples": 9}, "shard_samples was 8 and is 9"),
    "inputs": ({"inputs": "pictures/a"}, "samples was 22 and is 11"),
}


@pytest.mark.parametrize(("changed", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_another_encode_is_not_gone_on_with(run, whole, changed, said):
    before = contents(whole[0])
    inputs = run.parent / changed.get("inputs", "pictures")
    options = {**HALF, **{name: value for name, value in changed.items() if name != "inputs"}}
    with pytest.raises(UserError, match=f"was begun otherwise: .*{said}.*: repeat the command"):
        vqmm.encode(run, inputs, whole[0], resume=True, **options)
    assert contents(whole[0]) == before


def test_another_tokenizer_is_not_gone_on_with(run, whole, tmp_path):
    other = tmp_path / "other"
    pictures = run.parent / "pictures"
    vqmm.train("image", pictures, other, steps=1, settings=[*TINY_CODES[1::2], "train.seed=1"], quiet=True)
    with pytest.raises(UserError, match=f"code_fingerprint was {whole[1]['code_fingerprint']} and is "):
        vqmm.encode(other, pictures, whole[0], resume=True, **HALF)


def test_folders_that_cannot_be_gone_on_with(run, whole, tmp_path):
    pictures = run.parent / "pictures"
    with pytest.raises(UserError, match="exists already"):
        vqmm.encode(run, pictures, whole[0], **HALF)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is no encode to resume: it has no encode\.json"):
        vqmm.encode(run, pictures, tmp_path, resume=True)
    for content in ("{", "[]", "{}", ""):
        (tmp_path / PLAN).write_text(content)
        with pytest.raises(UserError, match=r"encode\.json is damaged"):
            vqmm.encode(run, pictures, tmp_path, resume=True)
    assert sorted(contents(tmp_path)) == [PLAN, "mine.txt"]


def test_strict_does_not_go_on_with_what_lacks_samples(run, whole):
    with pytest.raises(UserError, match=r"begun without strict, and lacks 2 damaged samples: .*a/06\.png"):
        vqmm.encode(run, run.parent / "pictures", whole[0], resume=True, strict=True, **HALF)
    assert len(contents(whole[0])) == 4


@pytest.mark.parametrize("option", ["processes", "shard_samples"])
def test_numbers_below_one_are_mistakes(run, tmp_path, option):
    with pytest.raises(UserError, match=f"{option} 0: take 1 or more"):
        vqmm.encode(run, run.parent / "pictures", tmp_path / "out", **{option: 0})


def test_a_quantizer_that_looks_up_something_else_is_found(run, whole, tmp_path, monkeypatch):
    real = VectorQuantizer.lookup
    monkeypatch.setattr(VectorQuantizer, "lookup", lambda self, codes: 1.01 * real(self, codes))
    with pytest.raises(UserError, match=r"the codes of 'a/00\.png' do not decode to what was encoded"):
        vqmm.encode(run, run.parent / "pictures", tmp_path / "out", **HALF)
    assert not any(tmp_path.iterdir())


def test_the_check_looks_at_shape_and_values(run):
    tokenizer = vqmm.Tokenizer.load(run)
    header, files = read_header(run.parent / "whole")
    row = next(read_rows(header, files))
    vectors = tokenizer.quantizer.lookup(codes_of([row], {}))[0].movedim(0, -1).contiguous().numpy()
    check_decodes(tokenizer, replace(row, vectors=vectors), row)
    nan = np.full_like(vectors, np.nan)
    for wrong in (vectors[:1], vectors + 1e-2 * np.abs(vectors).max(), nan):
        with pytest.raises(UserError, match="do not decode"):
            check_decodes(tokenizer, replace(row, vectors=wrong), row)


def test_threads_are_as_they_were(run, tmp_path):
    before = torch.get_num_threads()
    vqmm.encode(run, run.parent / "pictures", tmp_path / "out", **HALF)
    assert torch.get_num_threads() == before


def test_being_stopped_says_how_far_it_came(run, tmp_path, monkeypatch):
    real = Work.shard

    def asked(self, number, request=None):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, number, request)

    monkeypatch.setattr(Work, "shard", asked)
    with pytest.raises(EncodeStopped, match="stopped by SIGTERM with 1 of 3 shards: go on with --resume") as stopped:
        vqmm.encode(run, run.parent / "pictures", tmp_path / "out", **HALF)
    assert stopped.value.code == 143 and len(contents(tmp_path / "out")) == 2


def test_a_killed_encode_of_two_processes_ends_with_the_same_bytes(run, whole, tmp_path):
    """SIGKILL: nothing can be tidied up. The other processes leave with the first; what they left is no hindrance."""
    out = tmp_path / "out"
    words = [sys.executable, "-m", "vqmm", "encode", str(run), str(run.parent / "pictures"), "--out", str(out)]
    words += ["--shard-samples", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*words, "--processes", "2"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as first:
        deadline = time.monotonic() + 60
        while first.poll() is None and not list(out.glob("*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.002)
        first.kill()
        first.communicate(timeout=30)  # at its end when nobody holds the other end of the pipe any more
    told = vqmm.encode(run, run.parent / "pictures", out, resume=True, **HALF)
    assert told == {**whole[1], "tokens": str(out)}
    assert contents(out) == contents(whole[0])
