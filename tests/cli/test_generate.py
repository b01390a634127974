"""vqmm generate: what it writes, its page, and what a user's mistake gets."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vqmm as library
from tests.cli.runner import Vqmm
from tests.generators import PICTURE, SOUND, TEXT, speaking, tokenizer
from vqmm.pages.generated import grid_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "joint"
    speaking(tokenizer(PICTURE), tokenizer(SOUND), tokenizer(TEXT)).save(folder / "prior")
    return folder


@pytest.fixture
def kitten(tmp_path):
    file = tmp_path / "kitten.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(file)
    return file


def read(file):
    return np.asarray(Image.open(file))


def test_pictures_from_a_word_and_a_class(vqmm: Vqmm, prior, tmp_path):
    out = tmp_path / "out"
    told = vqmm(
        "generate", prior, "--want", "image", "--given", "text=two", "--given", "label=1", "--count", 11, "--out", out,
        "--guidance", 2, "--top-p", 0.9, "--json",
    ).json  # fmt: skip
    assert sorted(file.name for file in out.iterdir()) == [
        *(f"{i:02}.png" for i in range(11)),
        "grid.png",
        "index.html",
    ]
    assert told["files"] == [str(out / f"{i:02}.png") for i in range(11)] and told["grid"] == str(out / "grid.png")
    assert told["given"] == {"text": "two", "label": "1"} and told["codes"] == 11 * 16
    assert read(out / "00.png").shape == (8, 8)
    made = library.Generator.load(prior)
    draw = library.Draw(guidance=2, top_p=0.9)
    samples = made.generate("image", 11, given={"text": "two", "label": "1"}, draw=draw)
    for place in (0, 10):
        expected = made.tokenizers["image"].modality.as_written(samples[place])
        found = torch.from_numpy(read(out / f"{place:02}.png").copy())[None].float() / 127.5 - 1
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_the_page_shows_what_was_given_above_what_came(vqmm: Vqmm, prior, kitten, tmp_path):
    out = tmp_path / "out"
    given = ("--given", f"image={kitten}", "--given", "text=<b>&", "--given", "label=2")
    finished = vqmm("generate", prior, "--want", "audio", *given, "--count", 2, "--out", out)
    assert finished.code == 0 and f"page: {out / 'index.html'}" in finished.out
    assert {file.name for file in out.iterdir()} == {"0.wav", "1.wav", "index.html"}
    page = (out / "index.html").read_text(encoding="ascii")
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == ["Given: image", "Given: text", "Given: label", "Generated"]
    assert "<title>audio from image and text and label" in page and "&lt;b&gt;&amp;" in page and "<b>&" not in page
    assert page.count("<audio") == 2 and page.index("data:image/png") < page.index("<audio")
    assert "default-src 'none'" in page and not re.search(r'(src|href)="(?!data:)', page)


def test_a_part_is_completed(vqmm: Vqmm, prior, kitten, tmp_path):
    out = tmp_path / "out"
    told = vqmm(
        "generate", prior, "--want", "image", "--complete", kitten, "--keep", 0.5, "--count", 3, "--out", out, "--json"
    ).json
    assert told["codes"] == 3 * 8 and told["keep"] == 0.5 and told["complete"] == str(kitten)
    page = (out / "index.html").read_text()
    assert "the first 50% of its codes were kept" in page
    assert re.findall("<h2>(.*?)</h2>", page) == ["To be completed", "Generated"]
    out = tmp_path / "texts"
    vqmm("generate", prior, "--want", "text", "--complete", "tw", "--keep", 1, "--count", 3, "--out", out)
    assert all((out / f"{i}.txt").read_text().startswith("tw") for i in range(3))


def test_the_page_shows_the_first_of_many(vqmm: Vqmm, prior, tmp_path, monkeypatch):
    assert library.generate
    monkeypatch.setattr(sys.modules["vqmm.commands.generate"], "SHOWN", 3)  # the name in the package is the verb
    vqmm("generate", prior, "--want", "text", "--count", 5, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "3 of 5 samples; all of them are files" in page and page.count("<h3>sample") == 3


def test_a_seed_gives_the_same_and_another_one_others(prior, tmp_path):
    def texts(name, seed):
        told = library.generate(prior, "text", tmp_path / name, count=4, seed=seed)
        return [Path(file).read_text(encoding="utf-8") for file in told["files"]]

    assert texts("a", 1) == texts("b", 1) != texts("c", 2)


def test_rows_of_a_grid_may_be_short():
    modality = tokenizer(PICTURE).modality
    full, short = (grid_of(modality, [torch.zeros(1, 8, 8)] * count) for count in (16, 11))
    assert full.size == short.size
    assert np.asarray(short)[-1, -1].tolist() == [255, 255, 255] != np.asarray(full)[-1, -1].tolist()


GENERATE = ("--want", "image", "--out", "OUT")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--want", "pictures", "--out", "OUT"), "no modality of this prior is called 'pictures'"),
        ((*GENERATE, "--given", "image=cat.png"), "'image' is wanted and given: to go on with a part of it, name it"),
        ((*GENERATE, "--given", "audio=gone.wav"), "there is nothing at gone.wav"),
        ((*GENERATE, "--given", "label=tow"), "no label is called 'tow'. There is: 0, 1, 2."),
        ((*GENERATE, "--given", "seven"), "given 'seven': write MODALITY=VALUE"),
        ((*GENERATE, "--given", "text=a", "--given", "text=b"), "given 'text' twice"),
        ((*GENERATE, "--given", "text=much too long"), "'text' of 13 frames: the vocabulary has room for 1 to 6"),
        ((*GENERATE, "--temperature", "0"), "temperature 0.0: must be above 0"),
        ((*GENERATE, "--top-k", "0"), "top_k 0: must be at least 1"),
        ((*GENERATE, "--top-p", "2"), "top_p 2.0: must be above 0 and at most 1"),
        ((*GENERATE, "--guidance", "2"), "guidance 2.0 without a condition"),
        ((*GENERATE, "--count", "0"), "count 0: how many samples"),
        ((*GENERATE, "--complete", "gone.png"), "there is nothing at gone.png"),
        ((*GENERATE, "--complete", "KITTEN", "--keep", "1"), "nothing is left to be drawn"),
        (
            (*GENERATE, "--complete", "LARGE"),
            "'image' of 8 x 12 is given, and this prior speaks 'image' of 8 x 8 alone",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(vqmm: Vqmm, prior, kitten, tmp_path, arguments, said):
    Image.new("L", (12, 8)).save(tmp_path / "large.png")
    places = {"OUT": tmp_path / "out", "KITTEN": kitten, "LARGE": tmp_path / "large.png"}
    line = vqmm.refuses("generate", prior, *(places.get(each, each) for each in arguments))
    assert said in line
    assert not (tmp_path / "out").exists()


def test_folders_that_will_not_do(vqmm: Vqmm, prior, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    line = vqmm.refuses("generate", prior, "--want", "text", "--out", tmp_path / "full")
    assert "exists already" in line and [*(tmp_path / "full").iterdir()] == [tmp_path / "full" / "mine.txt"]
    assert "holds no prior" in vqmm.refuses("generate", tmp_path, "--want", "text", "--out", tmp_path / "out")


def test_a_name_that_is_no_utf8_is_said(prior, tmp_path, kitten):
    strange = tmp_path / "k\udce9tten.png"
    kitten.rename(strange)
    told = library.generate(prior, "text", tmp_path / "out", given={"image": strange}, count=1)
    json.dumps(told)
    assert (tmp_path / "out" / "index.html").read_text(encoding="ascii")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_the_page_asks_nothing_of_a_network_and_the_console_is_silent(prior, kitten, tmp_path):
    told = library.generate(prior, "audio", tmp_path / "out", given={"image": kitten, "text": "one"}, count=2)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=3000",
        "--dump-dom",
        f"file://{told['page']}",
    ]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in seen.stderr and "Generated" in seen.stdout
