"""What folders and lists tell of any kind of file, without opening it; pictures' tests hold the rest."""

import pytest

from vqmm.data.folder import (
    Entry,
    Kind,
    csv_entries,
    file_samples,
    folder_entries,
    inner_name,
    list_files,
    sorted_out,
)
from vqmm.utils.errors import UserError

SHELLS = Kind("shell", (".sh", ".shl"), "; look in the sea")


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_suffixes_choose_the_files(tmp_path):
    put(tmp_path, "b.SH", "a/1.shl", "a/2.png", ".c.sh", ".d/e.sh", "sh")
    assert list_files(tmp_path, SHELLS.suffixes) == ["a/1.shl", "b.SH"]
    assert [(e.key, e.path, e.label, e.split) for e in folder_entries(tmp_path, SHELLS)] == [
        ("a/1.shl", tmp_path / "a/1.shl", None, None),
        ("b.SH", tmp_path / "b.SH", None, None),
    ]


def test_the_noun_and_the_hint_are_in_the_message(tmp_path):
    with pytest.raises(UserError) as caught:
        list(folder_entries(tmp_path, SHELLS))
    assert str(caught.value) == (
        f"{tmp_path} holds no shell: looked in it and its sub-folders for .sh, .shl; look in the sea"
    )


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], []),
        (["x"], [(None, None)]),
        (["a/x", "b/c/x"], [("a", None), ("b", None)]),
        (["a/x", "x"], [(None, None), (None, None)]),
        (["train/x", "test/x"], [(None, "train"), (None, "test")]),
        (["train/a/x", "test/b/x"], [("a", "train"), ("b", "test")]),
        (["train/a/x", "test/b/x", "x"], [(None, None)] * 3),
        (["train/a/x"], [("train", None)]),
    ],
)
def test_labels_and_split_come_from_folders(names, told):
    assert sorted_out(names) == told


def test_files_become_samples_that_are_read_when_they_are_wanted(tmp_path):
    put(tmp_path, "train/a/1.sh", "train/b/2.SH", "test/a/3.sh", "test/b/4.txt")
    read = []
    samples = list(file_samples(tmp_path, (".sh",), read.append))
    assert [(s.key, s.label, s.split) for s in samples] == [
        ("test/a/3.sh", "a", "test"),
        ("train/a/1.sh", "a", "train"),
        ("train/b/2.SH", "b", "train"),
    ]
    assert read == []
    samples[0].read()
    (alone,) = file_samples(tmp_path / "test/a/3.sh", (".sh",), read.append)
    assert read == [tmp_path / "test/a/3.sh"] and (alone.key, alone.label, alone.split) == ("3.sh", None, None)
    with pytest.raises(UserError, match=r"4\.txt is no shell: take a file \.sh, or a folder of them"):
        list(file_samples(tmp_path / "test/b/4.txt", (".sh",), read.append, "shell"))
    with pytest.raises(UserError, match="holds no shell: looked in it"):
        list(file_samples(tmp_path, (".shl",), read.append, "shell"))


def test_further_columns_of_a_list_are_kept(tmp_path):
    put(tmp_path, "1.sh", "2.sh")
    (tmp_path / "list.csv").write_text("text, path,label, reader,\n hello ,1.sh,cat, anna ,x\nbye,2.sh\n")
    assert list(csv_entries(tmp_path / "list.csv", SHELLS)) == [
        Entry("1.sh", tmp_path / "1.sh", "cat", None, {"text": "hello", "reader": "anna"}),
        Entry("2.sh", tmp_path / "2.sh", None, None, {"text": "bye", "reader": ""}),
    ]


def test_who_asks_says_what_exists(tmp_path):
    put(tmp_path, "1.sh")
    path = tmp_path / "list.csv"
    path.write_text("path\n1.sh\nbox/2.sh\n")
    asked = []
    assert len(list(csv_entries(path, SHELLS, lambda file: not asked.append(file)))) == 2
    assert asked == [tmp_path / "1.sh", tmp_path / "box/2.sh"]
    with pytest.raises(UserError, match=r"names 2 shells, and 1 are missing, first .*box/2.sh \(line 3\)"):
        list(csv_entries(path, SHELLS))
    path.write_text("path\n")
    with pytest.raises(UserError, match="a header and no rows: each row must name a shell"):
        list(csv_entries(path, SHELLS))


def test_names_stay_inside_a_folder():
    assert inner_name("../a/./b.sh") == "a/b.sh" and inner_name("/etc/x") == "etc/x" and inner_name("..") == ""
