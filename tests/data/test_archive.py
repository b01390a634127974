"""Archives: every kind gives the same names and bytes, travels to other processes, and is refused when damaged."""

import io
import multiprocessing
import os
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vqmm.data import archive
from vqmm.data.archive import inside_archive, open_archive
from vqmm.utils.errors import UserError

BYTES = {
    name: np.random.default_rng(i).bytes(n)
    for i, (name, n) in enumerate({"b/2.X": 5000, "a.x": 0, "c.x": 70_001}.items())
}
OTHERS = {"b/.hidden.x": b"no", "__MACOSX/b/._2.X": b"no", ".git/d.x": b"no", "readme.txt": b"no", "b/x": b"no"}
KINDS = ["tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "TAR", "zip"]


def pack(path, members, **links):
    """Members by name, in that order; `links` are names of hard links."""
    if path.name.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, data in members.items():
                opened.writestr(name, data)
        return path
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "tbz2": "w:bz2", "xz": "w:xz"}
    with tarfile.open(path, mode.get(path.name.rsplit(".", 1)[-1], "w")) as opened:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            opened.addfile(member)
    return path


def read_all(opened):
    return {name: opened.read(name) for name in opened.names}


def refused(path):
    with pytest.raises(UserError) as caught:
        open_archive(path, (".x",))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same(kind, tmp_path):
    opened = open_archive(pack(tmp_path / f"some.{kind}", BYTES | OTHERS), (".x",))
    assert opened.names == ["a.x", "b/2.X", "c.x"] and read_all(opened) == BYTES
    assert "a.x" in opened and "readme.txt" not in opened and "b/.hidden.x" not in opened


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_stay_inside_and_the_later_of_two_counts(kind, tmp_path):
    names = ["../../up.x", "/etc/root.x", "./dot.x", "twice.x", "./twice.x"]
    opened = open_archive(pack(tmp_path / f"some.{kind}", {name: name.encode() for name in names}), (".x",))
    assert opened.names == ["dot.x", "etc/root.x", "twice.x", "up.x"] and opened.read("twice.x") == b"./twice.x"


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_hard_links_are_files_and_other_links_are_not(kind, tmp_path):
    links = {"hard.x": (tarfile.LNKTYPE, "c.x"), "soft.x": (tarfile.SYMTYPE, "c.x"), "odd.x": (tarfile.LNKTYPE, "no.x")}
    opened = open_archive(pack(tmp_path / f"some.{kind}", BYTES, **links), (".x",))
    assert opened.names == ["a.x", "b/2.X", "c.x", "hard.x"] and opened.read("hard.x") == BYTES["c.x"]


@pytest.mark.parametrize("kind", ["tar", "tar.bz2", "zip"])
def test_it_travels(kind, tmp_path):
    opened = open_archive(pack(tmp_path / f"some.{kind}", BYTES), (".x",))
    assert read_all(pickle.loads(pickle.dumps(opened))) == BYTES
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(opened.read, [*BYTES] * 50)) == [*BYTES.values()] * 50
    if hasattr(os, "fork"):  # processes that share one place in a file would read each other's bytes
        queue = multiprocessing.get_context("fork").Queue()
        workers = [multiprocessing.get_context("fork").Process(target=check, args=(opened, queue)) for _ in range(3)]
        for worker in workers:
            worker.start()
        check(opened, queue)
        assert [queue.get(timeout=60) for _ in range(4)] == [True] * 4
        for worker in workers:
            worker.join()


def check(opened, queue):
    queue.put(all(read_all(opened) == BYTES for _ in range(100)))


def test_a_compressed_tar_is_read_once(tmp_path, monkeypatch):
    path = pack(tmp_path / "some.tar.gz", BYTES)
    opened = open_archive(path, (".x",))
    assert open_archive(tmp_path / "." / "some.tar.gz", (".x",)) is opened
    path.unlink()
    assert read_all(opened) == BYTES
    pack(path, {"new.x": b"1"})
    assert open_archive(path, (".x",)).names == ["new.x"]  # another file in its place


def test_what_is_kept_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "KEPT_BYTES", 75_000)
    said = refused(pack(tmp_path / "some.tar.bz2", BYTES))
    assert (
        "more than 0.0715256 MiB of .x" in said and "unpack it and give the folder, or pack it as .tar or .zip" in said
    )
    for kind in ("tar", "zip"):  # these keep nothing, so only a single member may be too large
        assert len(open_archive(pack(tmp_path / f"some.{kind}", BYTES), (".x",)).names) == 3
        assert "holds big.x of " in refused(pack(tmp_path / f"big.{kind}", {"big.x": bytes(75_001)}))
    others = {"a.x": b"1", "film.avi": bytes(200_000)}
    assert open_archive(pack(tmp_path / "others.tar.gz", others), (".x",)).names == ["a.x"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_archives_are_refused(kind, tmp_path):
    whole = pack(tmp_path / f"whole.{kind}", BYTES).read_bytes()
    path = tmp_path / f"cut.{kind}"
    for content in (b"", b"hello" * 300, whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "cannot be read as an archive: " in refused(path)
    path.unlink()
    assert "No such file" in refused(path)
    os.mkfifo(path)  # opening it would wait for ever
    assert "not a file" in refused(path)


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(pack(tmp_path / "some.zip", BYTES).read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "some.zip").write_bytes(data)
    assert "is encrypted (c.x): unpack it" in refused(tmp_path / "some.zip")


def test_paths_that_lead_into_an_archive(tmp_path):
    path = pack(tmp_path / "some.tar", BYTES)
    assert inside_archive(path / "b" / "2.X") == (path, "b/2.X") and inside_archive(path / "a.x") == (path, "a.x")
    assert inside_archive(path) is None and inside_archive(tmp_path / "no.zip" / "a.x") is None
    (tmp_path / "folder.zip").mkdir()
    assert inside_archive(tmp_path / "folder.zip" / "a.x") is None
