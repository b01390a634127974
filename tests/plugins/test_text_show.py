"""Texts for the eye: nothing of them is lost or becomes markup, and what differs is marked."""

import random
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from vqmm.plugins.text.show import LONGEST, SPARE, STYLE, differences, show_text
from vqmm.utils.errors import UserError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def ids(text: str) -> torch.Tensor:
    return torch.tensor([[ord(character) for character in text]], dtype=torch.int64).reshape(1, len(text))


def text_of(sample: torch.Tensor) -> str:
    return "".join(map(chr, sample.flatten().tolist()))


class Read(HTMLParser):
    """What a browser would show: the text of every <pre>, with the marks in it, and the captions."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.marked: list[list[str]] = []
        self.captions: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "pre":
            self.texts.append("")
            self.marked.append([])
        elif tag == "mark" and self.tags.count("pre"):
            self.marked[-1].append("lost:" if ("class", "lost") in attrs else "")
        elif tag == "p":
            self.captions.append("")

    def handle_endtag(self, tag):
        while self.tags.pop() != tag:
            raise AssertionError(f"</{tag}> closes nothing")

    def handle_data(self, data):
        if "pre" in self.tags:
            self.texts[-1] += data
            if self.tags[-1] == "mark":
                self.marked[-1][-1] += data
        elif self.tags and self.tags[-1] == "p":
            self.captions[-1] += data


def shown(*rows, names=None) -> Read:
    html = show_text([[*map(ids, row)] for row in rows], text_of, names)
    assert html.isascii()
    found = Read(html.removeprefix(STYLE))
    found.texts = [text.removeprefix("\n") for text in found.texts]  # as a browser drops it
    assert not found.tags
    return found


def test_the_same_text_has_no_marks_and_comes_whole():
    text = "\nOne <b>two</b> & \"three\" 'four'\n  先帝\ttab \U0001f600 "
    found = shown([text, ""], [text, ""])
    assert found.texts == [text, text, "", ""]
    assert found.marked == [[], [], [], []]
    assert found.captions[1:3] == [f"original, {len(text)} characters", f"reconstruction, {len(text)} characters"]


def test_what_differs_is_marked_in_both():
    found = shown(["the cat sat"], ["the car sat"])
    assert found.texts == ["the cat sat", "the car sat"]
    assert found.marked == [["lost:t"], ["r"]]


def test_a_bar_stands_where_nothing_does():
    assert shown(["abcd"], ["ad"]).marked == [["lost:bc"], ["lost:"]]
    assert shown(["ad"], ["abcd"]).marked == [[], ["bc"]]


def test_white_space_is_visible_where_it_differs():
    found = shown(["a b\tc\nd e"], ["axbxcxd e"])
    assert found.marked[0] == ["lost:\u2423", "lost:\u2192\t", "lost:\u21b5\n"]
    assert found.texts[0] == "a\u2423b\u2192\tc\u21b5\nd e"
    assert found.texts[1] == "axbxcxd e"


def test_markup_in_a_mark_stays_text():
    found = shown(["a<b>&amp;"], ["a<script>&lt;"])
    assert found.texts == ["a<b>&amp;", "a<script>&lt;"]


@pytest.mark.parametrize("character", ["\0", "\x1a", "\r", "\x7f", "\x85", "\u202e", "\u200b", "\u2028", "\ufeff"])
def test_what_has_no_shape_has_a_name(character):
    name = f"\\u{ord(character):04x}"
    assert shown([f"a{character}b"], [f"a{character}c"]).texts == [f"a{name}b", f"a{name}c"]


def test_long_texts_are_cut_and_said_to_be():
    text = "".join(random.Random(0).choices("abcdefgh ", k=3 * LONGEST))
    found = shown([text, "short"], [text[5:], "short"])
    assert found.captions[1:3] == [
        f"original, the first {LONGEST} of {3 * LONGEST:,} characters",
        f"reconstruction, the first {LONGEST} of {3 * LONGEST - 5:,} characters",
    ]
    assert found.captions[3] == "original, 5 characters"
    # a shift is no difference at the end of what is shown
    assert [*map(len, found.marked[:2])] == [1, 1]
    assert found.texts[1] == text[5 : 5 + LONGEST]
    assert len(found.texts[0].replace("\u2423", " ")) == LONGEST
    assert shown(["x" * LONGEST], ["x"]).captions[1] == f"original, {LONGEST} characters"
    assert shown(["x"]).captions == ["text, 1 character"]


def test_pieces_make_up_the_texts():
    draw = random.Random(1)
    for _ in range(50):
        one, other = ("".join(draw.choices("ab \n", k=draw.randrange(60))) for _ in range(2))
        ours, theirs = differences(one, other)
        assert "".join(part for part, _ in ours) == one and "".join(part for part, _ in theirs) == other
        kept = ["".join(part for part, differs in side if not differs) for side in (ours, theirs)]
        assert kept[0] == kept[1]
    assert sum(len(part) for part, _ in differences("x" * 9000, "y")[0]) == LONGEST + SPARE


def test_one_row_has_no_marks_and_several_reconstructions_are_held_against_the_first():
    assert shown(["ab", "cd"]).texts == ["ab", "cd"] and shown(["ab"]).marked == [[]]
    found = shown(["abc"], ["abX"], ["Xbc"])
    assert found.texts == ["abc", "abX", "Xbc"]
    assert found.marked == [[], ["X"], ["X"]]
    assert [caption.split(",")[0] for caption in found.captions[1:]] == [
        "original",
        "reconstruction 1",
        "reconstruction 2",
    ]
    assert shown(["a"], ["b"], names=["<one>", "two"]).captions[1] == "<one>, 1 character"


def test_nothing_to_show_is_said():
    for rows in ([], [[]], [[], []]):
        assert "No samples." in show_text(rows, text_of)


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="rows of 2, 1 samples"):
        show_text([[ids("a"), ids("b")], [ids("a")]], text_of)
    with pytest.raises(UserError, match=r"1 names \(one\) for 2 rows"):
        show_text([[ids("a")], [ids("b")]], text_of, ["one"])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_long_line_does_not_widen_the_page(tmp_path):
    html = show_text([[ids("x" * 500)], [ids("x" * 250 + " y " + "x" * 247)]], text_of)
    told = "<script>addEventListener('load', () => document.title = document.documentElement.scrollWidth)</script>"
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><title></title>{told}<body style='margin: 0'>{html}")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=700,900", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (width,) = re.findall(r"<title>(\d+)</title>", seen)
    assert int(width) <= 700
