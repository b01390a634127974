"""Where pictures are looked for: a folder, one file, a CSV that lists them."""

import numpy as np
import pytest
from PIL import Image as Pillow

from vqmm.data.source import Source
from vqmm.plugins.image import Image
from vqmm.utils.errors import UserError


def put(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(np.full((4, 6, 3), i, np.uint8)).save(folder / name)


def found(path):
    return [(sample.key, sample.label, sample.split) for sample in Image().samples(path)]


def refused(path):
    with pytest.raises(UserError) as caught:
        list(Image().samples(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


def test_sub_folders_give_labels_where_every_picture_lies_in_one(tmp_path):
    put(tmp_path, "dogs/1.png", "cats/b/2.JPG", "cats/1.Webp")
    (tmp_path / "readme.txt").write_text("no picture")
    assert found(tmp_path) == [
        ("cats/1.Webp", "cats", None),
        ("cats/b/2.JPG", "cats", None),
        ("dogs/1.png", "dogs", None),
    ]
    put(tmp_path, "loose.bmp")
    assert [label for _, label, _ in found(tmp_path)] == [None] * 4


def test_train_and_test_folders_are_the_own_split(tmp_path):
    put(tmp_path, "train/cats/1.png", "train/dogs/1.png", "test/cats/2.png")
    assert found(tmp_path) == [
        ("test/cats/2.png", "cats", "test"),
        ("train/cats/1.png", "cats", "train"),
        ("train/dogs/1.png", "dogs", "train"),
    ]
    put(tmp_path, "train/loose.png")
    assert {(label, split) for _, label, split in found(tmp_path)} == {(None, "train"), (None, "test")}
    put(tmp_path, "planes/1.png")  # "train" is a class among others, then
    assert {(label, split) for _, label, split in found(tmp_path)} == {
        ("train", None),
        ("test", None),
        ("planes", None),
    }


def test_hidden_files_and_folders_are_skipped(tmp_path):
    put(tmp_path, "a.png", ".hidden.png", ".cache/b.png")
    (tmp_path / "._a.png").write_bytes(b"\0\x05\x16\x07")  # what macOS writes beside a.png
    assert [key for key, _, _ in found(tmp_path)] == ["a.png"]


def test_a_folder_with_a_pictures_name_is_a_folder(tmp_path):
    put(tmp_path, "x.png/inside.png", "y.png")
    assert [key for key, _, _ in found(tmp_path)] == ["x.png/inside.png", "y.png"]
    put(tmp_path, "data.npz/a.png")
    assert [key for key, _, _ in found(tmp_path / "data.npz")] == ["a.png"]


def test_links_to_folders_are_followed_once(tmp_path):
    put(tmp_path / "elsewhere", "1.png")
    put(tmp_path / "data", "cats/2.png")
    (tmp_path / "data/dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/again").symlink_to(tmp_path / "data")
    (tmp_path / "data/zebras").symlink_to(tmp_path / "elsewhere")
    assert [key for key, _, _ in found(tmp_path / "data")] == ["cats/2.png", "dogs/1.png"]


def test_listing_opens_nothing(tmp_path, monkeypatch):
    put(tmp_path, *(f"{i}.png" for i in range(20)))

    def fail(*_, **__):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(Pillow, "open", fail)
    monkeypatch.setattr("pathlib.Path.open", fail)
    assert len(Source(Image(), tmp_path).training()) > 0


def test_a_folder_without_pictures_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert refused(tmp_path) == (
        f"{tmp_path} holds no picture: looked in it and its sub-folders for .png, .jpg, .jpeg, .webp, .bmp"
    )


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/1.png")

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = __import__("os").scandir
    monkeypatch.setattr("os.scandir", scandir)
    assert f"{tmp_path / 'b'} cannot be listed: Permission denied" in refused(tmp_path)


# One file


def test_one_picture(tmp_path):
    put(tmp_path, "a.PNG")
    (sample,) = Image().samples(tmp_path / "a.PNG")
    assert (sample.key, sample.label) == ("a.PNG", None) and sample.read().shape == (3, 4, 6)


@pytest.mark.parametrize("name", ["notes.txt", "picture", "clip.mp4", "array.npy"])
def test_a_file_of_another_kind_is_refused(name, tmp_path):
    (tmp_path / name).write_text("hello")
    said = refused(tmp_path / name)
    assert said.startswith(f"{tmp_path / name} is no picture: take ") and ".webp" in said and ".npz" in said


# CSV


def listed(tmp_path, text, encoding="utf-8"):
    put(tmp_path, "p/1.png", "p/2.png", "3.png")
    path = tmp_path / "list.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_a_csv_lists_paths_labels_and_splits(tmp_path):
    path = listed(
        tmp_path, "label, path ,split\ncat,p/1.png,train\n,p/2.png, test\n", "utf-8-sig"
    )  # as Excel writes it
    assert found(path) == [("p/1.png", "cat", "train"), ("p/2.png", None, "test")]
    assert found(listed(tmp_path, "path\n3.png\np/1.png\n")) == [("3.png", None, None), ("p/1.png", None, None)]


def test_keys_of_a_csv_stay_inside_a_folder(tmp_path):
    path = listed(tmp_path, f"path\n../{tmp_path.name}/3.png\n{tmp_path}/p/1.png\n./p/2.png\n")
    assert [key for key, _, _ in found(path)] == [
        f"{tmp_path.name}/3.png",
        f"{tmp_path}/p/1.png".lstrip("/"),
        "p/2.png",
    ]
    assert [sample.read()[0, 0, 0].item() for sample in Image().samples(path)] == [2, 0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'path'. There is none."),
        ("file,label\n3.png,a\n", "no column 'path'. There is: file, label."),
        ("path,label\n", "has a header and no rows"),
        ("path,label\n3.png,a\n,b\n", "line 3: the column 'path' is empty"),
        ("label,path\na\n", "line 2: the column 'path' is empty"),
        ("path\n3.png\np/9.png\nq/7.png\n", "names 3 pictures, and 2 are missing, first"),
        ("path,split\n3.png,train\np/1.png,valid\n", "line 3: the split is 'valid': it must be 'train' or 'test'"),
        ("path,split\n3.png,train\np/1.png,\n", "line 3: the split is '': it must be"),
        ("path\n3.png\n./3.png\n", "line 3: ./3.png is named again, first in line 2"),
    ],
)
def test_mistakes_in_a_csv_are_told_with_their_line(text, said, tmp_path):
    assert said in refused(listed(tmp_path, text))


def test_a_csv_that_is_not_text(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path\n\xff\xfe\x00.png\n")
    assert "is not a CSV file in UTF-8" in refused(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text('path\n"' + "x" * 200_000 + '"\n')
    assert "field larger than field limit" in refused(tmp_path / "list.csv")


def test_photographs(data):
    photographs = Source(Image(), data / "images" / "photos")
    assert len(photographs.samples) == 60 and photographs.labels == () and not photographs.has_split
    sizes = {sample.key: sample.read().shape for sample in photographs.samples}
    assert all(shape[0] == 3 and min(shape[1:]) >= 300 for shape in sizes.values())
    kodak = [shape for key, shape in sizes.items() if key.startswith("kodak_")]
    assert len(kodak) == 19 and {tuple(shape) for shape in kodak} == {(3, 512, 768), (3, 768, 512)}
