"""`vqmm coherence`: what it prints of a joint prior, and what it refuses."""

import json

import numpy as np
import pytest

from tests.generators import PICTURE, TEXT, WORDS, speaking, tokenizer
from vqmm.cli.coherence import paths_by_name
from vqmm.generation.generator import holds_prior
from vqmm.utils.errors import UserError


@pytest.fixture
def joint(tmp_path):
    speaking(tokenizer(PICTURE), tokenizer(TEXT), label=True).save(tmp_path / "run" / "prior")
    pictures = np.repeat(np.arange(3), 4)[:, None, None] * np.full((12, 8, 8), 90)
    np.savez(tmp_path / "digits.npz", x=pictures.astype(np.uint8), y=np.repeat(np.arange(3), 4).astype(np.uint8))
    rows = "".join(f"{word},{label}\n" for label, word in enumerate(WORDS))
    (tmp_path / "words.csv").write_text("text,label\n" + rows)
    return tmp_path / "run"


@pytest.fixture
def data(joint):
    return ["--data", f"image={joint.parent / 'digits.npz'}", "--data", f"text={joint.parent / 'words.csv'}"]


def test_the_matrix_with_intervals_and_controls(vqmm, joint, data):
    out = vqmm("coherence", joint, *data).out
    rows = [line.split()[0] for line in out.splitlines()[1:4]]
    assert rows == ["label", "image", "text"] and "to image" in out and out.count("control ") >= 4
    assert "chance: 33.3%" in out and "classifier of text: the same ids" in out and "held-out text: all of it" in out


def test_the_same_for_programs(vqmm, joint, data):
    told = vqmm("coherence", joint, *data, "--json").json
    assert set(told["coherence"]) == {"label", "image", "text"} == {*told["classifiers"], "label"}
    assert told["control"]["image"].keys() == {"text"} and told["data"]["text"].endswith("words.csv")


def test_each_judge_names_the_other(vqmm, joint, data, run, pictures):
    said = vqmm.refuses("eval", joint, "--data", pictures)
    assert f"holds a prior, and eval is for tokenizers: vqmm coherence {joint} --data MODALITY=PATH" in said
    assert "holds no prior" in vqmm.refuses("coherence", run, *data)


def test_samples_are_drawn_as_it_is_told(vqmm, joint, data):
    assert vqmm("coherence", joint, *data, "--count", 6, "--guidance", 2, "--top-p", 0.5, "--json").json["count"] == 6
    assert "count 2: take one sample" in vqmm.refuses("coherence", joint, *data, "--count", 2)
    assert "top_k 1" in vqmm.refuses("coherence", joint, *data, "--top-k", 1)


def test_data_must_have_the_name_of_a_modality(vqmm, joint):
    picture = joint.parent / "digits.npz"
    assert f"data {str(picture)!r}: give MODALITY=PATH" in vqmm.refuses("coherence", joint, "--data", picture)
    said = vqmm.refuses("coherence", joint, "--data", f"imgae={picture}")
    assert "data for 'imgae': this prior speaks image, text" in said


def test_paths_have_names():
    assert paths_by_name(["image=a=b", "text=c"]) == {"image": "a=b", "text": "c"}
    for data in (["digits/"], ["=digits"], ["image="], ["image=a", "image=b"]):
        with pytest.raises(UserError, match="give MODALITY=PATH, once for each"):
            paths_by_name(data)


def test_a_prior_is_known_by_its_vocabulary(joint, tmp_path):
    assert holds_prior(joint) and holds_prior(joint / "prior") and not holds_prior(tmp_path)
    assert json.loads((joint / "prior" / "vocabulary.json").read_text())["format"] == 1
