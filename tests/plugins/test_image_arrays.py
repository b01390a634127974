"""Many pictures in one file: `.npz` and idx, as they should be and damaged."""

import gzip
import struct
import zipfile

import numpy as np
import pytest
import torch

from vqmm.data.source import Source
from vqmm.plugins.image import Image, arrays
from vqmm.utils.errors import UserError

GENERATOR = np.random.default_rng(0)
GRAY = GENERATOR.integers(0, 256, (6, 5, 7), dtype=np.uint8)
RGB = GENERATOR.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
RGBA = GENERATOR.integers(0, 256, (4, 5, 7, 4), dtype=np.uint8)


def npz(folder, **named):
    np.savez(folder / "a.npz", **named)
    return folder / "a.npz"


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def put_idx(folder, name, pictures, labels=None, kind=".gz"):
    for what, axes, array in (("images", 3, pictures), ("labels", 1, labels)):
        if array is not None:
            content = idx(array)
            path = folder / f"{name}-{what}-idx{axes}-ubyte{kind}"
            path.write_bytes(gzip.compress(content) if kind else content)
    return folder / f"{name}-images-idx3-ubyte{kind}"


def found(path, channels=1):
    return list(Image(Image.Options(channels=channels)).samples(path))


def refused(path):
    with pytest.raises(UserError) as caught:
        found(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value)


# npz


def test_one_array(tmp_path):
    samples = found(npz(tmp_path, x=RGB, y=np.arange(6) * 3), channels=3)
    assert [(s.key, s.label, s.split) for s in samples] == [(str(i), str(3 * i), None) for i in range(6)]
    for sample, picture in zip(samples, RGB, strict=True):
        assert np.array_equal(sample.read().movedim(0, -1), picture)


def test_own_split_and_class_names(tmp_path):
    path = npz(
        tmp_path,
        x_train=GRAY,
        y_train=np.array([[0], [1], [2], [1], [0], [2]]),  # a column, as CIFAR's labels often come
        x_test=GRAY[:2],
        y_test=np.array([2, 2], np.uint8),
        class_names=np.array(["ant", "bee", "cow"]),
    )
    samples = found(path)
    assert [(s.key, s.label) for s in samples if s.split == "train"] == [
        (f"train/{i}", name) for i, name in enumerate(["ant", "bee", "cow", "bee", "ant", "cow"])
    ]
    assert [(s.key, s.label) for s in samples if s.split == "test"] == [("test/0", "cow"), ("test/1", "cow")]
    assert [s.label for s in found(npz(tmp_path, x=GRAY[:2], y=np.array(["b", "a"])))] == ["b", "a"]


def test_rows_are_views_of_one_array(tmp_path):
    first, second = (sample.read() for sample in found(npz(tmp_path, x=RGB), channels=3)[:2])
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert first.shape == (3, 5, 7) and first.dtype == torch.uint8


def test_listing_converts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "convert", lambda *_: pytest.fail("a picture was converted"))
    assert len(found(npz(tmp_path, x=GRAY), channels=3)) == 6


@pytest.mark.parametrize("have", [GRAY, GRAY[..., None], RGB, RGBA], ids=["NHW", "NHW1", "NHW3", "NHW4"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_brought_to_what_is_wanted(have, channels, tmp_path):
    (sample, *_) = found(npz(tmp_path, x=have), channels)
    got, picture = sample.read().movedim(0, -1).numpy().astype(int), have[0].reshape(5, 7, -1).astype(int)
    assert got.shape == (5, 7, channels)
    alpha = picture[..., 3:] / 255 if picture.shape[-1] == 4 else np.ones((5, 7, 1))
    if channels == 4:
        assert np.array_equal(got[..., 3:], (alpha * 255).round())
    else:
        picture = picture[..., :3] * alpha + 255 * (1 - alpha)  # laid on white
    weights = {1: [1.0], 3: [0.299, 0.587, 0.114]}[picture[..., :3].shape[-1]]
    expected = (
        picture[..., :3] @ np.array(weights)[:, None] if channels == 1 else np.broadcast_to(picture[..., :3], (5, 7, 3))
    )
    assert np.abs(got[..., :3] - expected).max() <= 1.5


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"images": GRAY}, "must hold an array 'x', or 'x_train' and 'x_test'. There is: images."),
        ({"x": GRAY, "x_train": GRAY}, "There is: x, x_train."),
        ({"x_test": GRAY}, "There is: x_test."),
        ({"x": GRAY / 255}, ":x holds float64 (6, 5, 7): pictures are uint8 (N, H, W) or"),
        ({"x": GRAY.astype(np.int64)}, ":x holds int64 (6, 5, 7)"),
        ({"x": RGB.transpose(0, 3, 1, 2)}, ":x holds uint8 (6, 3, 5, 7)"),
        ({"x": GRAY[0]}, ":x holds uint8 (5, 7)"),
        ({"x": np.uint8(3)}, ":x holds uint8 ()"),
        ({"x": GRAY[:, :0]}, ":x holds uint8 (6, 0, 7)"),
        ({"x": GRAY, "y": np.arange(5)}, ":x has 6 pictures and 5 labels"),
        ({"x_train": GRAY, "x_test": GRAY, "y_test": np.arange(7)}, ":x_test has 6 pictures and 7 labels"),
        ({"x": GRAY, "y": np.arange(6.0)}, ":y holds float64 (6,): labels are whole numbers or strings"),
        ({"x": GRAY, "y": np.eye(6, dtype=int)}, ":y holds int64 (6, 6)"),
        ({"x": GRAY, "y": np.arange(6), "class_names": np.array(["a", "b"])}, "from 0 to 5, and class_names has"),
        ({"x": GRAY, "y": np.arange(6) - 1, "class_names": np.array([*"abcdef"])}, "labels from -1 to 4"),
        ({"x": GRAY, "y": np.zeros(6, int), "class_names": np.array("a")}, "class_names has the shape ()"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "without pickled objects: Object arrays cannot be loaded"),
        ({"x": GRAY, "y": np.array([None] * 6)}, "without pickled objects: Object arrays cannot be loaded"),
    ],
)
def test_wrong_arrays_are_told_with_their_values(named, said, tmp_path):
    assert said in refused(npz(tmp_path, **named))


def test_arrays_of_other_names_are_not_even_loaded(tmp_path):
    assert len(found(npz(tmp_path, x=GRAY, notes=np.array([{}], dtype=object)))) == 6


def test_an_empty_archive_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no sample of the modality 'image'"):
        Source(Image(), npz(tmp_path, x=GRAY[:0]))


def test_damaged_archives(tmp_path):
    whole = npz(tmp_path, x=GRAY, y=np.arange(6)).read_bytes()
    path, generator = tmp_path / "b.npz", np.random.default_rng(0)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert "cannot be read as a NumPy archive" in refused(path)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in generator.integers(len(whole), size=6):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            found(path)
        except UserError as error:
            assert "\n" not in str(error)
    for content in (b"hello", generator.bytes(500)):
        path.write_bytes(content)
        assert "cannot be read" in refused(path)
    with path.open("wb") as file:
        np.save(file, GRAY)
    assert "it holds one array and no names" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no array")
    assert "There is: readme.txt." in refused(path)


# idx


def test_a_folder_like_mnist_has_its_own_split(tmp_path):
    put_idx(tmp_path, "train", GRAY, np.array([3, 1, 4, 1, 5, 9], np.uint8))
    put_idx(tmp_path, "t10k", GRAY[:2], np.array([2, 6], np.uint8))
    (tmp_path / "._train-images-idx3-ubyte.gz").write_bytes(b"")
    samples = found(tmp_path)
    told = {s.key: (s.label, s.split) for s in samples}
    assert len(told) == 8 and told["train/5"] == ("9", "train") and told["test/1"] == ("6", "test")
    (last,) = [s for s in samples if s.key == "train/5"]
    assert np.array_equal(last.read()[0], GRAY[5])


def test_a_file_that_lies_there_unpacked_too_is_taken_once(tmp_path):
    for kind in ("", ".gz"):
        put_idx(tmp_path, "train", GRAY, np.arange(6, dtype=np.uint8), kind)
    assert [s.key for s in found(tmp_path)] == [f"train/{i}" for i in range(6)]


def test_files_of_other_names_in_a_folder_keep_apart(tmp_path):
    for name in ("emnist-digits-train", "emnist-digits-test", "more"):
        put_idx(tmp_path, name, GRAY)
    keys = {s.key: s.split for s in found(tmp_path)}
    assert len(keys) == 18
    assert (
        keys["emnist-digits-train/0"] == "train" and keys["emnist-digits-test/0"] == "test" and keys["more/0"] is None
    )


@pytest.mark.parametrize("kind", ["", ".gz"])
def test_one_file_with_the_labels_beside_it(kind, tmp_path):
    path = put_idx(tmp_path, "train", GRAY, np.arange(6, dtype=np.uint8), kind)
    assert [(s.key, s.label, s.split) for s in found(path)] == [(str(i), str(i), None) for i in range(6)]
    dotted = path.rename(tmp_path / "train-images.idx3-ubyte.gz") if kind else path
    assert found(dotted)[1].label == (None if kind else "1")
    lonely = put_idx(tmp_path, "lonely", GRAY, None, kind)
    assert [s.label for s in found(lonely)] == [None] * 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has 0 bytes and begins with nothing, not 00 00 08 03"),
        (b"\0\0\x08", "it has 3 bytes and begins with 00 00 08, not"),
        (idx(GRAY)[:15], "it has 15 bytes and begins with 00 00 08 03"),
        (idx(GRAY)[:-1], "is damaged: its header says (6, 5, 7), 210 bytes, and 209 follow"),
        (idx(GRAY) + b"\0", "and 211 follow"),
        (b"\0\0\x0d\x03" + idx(GRAY)[4:], "begins with 00 00 0d 03, not 00 00 08 03"),  # floats
        (idx(np.arange(3, dtype=np.uint8)), "3 axes: it has 11 bytes and begins with 00 00 08 01"),
        (b"\0\0\x08\xff" + bytes(2000), "begins with 00 00 08 ff"),
        (b"\0\0\x08\x03" + b"\xff" * 12, f"{(2**32 - 1) ** 3} bytes, and 0 follow"),
    ],
)
def test_wrong_headers_are_told_with_their_values(content, said, tmp_path):
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(content)
    assert said in refused(path)
    packed = tmp_path / "x-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(content))
    assert said in refused(packed)


def test_damaged_gzip(tmp_path):
    path = put_idx(tmp_path, "train", GRAY)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert ("cannot be read: " in refused(path)) or length == 0
    path.write_bytes(idx(GRAY))
    assert "cannot be read: Not a gzipped file" in refused(path)


def test_wrong_labels_beside_it(tmp_path):
    path = put_idx(tmp_path, "train", GRAY, np.arange(5, dtype=np.uint8))
    assert "has 6 pictures and 5 labels" in refused(path)


# Real data


@pytest.mark.parametrize(
    ("folder", "counts"), [("mnist", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])]
)
def test_mnist(folder, counts, data):
    source = Source(Image(Image.Options(channels=1)), data / "images" / folder)
    assert source.labels == tuple("0123456789") and source.has_split
    training, held_out = source.training(), source.held_out()
    assert (len(training), len(held_out)) == (60000, 10000)
    assert [sum(s.label == digit for s in training) for digit in source.labels] == counts
    mean = torch.stack([s.read() for s in training]).float().mean() / 255
    assert mean.item() == pytest.approx(0.1307, abs=5e-5)


def test_fashion_and_cifar(data):
    fashion = Source(Image(), data / "images" / "fashion")
    assert [sum(s.label == label for s in fashion.held_out()) for label in fashion.labels] == [1000] * 10
    cifar = Source(Image(), data / "images" / "cifar10_subset.npz")
    assert cifar.labels == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert (len(cifar.training()), len(cifar.held_out())) == (10000, 2000)
    assert [sum(s.label == label for s in cifar.held_out()) for label in cifar.labels] == [200] * 10
    assert cifar.samples[0].read().shape == (3, 32, 32)
