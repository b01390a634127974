"""Text to ids and back: exact for every text, in every kind; what is learnt, kept, refused and said."""

import gzip
import warnings

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fronts import AWKWARD, EVERY, FRONTS, LEARNT, METHOD, TEXTS, mistaken, quietly, runs_as
from vqmm.plugins.text import front as fronts
from vqmm.plugins.text.front import (
    ByteFront,
    cut,
    escape,
    make_front,
    unescape,
)
from vqmm.utils.errors import Remark, UserError

# Every text comes back


@EVERY
@settings(deadline=None, max_examples=300)
@given(text=st.text())
def test_any_text_comes_back(name, text):
    runs_as(FRONTS[name], text)


@EVERY
@settings(deadline=None, max_examples=200)
@given(text=st.text(st.sampled_from("the cat \u2581\u2585\x1a\0015\n\r\té<>x漢")))
def test_any_text_of_awkward_characters_comes_back(name, text):
    runs_as(FRONTS[name], text)


@EVERY
@pytest.mark.parametrize("text", AWKWARD, ids=ascii)
def test_awkward_text_comes_back(name, text):
    runs_as(FRONTS[name], text)
    runs_as(FRONTS[name], f"the{text}cat {text}")


@METHOD
def test_a_front_trained_on_awkward_text_is_lossless_too(method):
    front = quietly("subwords", 600, [*AWKWARD * 20, "<pad> <unk> <0x41> " * 30], method)
    for text in AWKWARD:
        runs_as(front, text)


@LEARNT
def test_a_front_that_has_seen_next_to_nothing_is_lossless(kind, method):
    """No space among others, which sentencepiece itself brings back as U+2581 then."""
    front = quietly(kind, 300, ["ab"], method)
    for text in (*AWKWARD, *TEXTS):
        runs_as(front, text)


@EVERY
def test_every_character_of_unicode_comes_back(name):
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 7)]))
    runs_as(FRONTS[name], text)


@EVERY
def test_no_text_is_no_id(name):
    assert FRONTS[name].encode("") == [] and FRONTS[name].decode([]) == ""


@settings(deadline=None)
@given(text=st.text(st.sampled_from("\u2581\u2585\x1a\00015a ")))
def test_escapes_come_back_and_hide_what_sentencepiece_cannot_carry(text):
    escaped = escape(text)
    assert unescape(escaped) == text
    assert not set(escaped) & set("\u2581\u2585\0")


def test_real_text_comes_back_in_fewer_ids(data):
    text = (data / "text" / "tinyshakespeare.txt").read_bytes().decode()[:200_000]
    front = make_front("subwords", 1024, iter(text.splitlines(keepends=True)))
    assert front.size == 1024
    assert len(runs_as(front, text)) < 0.5 * len(text)


@pytest.mark.parametrize("name", ["zh_wiki", "zh_technical", "zh_classics"])
def test_chinese_comes_back_with_characters_never_seen(data, name):
    text = gzip.decompress((data / "text" / f"{name}.txt.gz").read_bytes()).decode()
    seen = text[:20_000]
    assert set(text) - set(seen), "every character was seen in training: the test needs some that were not"
    for kind, size in (("characters", 1024), ("subwords", 4096)):
        front = quietly(kind, size, seen.splitlines())
        ids = runs_as(front, text[:200_000])
        assert any(front.pieces[id] in fronts.BYTES[0x80:] for id in ids)  # the fallback was used


# What is refused


@EVERY
def test_a_lone_surrogate_is_named_by_its_position(name):
    said = mistaken(FRONTS[name].encode, "the cat\ud83d sat")
    assert "position 7" in said and "U+D83D" in said


@LEARNT
def test_a_lone_surrogate_in_training_names_its_text(kind, method):
    said = mistaken(make_front, kind, 300, iter(["good", "", "b\udc00"]), method)
    assert "text 3" in said and "position 1" in said


@EVERY
@pytest.mark.parametrize("wrong", [b"bytes", None, 3])
def test_what_is_no_text_is_refused(name, wrong):
    assert type(wrong).__name__ in mistaken(FRONTS[name].encode, wrong)


@EVERY
def test_ids_out_of_range_are_refused(name):
    front = FRONTS[name]
    for wrong in (-1, front.size, 10**9):
        said = mistaken(front.decode, [1, wrong, 2])
        assert str(wrong) in said and str(front.size - 1) in said
    with pytest.raises(TypeError):
        front.decode([1.5])


def test_an_unknown_kind_gets_the_nearest_name():
    assert "Did you mean 'subwords'" in mistaken(make_front, "subword", 300, iter(TEXTS))


@LEARNT
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_an_empty_training_text_is_refused(kind, method, texts):
    assert "training text is empty" in mistaken(make_front, kind, 300, iter(texts), method)


@METHOD
def test_a_training_text_of_line_ends_alone_is_refused(method):
    assert "line ends" in mistaken(make_front, "subwords", 300, iter(["\n", "\r\n\n"]), method)


def test_an_error_of_the_iterator_reaches_the_caller():
    def broken():
        yield "good"
        raise UserError("line 2 is damaged")

    for kind in ("characters", "subwords"):
        assert mistaken(make_front, kind, 300, broken()) == "line 2 is damaged"


# Any ids are some text


@EVERY
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_ids_decode_to_some_text(name, data):
    front = FRONTS[name]
    text = front.decode(data.draw(st.lists(st.integers(0, front.size - 1))))
    text.encode()  # no surrogates
    runs_as(front, text)


@EVERY
def test_many_random_ids_decode_from_lists_and_arrays(name):
    front = FRONTS[name]
    ids = np.random.default_rng(0).integers(0, front.size, 100_000)
    assert front.decode(ids) == front.decode(ids.tolist())


@EVERY
def test_pads_are_left_out_and_bytes_that_are_no_text_are_replaced(name):
    front = FRONTS[name]
    ids = front.encode("the é")
    padded = [front.pad, *[id for each in ids for id in (each, front.pad)]]
    assert front.decode(padded) == "the é"
    half = front.pieces.index(b"\xc3")
    assert front.decode([*ids, half, *ids]) == "the é\ufffdthe é"


@pytest.mark.parametrize("name", ["subwords", "bpe"])
def test_unknown_and_half_an_escape_are_replaced(name):
    front = FRONTS[name]
    assert front.decode([1]) == "\ufffd" and 1 not in front.encode("".join(AWKWARD))
    escape_byte, a = front.pieces.index(b"\x1a"), front.pieces.index(b"a")
    assert front.decode([escape_byte]) == "\ufffd"
    assert front.decode([escape_byte, a]) == "\ufffda"


@pytest.mark.parametrize("name", ["subwords", "bpe"])
def test_decode_agrees_with_sentencepiece(name):
    front = FRONTS[name]
    processor = sentencepiece.SentencePieceProcessor(model_proto=front._model)
    for text in (*TEXTS[:20], "日本 and ünseen 漢字", "  spaces  "):
        assert front.decode(front.encode(text)) == processor.decode(front.encode(text)) == text


# What is learnt


def test_the_pad_and_bytes_come_first():
    assert ByteFront().size == 257
    assert ByteFront().encode("Aé") == [66, 0xC3 + 1, 0xA9 + 1]
    for name in ("bytes", "characters"):
        assert FRONTS[name].pieces[:257] == (b"", *fronts.BYTES)
    for name in ("subwords", "bpe"):
        assert FRONTS[name].pieces[2:258] == fronts.BYTES
    assert all(front.pad == 0 and front.pieces[0] == b"" for front in FRONTS.values())


def test_characters_are_the_most_frequent_first_and_ties_go_by_code_point():
    texts = ["bbb", "ccc", "aa", "z", "yy"]
    assert make_front("characters", None, iter(texts)).characters == ("b", "c", "a", "y", "z")
    capped = make_front("characters", 260, iter(texts))
    assert capped.characters == ("b", "c", "a") and capped.size == 260
    assert capped.encode("azb") == [259, ord("z") + 1, 257]


def test_subwords_are_whole_words_of_the_text():
    for name in ("subwords", "bpe"):
        front = FRONTS[name]
        assert front.size == 340 and b" the" in front.pieces
        assert len(front.encode(TEXTS[0])) < 0.6 * len(TEXTS[0])


def test_runs_of_spaces_and_line_ends_can_be_pieces():
    front = quietly("subwords", 300, ["if x:\n        y = 1\n        z = 2"] * 50)
    assert any(len(piece) > 1 and not piece.strip(b" ") for piece in front.pieces[258:])
    assert any(b"\n" in piece for piece in front.pieces[258:])


@METHOD
@pytest.mark.parametrize("character", ["a", "é", "漢", "\U0001f469", "\u2581", "\x1a"])
def test_long_items_are_learnt_from(method, character):
    """The trainer drops an item over 4,192 bytes, as all of these are, and says nothing."""
    front = quietly("subwords", 300, ["x" + character * 5000 + "yz"], method)
    assert b"x" in front.pieces[258:] and b"z" in front.pieces[258:]
    assert len(runs_as(front, character * 160)) <= 40


@METHOD
@pytest.mark.parametrize("odd", ["\u2585", "\0", "\u2581", "\x1a"])
def test_no_item_is_dropped_for_a_character(method, odd):
    front = quietly("subwords", 300, [f"{odd}qqqq{odd}"] * 10, method)
    assert b"q" in front.pieces[258:]


@settings(deadline=None)
@given(text=st.text(), longest=st.integers(4, 20))
def test_a_cut_text_is_whole(text, longest):
    parts = list(cut(text, longest))
    assert "".join(parts) == text
    sizes = [len(part.encode()) for part in parts]
    assert all(0 < size <= longest for size in sizes)
    assert all(size > longest - 4 for size in sizes[:-1])  # no shorter than a character asks for


def test_every_character_of_the_training_text_is_a_piece():
    """Coverage 1.0: one that occurs once in a long text too."""
    front = make_front("subwords", 340, iter([*TEXTS * 20, "seen once: ѫ"]))
    assert "ѫ".encode() in front.pieces


# Sizes


@LEARNT
def test_a_vocabulary_that_the_text_cannot_fill_is_said_and_reached(kind, method):
    with pytest.warns(Remark) as caught:
        front = make_front(kind, 5000, iter(TEXTS), method)
    assert front.size < 5000
    assert len(caught) == 1 and caught[0].filename == __file__
    said = str(caught[0].message)
    assert str(front.size) in said and "5000" in said and "\n" not in said
    runs_as(front, TEXTS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_front(kind, front.size, iter(TEXTS), method).size == front.size


@METHOD
def test_the_least_size_is_named_and_enough(method):
    texts = ["hello world\n", "tab\tbed\n"]
    assert "take at least 270" in mistaken(make_front, "subwords", 269, iter(texts), method)
    assert make_front("subwords", 270, iter(texts), method).size == 270


@METHOD
@pytest.mark.parametrize("size", [0, -5, 257])
def test_sizes_below_the_bytes_are_refused(method, size):
    assert str(size) in mistaken(make_front, "subwords", size, iter(["ab"]), method)
    assert str(size) in mistaken(make_front, "characters", size, iter(["ab"]))


def test_other_impossible_sizes_are_refused():
    assert "2048" in mistaken(make_front, "subwords", None, iter(TEXTS))
    assert str(2**40) in mistaken(make_front, "subwords", 2**40, iter(TEXTS))
