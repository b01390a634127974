"""Fronts on disk and in other processes: kept, read back, refused, the same everywhere."""

import hashlib
import json
import pickle
import subprocess
import sys

import pytest

from tests.fronts import AWKWARD, EVERY, FRONTS, TEXTS, mistaken, runs_as
from vqmm.plugins.text import front as fronts
from vqmm.plugins.text.front import (
    CharacterFront,
    FrontKind,
    SubwordFront,
    load_front,
    make_front,
)

# Kept and read back


@EVERY
def test_a_saved_front_gives_the_same_ids(name, tmp_path):
    front = FRONTS[name]
    front.save(tmp_path / "new" / "folder")
    for back in (load_front(tmp_path / "new" / "folder"), type(front).load(tmp_path / "new" / "folder")):
        assert type(back) is type(front) and back.size == front.size and back.pieces == front.pieces
        for text in (*AWKWARD, *TEXTS[:10]):
            assert back.encode(text) == front.encode(text)
    load_front(tmp_path / "new" / "folder").save(tmp_path / "again")
    first, second = tmp_path / "new" / "folder", tmp_path / "again"
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


@EVERY
def test_fronts_travel_to_workers(name):
    back = pickle.loads(pickle.dumps(FRONTS[name]))
    assert back.encode("the café ▁") == FRONTS[name].encode("the café ▁")


def test_a_folder_without_a_front_is_named(tmp_path):
    assert "front.json" in mistaken(load_front, tmp_path)
    assert "front.json" in mistaken(load_front, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"bytes"',
        "{}",
        '{"kind": 3}',
        '{"kind": ["bytes"]}',
        '{"kind": "byte"}',
        '{"kind": "characters"}',
        '{"kind": "characters", "characters": "abc"}',
        '{"kind": "characters", "characters": ["a", "a"]}',
        '{"kind": "characters", "characters": ["ab"]}',
        '{"kind": "characters", "characters": [""]}',
        '{"kind": "characters", "characters": [5]}',
        '{"kind": "characters", "characters": [["a"]]}',
        '{"kind": "characters", "characters": ["\\ud800"]}',
        '{"kind": "subwords"}',
    ],
)
def test_a_damaged_description_is_refused(tmp_path, text):
    (tmp_path / "front.json").write_text(text)
    mistaken(load_front, tmp_path)


def test_a_description_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "front.json").write_bytes(b"\xff\xfe{}")
    assert "damaged" in mistaken(load_front, tmp_path)


def test_a_model_that_is_damaged_missing_or_another_is_refused(tmp_path):
    FRONTS["subwords"].save(tmp_path)
    model = (tmp_path / "front.model").read_bytes()
    for wrong in (b"", model[:-1], model[: len(model) // 2], FRONTS["bpe"]._model):
        (tmp_path / "front.model").write_bytes(wrong)
        assert "front.model is damaged" in mistaken(load_front, tmp_path)
    (tmp_path / "front.model").unlink()
    assert "front.model" in mistaken(load_front, tmp_path)


def test_a_front_of_another_kind_is_not_loaded(tmp_path):
    FRONTS["characters"].save(tmp_path)
    said = mistaken(SubwordFront.load, tmp_path)
    assert "'characters'" in said and "'subwords'" in said
    assert json.loads((tmp_path / "front.json").read_text())["characters"] == list(FRONTS["characters"].characters)


# The same texts give the same front


TRAINED = """
import hashlib, sys
from vqmm.plugins.text.front import make_front
texts = sys.stdin.read().split(chr(7))
for method in sys.argv[1:]:
    front = make_front("subwords", 340, iter(texts), method)
    print(hashlib.sha256(front._model).hexdigest())
"""


def test_the_same_texts_give_the_same_model_in_another_process_too():
    """One that hashes strings otherwise and has two threads."""
    expected = {"unigram": FRONTS["subwords"]._model, "bpe": FRONTS["bpe"]._model}
    for method, model in expected.items():
        assert make_front("subwords", 340, iter(TEXTS), method)._model == model
    done = subprocess.run(
        [sys.executable, "-c", TRAINED, *expected],
        input="\a".join(TEXTS).encode(),
        capture_output=True,
        env={"PYTHONHASHSEED": "2", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == [hashlib.sha256(model).hexdigest() for model in expected.values()]
    assert done.stderr == b""  # training prints nothing


@pytest.mark.parametrize("name", ["subwords", "bpe"])
def test_a_model_is_trained_by_one_thread_on_every_machine(name):
    """It records the number (field 16 of the trainer's part of the file), so its bytes would differ by machine."""
    assert b"\x80\x01\x01" in FRONTS[name]._model


def test_characters_do_not_depend_on_the_order_of_the_texts():
    assert make_front("characters", 290, iter(TEXTS[::-1])).pieces == FRONTS["characters"].pieces


# Without the library


def test_without_sentencepiece_the_other_kinds_work_and_subwords_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    runs_as(make_front("characters", None, iter(["ab"])), "abc")
    assert "pip install sentencepiece" in mistaken(make_front, "subwords", 300, iter(TEXTS))


def test_a_front_is_made_by_its_kinds_alone():
    with pytest.raises(TypeError):
        FrontKind((b"",))
    assert list(fronts.FRONTS) == ["bytes", "characters", "subwords"]
    assert isinstance(FRONTS["characters"], CharacterFront)
