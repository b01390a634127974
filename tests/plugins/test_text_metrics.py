"""Metrics of text: against formulas and libraries, whatever the batches are, and where nothing can be compared."""

import math
import random
import sys
from itertools import pairwise

import pytest
import torch
from torchmetrics.functional.text import char_error_rate, rouge_score

from vqmm.evaluation.evaluate import alike, figure
from vqmm.plugins.text.metrics import (
    TextLabelClassifier,
    common_subsequence,
    edit_distance,
    kept_characters,
    rouge_l,
    text_metrics,
    words,
)
from vqmm.utils.errors import UserError

PAIRS = [  # outputs and originals of one number of ids each, as a parallel decoder gives them
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("the dog sat in the hat.", "the cat sat on the mat."),
    ("a rose is a rosy is a rose", "a rose is a rose is a rose"),
    ("", ""),
    ("zzz", "who"),
]

JUDGED = ("token_accuracy", "line_accuracy", "char_accuracy", "bleu", "rouge_l")


def ids(text: str) -> torch.Tensor:
    return torch.tensor([[ord(character) for character in text]], dtype=torch.int64).reshape(1, len(text))


def text_of(sample: torch.Tensor) -> str:
    """Characters are ids; 1 stands for two of them and 0 for none, so texts of as many ids differ in length."""
    assert sample.dtype == torch.int64 and sample.ndim <= 2
    return "".join({0: "", 1: "ab"}.get(id, chr(id)) for id in sample.flatten().tolist())


def judged(pairs, size=2):
    """Values and rules, the pairs given in batches of that size."""
    found = {}
    for name, metric in text_metrics(text_of).items():
        for start in range(0, len(pairs), size):
            outputs, originals = zip(*pairs[start : start + size], strict=True)
            for some in alike([*map(ids, outputs)], [*map(ids, originals)]):
                metric.update(*some)
        found[name] = figure(metric)
    return {name: value for name, (value, _) in found.items()}, {name: rule for name, (_, rule) in found.items()}


def table(one, other) -> int:
    """The edit distance as every textbook has it."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        new = [i]
        for j, b in enumerate(other, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (a != b)))
        row = new
    return row[-1]


def subsequence(one, other) -> int:
    row = [0] * (len(other) + 1)
    for a in one:
        new = [0]
        for j, b in enumerate(other, 1):
            new.append(row[j - 1] + 1 if a == b else max(row[j], new[-1]))
        row = new
    return row[-1]


# What the figures are


def test_a_perfect_reconstruction_has_the_best_of_every_figure():
    texts = ["One two three four, five.", "先帝创业未半而中道崩殂", "naïve \U0001f600\n\ttab", " "]
    values, _ = judged([(text, text) for text in texts])
    assert values.pop("bleu") == pytest.approx(100)
    assert values.pop("character_error_rate") == 0
    assert values.pop("distinct_1") == values.pop("distinct_1_original")
    assert values.pop("distinct_2") == values.pop("distinct_2_original")
    assert values == dict.fromkeys(
        ("token_accuracy", "line_accuracy", "char_accuracy", "rouge_l", "length_ratio"), pytest.approx(1)
    )


def test_the_figures_are_those_of_the_formulas():
    values, _ = judged(PAIRS)
    outputs, originals = zip(*PAIRS, strict=True)
    count = sum(map(len, originals))
    wrong = sum(a != b for pair in PAIRS for a, b in zip(*pair, strict=True))
    assert wrong == 9
    assert values["token_accuracy"] == values["char_accuracy"] == pytest.approx(1 - wrong / count)
    assert values["line_accuracy"] == pytest.approx(2 / 5)
    assert values["character_error_rate"] == pytest.approx(float(char_error_rate(outputs, originals)))
    assert values["length_ratio"] == 1
    alone = [words(output) for output in outputs]
    assert values["distinct_1"] == pytest.approx(len(set().union(*alone)) / sum(map(len, alone)))
    pairs = [pair for line in alone for pair in pairwise(line)]
    assert values["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs))
    assert values["distinct_1_original"] != values["distinct_1"]


def test_every_judge_says_its_rule_and_which_way_is_up():
    up = {name: metric.higher_is_better for name, metric in text_metrics(text_of).items()}
    assert up.pop("character_error_rate") is False
    assert {name for name in up if up[name] is None} == {name for name in up if name.startswith(("distinct", "length"))}
    assert {name for name in up if up[name]} == {*JUDGED}
    assert all(metric.rule for metric in text_metrics(text_of).values())


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_size_of_the_batches_changes_nothing(size):
    assert judged(PAIRS, size)[0] == judged(PAIRS, 2)[0]


def test_texts_of_another_length_count_what_an_alignment_keeps():
    assert kept_characters("abcd", "abXd") == (3, 4)
    assert kept_characters("bcda", "abcd") == (0, 4), "of one length: by position"
    assert kept_characters("abcde", "abcd") == (3, 4)
    assert kept_characters("", "abcd") == (0, 4)
    assert kept_characters("x" * 9, "abcd") == (0, 4), "never below nothing"
    output, original = torch.tensor([[[1, 99, 0]]]), torch.tensor([[[97, 98, 99]]])  # "abc" for "abc"
    metric = text_metrics(text_of)["char_accuracy"]
    metric.update(output, original)
    assert figure(metric)[0] == 1


def test_where_there_is_nothing_to_judge_there_is_no_number():
    for name, metric in text_metrics(text_of).items():
        metric.update(torch.zeros(0, 1, 4, dtype=torch.int64), torch.zeros(0, 1, 4, dtype=torch.int64))
        assert figure(metric)[0] is None and "null" in figure(metric)[1], name
    values, _ = judged([("", ""), ("", "")])
    assert values.pop("line_accuracy") == 1
    assert set(values.values()) == {None}


def test_judges_start_afresh():
    for name, metric in text_metrics(text_of).items():
        values = []
        for output, original in [("to be or to be now", "to be or to be!xyz"), ("2 2 2", "3 3 2"), PAIRS[0]]:
            metric.update(ids(output)[None], ids(original)[None])
            values.append(figure(metric)[0])
            metric.accumulator.reset()
        alone = text_metrics(text_of)[name]
        alone.update(ids(PAIRS[0][0])[None], ids(PAIRS[0][1])[None])
        assert values[2] == figure(alone)[0] and None not in values, name


# BLEU


def test_bleu_is_sacrebleus_for_all_segments_at_once():
    from sacrebleu.metrics import BLEU

    outputs, originals = zip(*PAIRS, strict=True)
    values, rules = judged(PAIRS)
    scorer = BLEU(tokenize="13a", force=True)
    assert values["bleu"] == pytest.approx(scorer.corpus_score(outputs, [originals]).score)
    assert 20 < values["bleu"] < 90
    assert rules["bleu"].endswith(str(scorer.get_signature())) and "tok:13a" in rules["bleu"]


def test_the_originals_decide_how_bleu_finds_words_wherever_they_come():
    from sacrebleu.metrics import BLEU

    pairs = [
        ("it is now a far better thing", "it is not a far better thing"),
        ("学而时刁之不亦说乎", "学而时习之不亦说乎"),
    ]
    outputs, originals = zip(*pairs, strict=True)
    for order in (pairs, pairs[::-1]):
        values, rules = judged(order, 1)
        assert "tok:zh" in rules["bleu"]
        expected = BLEU(tokenize="zh").corpus_score(outputs, [originals]).score
        assert values["bleu"] == pytest.approx(expected) and expected > 40
    english = [*pairs[:1] * 5, ("an 一", "an 一")]
    assert "tok:13a" in judged(english)[1]["bleu"], "a borrowed character is not a Chinese text"
    assert "tok:13a" in judged([("学而时习之不", "plain.")])[1]["bleu"], "what the network gives does not decide"


def test_sacrebleu_is_imported_when_something_is_judged(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    metric = text_metrics(text_of)["bleu"]
    assert "tokenizer 13a, or zh" in metric.rule
    with pytest.raises(ImportError):
        metric.update(ids("a b c")[None], ids("a b c")[None])


# Words


@pytest.mark.parametrize(
    "text, expected",
    [
        ("It's 3 o'clock.\n", ["It", "'", "s", "3", "o", "'", "clock", "."]),
        ("认识Rust所有权", ["认", "识", "Rust", "所", "有", "权"]),
        ("naïve_x  \t", ["naïve_x"]),
        ("\U00020000x", ["\U00020000", "x"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_rouge_l_is_that_of_torchmetrics_where_words_are_plain():
    for output, original in [*PAIRS[:3], ("x y", "the cat sat"), ("mat the on sat cat the", "the cat sat on the mat")]:
        output, original = output.replace(".", ""), original.replace(".", "")
        score, count = rouge_l(output, original)
        expected = rouge_score(output, original, rouge_keys="rougeL")["rougeL_fmeasure"]
        assert count == 1 and score == pytest.approx(float(expected), abs=1e-6)
    assert rouge_l("words", " \n") == (0, 0), "an original without words is left out"
    assert rouge_l("", "words") == (0, 1)


# Alignments


@pytest.mark.parametrize("alphabet", ["ab", "abcdefgh", "a\U0001f600先"])
def test_alignments_are_those_of_the_tables(alphabet):
    draw = random.Random(0)
    for _ in range(400):
        one, other = ("".join(draw.choices(alphabet, k=draw.randrange(40))) for _ in range(2))
        assert edit_distance(one, other) == edit_distance(other, one) == table(one, other), (one, other)
        assert common_subsequence([*one], [*other]) == subsequence(one, other), (one, other)


def test_long_words_of_the_machine_are_no_border():
    draw = random.Random(1)
    for length in (29, 30, 31, 63, 64, 65, 130):
        one = "".join(draw.choices("abc", k=length))
        other = "".join(draw.choices("abc", k=length + draw.randrange(-3, 4)))
        assert edit_distance(one, other) == table(one, other)
        assert common_subsequence([*one], [*other]) == subsequence(one, other)


def test_long_texts():
    draw = random.Random(2)
    text = "".join(draw.choices("abcdefgh ", k=20_000))
    spoilt = "".join(character for character in text if draw.random() > 0.02)
    assert edit_distance(spoilt, text) == len(text) - len(spoilt)


# Labels


GOOD = ["what a lovely day", "lovely, lovely work", "a great day for great people", "great work and lovely people"]
BAD = ["what an awful day", "awful, rotten work", "a rotten day for awful people", "rotten work and awful people"]


@pytest.fixture
def classifier():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    return TextLabelClassifier(text_of)


def test_texts_are_labelled_as_those_they_are_like(classifier):
    classifier.fit([ids(text) for text in GOOD + BAD], [3] * 4 + [7] * 4)
    found = classifier.predict([ids(text) for text in ("Great, a lovely plan", "an AWFUL plan, rotten", "")])
    assert found[:2] == [3, 7] and found[2] in (3, 7)
    assert all(type(label) is int for label in found)
    assert classifier.predict([]) == []
    assert "logistic regression" in classifier.rule


def test_chinese_texts_have_words_too(classifier):
    texts = ["今天很好", "好人好事", "非常好", "今天很坏", "坏人坏事", "非常坏"]
    classifier.fit([ids(text) for text in texts], [0, 0, 0, 1, 1, 1])
    assert classifier.predict([ids("这个人真好"), ids("这个人真坏")]) == [0, 1]


def test_what_cannot_be_learnt_is_refused(classifier):
    with pytest.raises(UserError, match="two labels or more: these 4 have 1"):
        classifier.fit([ids(text) for text in GOOD], [1] * 4)
    with pytest.raises(UserError, match="these 2 texts have none"):
        classifier.fit([ids(" "), ids("")], [0, 1])


def test_without_scikit_learn_one_line_says_so(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"needs scikit-learn.*pip install scikit-learn"):
        TextLabelClassifier(text_of)


def test_large_ids_arrive_whole():
    """Metrics see floats: those of 32 bits hold every integer up to 2^24."""
    high = 2**24 - 1
    metric = text_metrics(text_of)["token_accuracy"]
    metric.update(torch.tensor([[[high, high - 1]]]), torch.tensor([[[high, high]]]))
    assert math.isclose(figure(metric)[0], 0.5)
