"""Writing: a reader sees the old thing or the new one, and a failure leaves nothing."""

import pytest

from vqmm.errors import UserError
from vqmm.files import must_be_free, new_folder, write_text


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
