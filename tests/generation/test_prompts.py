"""What a generator is given: tensors, files, texts, and NAME=VALUE."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.generators import everything
from vqmm.generation.prompts import parse_given, sample_of
from vqmm.utils.errors import UserError


def modality(name):
    return everything().tokenizers[name].modality


def said(value):
    text = modality("text")
    return text.text_of(sample_of(text, value))


def test_a_string_is_a_text_and_a_marked_one_or_a_path_names_a_file(tmp_path):
    file = tmp_path / "word.txt"
    file.write_text("two\nlines\n", encoding="utf-8")
    assert said("seven") == "seven" and said("") == ""
    assert said(str(file)) == str(file), "the name of a file is a text like any other"
    assert said(f"@{file}") == said(file) == "two\nlines"
    assert said("@@home") == "@home" and said("@@@") == "@@"
    assert said(7) == "7"


def test_of_pictures_a_string_is_a_file(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    for value in (tmp_path / "cat.png", str(tmp_path / "cat.png")):
        assert torch.equal(sample_of(modality("image"), value), torch.from_numpy(pixels)[None])
    sample = torch.zeros(1, 3, 5)
    assert sample_of(modality("image"), sample) is sample


def test_files_that_cannot_be_given(tmp_path):
    np.savez(tmp_path / "two.npz", x=np.zeros((2, 8, 8), np.uint8), y=np.zeros(2, np.uint8))
    with pytest.raises(UserError, match=r"two\.npz holds 2 samples of 'image': give a file that holds one"):
        sample_of(modality("image"), tmp_path / "two.npz")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png"):
        sample_of(modality("image"), tmp_path / "bad.png")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"the text .*latin\.txt cannot be read: 'utf-8' codec"):
        said(tmp_path / "latin.txt")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        said(f"@{tmp_path}")


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (1, 1, 8, 8)])
def test_tensors_of_another_shape(shape):
    with pytest.raises(UserError, match=r"'image' of shape .* is given: must be \(1, "):
        sample_of(modality("image"), torch.zeros(shape))


def test_names_and_values_in_their_order():
    assert parse_given(["text=a=b", "label=7"]) == {"text": "a=b", "label": "7"}
    assert list(parse_given(["label=7", "text="])) == ["label", "text"]
    assert parse_given([]) == {}


@pytest.mark.parametrize("given", [["seven"], ["=seven"], [""]])
def test_a_value_without_a_name(given):
    with pytest.raises(UserError, match="write MODALITY=VALUE, such as text=seven"):
        parse_given(given)


def test_a_name_that_comes_twice():
    with pytest.raises(UserError, match=r"given 'text' twice \('a' and 'b'\)"):
        parse_given(["text=a", "text=b"])
