"""What `vqmm eval` prints of a prior's run."""

import json

import numpy as np
import pytest

from tests.generators import PICTURE, TEXT, WORDS, speaking, tokenizer
from vqmm.cli.coherence import judge_prior, paths_by_name
from vqmm.errors import UserError
from vqmm.generator import holds_prior


@pytest.fixture
def run(tmp_path):
    speaking(tokenizer(PICTURE), tokenizer(TEXT), label=True).save(tmp_path / "run" / "prior")
    pictures = np.repeat(np.arange(3), 4)[:, None, None] * np.full((12, 8, 8), 90)
    np.savez(tmp_path / "digits.npz", x=pictures.astype(np.uint8), y=np.repeat(np.arange(3), 4).astype(np.uint8))
    rows = "".join(f"{word},{label}\n" for label, word in enumerate(WORDS))
    (tmp_path / "words.csv").write_text("text,label\n" + rows)
    return tmp_path / "run"


def test_the_matrix_with_intervals_and_controls(run, capsys):
    data = [f"image={run.parent / 'digits.npz'}", f"text={run.parent / 'words.csv'}"]
    judge_prior(run, data, (), as_json=False)
    out = capsys.readouterr().out
    rows = [line.split()[0] for line in out.splitlines()[1:4]]
    assert rows == ["label", "image", "text"] and "to image" in out and out.count("control ") >= 4
    assert "chance: 33.3%" in out and "judge of text: the same ids" in out and "held-out text: all of it" in out


def test_paths_have_names():
    assert paths_by_name(["image=a=b", "text=c"]) == {"image": "a=b", "text": "c"}
    for data in (["digits/"], ["=digits"], ["image="], ["image=a", "image=b"]):
        with pytest.raises(UserError, match="of a prior give MODALITY=PATH, once for each"):
            paths_by_name(data)


def test_a_prior_is_known_by_its_vocabulary(run, tmp_path):
    assert holds_prior(run) and holds_prior(run / "prior") and not holds_prior(tmp_path)
    assert json.loads((run / "prior" / "vocabulary.json").read_text())["format"] == 1
