"""Fronts of every kind, learnt from a few texts, and texts that are hard to bring back."""

import random
import warnings

import pytest

from vqmm.plugins.text.front import make_front
from vqmm.utils.errors import Remark, UserError

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")

WORDS = [
    "the",
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "house",
    "of",
    "king",
    "stands",
    "in",
    "rain",
    "while",
    "small",
]
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=12)).capitalize() + "." for i in range(200)]
TEXTS += [
    "  indented\twith a tab\r\n\r\nénough, naïve café\n",
    "日本語の文章と漢字",
    "one ▁ and ▅ and \x1a and \0 here",
] * 5
FRONTS = {
    "bytes": make_front("bytes", None, iter(())),
    "characters": make_front("characters", 290, iter(TEXTS)),
    "subwords": make_front("subwords", 340, iter(TEXTS)),
    "bpe": make_front("subwords", 340, iter(TEXTS), "bpe"),
}
EVERY = pytest.mark.parametrize("name", FRONTS)
LEARNT = pytest.mark.parametrize(
    "kind, method", [("characters", "unigram"), ("subwords", "unigram"), ("subwords", "bpe")]
)
METHOD = pytest.mark.parametrize("method", ["unigram", "bpe"])
AWKWARD = [
    "",
    " ",
    " leading",
    "trailing ",
    "  two  and   three  ",
    "\t\ttabs\t",
    "\n",
    "\r\n",
    "lines\nof\r\nthree\rkinds\n",
    "\x0b\x0c\x1c\x85\u2028\u2029",
    "\xa0\u2002\u3000 other spaces \u200b",
    "\ufeffa byte order mark\ufeff",
    "caf\xe9 cafe\u0301 \ufb01 \u1e9b\u0323 \u212b",  # none of them may be normalised
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "\u2581",
    "\u2581 \u2581\u2581 \u2585 x\u2585",
    "\0",
    "a\0b\0",
    "\x1a",
    "\x1a0\x1a1\x1a5\x1a\x1a\x1a",
    "\ue000\uf8ff\U000f0000\U0010ffff",
    "\ufffd\ufffe\uffff\ufdd0",
    "漢字かな交じり文 한국어 简体",
    "<pad><unk><0x41><s></s>",
    "⁇ \u2047",
]


def mistaken(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def quietly(kind, size, texts, method="unigram"):
    """A front for a text too small for the size, which is not the point of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)
        return make_front(kind, size, iter(texts), method)


def runs_as(front, text):
    """The text comes back, from ids that are in range and no pad."""
    ids = front.encode(text)
    assert all(type(id) is int and 0 < id < front.size for id in ids)
    assert front.decode(ids) == text
    return ids
