"""What `vqmm eval` prints of a prior's run."""

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
    out = vqmm("eval", joint, *data).out
    rows = [line.split()[0] for line in out.splitlines()[1:4]]
    assert rows == ["label", "image", "text"] and "to image" in out and out.count("control ") >= 4
    assert "chance: 33.3%" in out and "judge of text: the same ids" in out and "held-out text: all of it" in out


def test_the_same_for_programs(vqmm, joint, data):
    told = vqmm("eval", joint, *data, "--json").json
    assert set(told["coherence"]) == {"label", "image", "text"} == {*told["judges"], "label"}
    assert told["control"]["image"].keys() == {"text"} and told["data"]["text"].endswith("words.csv")


@pytest.mark.parametrize("option", [["--whole"], ["--labels"], ["--realism"], ["--stages", 1], ["--show", "page"]])
def test_options_of_tokenizers_are_refused(vqmm, joint, data, option):
    assert "are for tokenizers" in vqmm.refuses("eval", joint, *data, *option)


def test_samples_are_drawn_as_it_is_told(vqmm, joint, data):
    assert vqmm("eval", joint, *data, "--count", 6, "--guidance", 2, "--top-p", 0.5, "--json").json["count"] == 6
    assert "count 2: take one sample" in vqmm.refuses("eval", joint, *data, "--count", 2)
    assert "top_k 1" in vqmm.refuses("eval", joint, *data, "--top-k", 1)


def test_data_must_have_the_name_of_a_modality(vqmm, joint):
    picture = joint.parent / "digits.npz"
    assert f"data {str(picture)!r}: of a prior give MODALITY=PATH" in vqmm.refuses("eval", joint, "--data", picture)
    said = vqmm.refuses("eval", joint, "--data", f"imgae={picture}")
    assert "data for 'imgae': this prior speaks image, text" in said


def test_a_tokenizer_is_judged_on_one_source(vqmm, run, pictures):
    said = vqmm.refuses("eval", run, "--data", pictures, "--guidance", 2, "--top-k", 3)
    assert "holds a tokenizer: --top-k, --guidance is for priors" in said
    assert "is judged on one source" in vqmm.refuses("eval", run, "--data", pictures, "--data", pictures)


def test_paths_have_names():
    assert paths_by_name(["image=a=b", "text=c"]) == {"image": "a=b", "text": "c"}
    for data in (["digits/"], ["=digits"], ["image="], ["image=a", "image=b"]):
        with pytest.raises(UserError, match="of a prior give MODALITY=PATH, once for each"):
            paths_by_name(data)


def test_a_prior_is_known_by_its_vocabulary(joint, tmp_path):
    assert holds_prior(joint) and holds_prior(joint / "prior") and not holds_prior(tmp_path)
    assert json.loads((joint / "prior" / "vocabulary.json").read_text())["format"] == 1
