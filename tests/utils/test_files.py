"""Writing: a reader sees the old thing or the new one, and a failure leaves nothing; what cannot be written is said."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from vqmm.utils.errors import UserError
from vqmm.utils.files import ROOM_BYTES, in_words, lacks_room, must_be_free, must_be_writable, new_folder, write_text


def fail(*_, **__):
    raise OSError("disk full")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a", "new")
    assert [f.name for f in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
    monkeypatch.undo()
    write_text(tmp_path / "a", "é")
    assert (tmp_path / "a").read_bytes() == "é".encode()


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "x" / "y"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1" and [f.name for f in target.parent.iterdir()] == ["y"]


def test_a_folder_takes_the_place_of_the_one_before(tmp_path):
    for name in ("old", "new"):
        with new_folder(tmp_path / "x") as folder:
            (folder / name).write_text("")
    assert [f.name for f in (tmp_path / "x").iterdir()] == ["new"] and len(list(tmp_path.iterdir())) == 1


def test_a_failure_leaves_nothing_and_what_was_there(tmp_path):
    (tmp_path / "there").mkdir()
    for target in (tmp_path / "x" / "y" / "z", tmp_path / "there" / "z"):
        with pytest.raises(ZeroDivisionError), new_folder(target) as folder:
            (folder / "a").write_text("1")
            _ = 1 / 0
    assert [f.name for f in tmp_path.rglob("*")] == ["there"]


def test_what_may_be_written_to(tmp_path):
    must_be_free(tmp_path / "new" / "deep", "the folder")
    must_be_free(tmp_path, "the folder")  # there, and empty
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in (tmp_path, tmp_path / "file", tmp_path / "dangling"):
        with pytest.raises(UserError, match=r"the folder .* exists already"):
            must_be_free(taken, "the folder")
    with pytest.raises(UserError, match="file is a file, not a folder"):
        must_be_free(tmp_path / "file" / "below", "the folder")


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path):
    for place in (tmp_path, tmp_path / "new" / "deep", tmp_path / "new"):
        must_be_writable(place, "the folder")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_the_machine_refuses_is_named_with_the_reason(tmp_path, monkeypatch, code):
    def refused(prefix, dir):
        raise OSError(code, os.strerror(code), str(dir))

    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.raises(UserError) as error:
        must_be_free(tmp_path / "a" / "b", "the folder")
    assert str(error.value) == (
        f"the folder {tmp_path}/a/b cannot be written: {tmp_path}: {os.strerror(code).lower()}: choose another place, "
        "or see that you may write there"
    )


def test_places_where_nobody_may_write(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place, said in (
        (tmp_path / ("x" * 300), "file name too long"),
        (tmp_path / "circle" / "run", "circle is a file, not a folder"),
        (tmp_path / "dangling" / "run", "dangling is a file, not a folder"),
    ):
        with pytest.raises(UserError, match=said):
            must_be_free(place, "the folder")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")  # noqa: PTH112
def test_a_place_of_the_system_s_own():
    for place in ("/proc/vqmm-run", "/proc/self/fd/vqmm/run"):
        with pytest.raises(UserError, match=f"the folder {place} cannot be (written|made): /proc"):
            must_be_free(Path(place), "the folder")


def disk(monkeypatch, free, total=10**12):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=total, free=free))


def test_too_little_room_is_said_with_what_is_needed(tmp_path, monkeypatch):
    disk(monkeypatch, 3_141_592)
    with pytest.raises(UserError) as error:
        must_be_free(tmp_path / "run", "the run folder", 2 * 10**9)
    assert str(error.value) == (
        f"the run folder {tmp_path}/run: 3.14 MB are free in {tmp_path}, and 2 GB are needed: make room, or choose a "
        "place on another disk"
    )
    with pytest.raises(UserError, match=f"and {in_words(ROOM_BYTES)} are needed"):
        must_be_writable(tmp_path, "the run folder")
    must_be_free(tmp_path / "run", "the run folder", 3_000_000)
    disk(monkeypatch, 0, total=0)  # a file system that does not say
    must_be_free(tmp_path / "run", "the run folder")
    assert [in_words(n) for n in (0, 999, 1000, 999_999_999_999_999)] == ["0 bytes", "999 bytes", "1 kB", "1e+03 TB"]


def test_a_disk_that_cannot_be_asked_stops_nobody(tmp_path, monkeypatch):
    def silent(path):
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr(shutil, "disk_usage", silent)
    assert lacks_room(tmp_path, "the folder", 10**30) is None
    must_be_writable(tmp_path, "the folder")
