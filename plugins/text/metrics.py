"""Scores of reconstructed texts: of their ids, characters and words; and a classifier that labels texts."""

import re
from collections.abc import Callable, Iterator, Sequence
from operator import eq
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from vqmm.contracts.metric import Metric
from vqmm.utils.errors import UserError

TextOf = Callable[[Tensor], str]  # ids, int64 (1, T) -> their text
Count = Callable[[str, str], tuple[float, float]]  # (output, original) -> what is counted, and out of how much

CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # ideographs, inside a regular expression
IDEOGRAPH = re.compile(f"[{CHINESE}]")
WORD = re.compile(rf"[{CHINESE}]|[^\W{CHINESE}]+|[^\w\s]")
WORDS = "words: letters and digits in a row, each Chinese character, each sign; upper and lower case differ"
CHINESE_SHARE = 0.1  # of the originals' characters, above which BLEU counts each Chinese character as a word
FEATURES = 200_000  # n-grams that the classifier of labels weighs, of words and of characters each
BLEU_ORDERS = 4  # the longest n-grams that BLEU counts


def text_metrics(text_of: TextOf) -> dict[str, Metric]:
    """Fresh metrics of texts, each sample the ids (1, T) of one.

    All are 0 to 1 unless their rule says otherwise, and NaN where nothing was there to be evaluated. Of `length_ratio`,
    `distinct_1` and `distinct_2`, which are best where the originals are, neither way is up.
    """

    def pooled(count: Count, rule: str, higher_is_better: bool | None = True) -> Metric:
        return Metric(Pooled(text_of, count), rule, higher_is_better)

    def distinct(n: int) -> dict[str, Metric]:
        rule = f"distinct {n}-grams over all {n}-grams of the reconstructions; falls as more text is evaluated; {WORDS}"
        same = f"the same of the originals: what distinct_{n} would best be"
        return {
            f"distinct_{n}": Metric(Distinct(text_of, n, "reconstructions"), rule, None),
            f"distinct_{n}_original": Metric(Distinct(text_of, n, "originals"), same, None),
        }

    return {
        "token_accuracy": Metric(
            TokenAccuracy(), "share of ids that are the original's, over all samples joined", True
        ),
        "line_accuracy": pooled(same_text, "share of samples whose whole text is the original's"),
        "char_accuracy": pooled(
            kept_characters,
            "share of the originals' characters that are kept, over all samples joined: at their positions where a "
            "sample has the original's length, else its length less the edit distance, at least 0",
        ),
        "character_error_rate": pooled(
            character_errors,
            "edit distance in characters over the characters of the originals, over all samples joined; may exceed 1",
            False,
        ),
        "bleu": BleuMetric(text_of),
        "rouge_l": pooled(
            rouge_l,
            "F1 of the longest common subsequence of words, mean over samples whose original has words; no stemming; "
            + WORDS,
        ),
        "length_ratio": pooled(
            length, "characters of the reconstructions over those of the originals; 1 is best", None
        ),
        **distinct(1),
        **distinct(2),
    }


class TokenAccuracy(torchmetrics.Metric):
    """The share of positions with the same id."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "count"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Count the positions where outputs and originals, each (n, 1, T), have the same id."""
        self.right += (outputs == originals).sum()
        self.count += originals.numel()

    def compute(self) -> Tensor:
        """float64 scalar, a share from 0 to 1; NaN if there were no ids."""
        return self.right / self.count


class Pooled(torchmetrics.Metric):
    """What `count` finds in each sample, over what it is out of, both summed over the samples first."""

    full_state_update = False

    def __init__(self, text_of: TextOf, count: Count) -> None:
        super().__init__()
        self.text_of, self.count = text_of, count
        for name in ("part", "whole"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Add what `count` gives for each pair of texts; outputs and originals are ids (n, 1, T)."""
        for output, original in texts(self.text_of, outputs, originals):
            part, whole = self.count(output, original)
            self.part += part
            self.whole += whole

    def compute(self) -> Tensor:
        """float64 scalar, the one sum over the other; not finite where the latter is 0."""
        return self.part / self.whole


class Distinct(torchmetrics.Metric):
    """Distinct word n-grams over all word n-grams of one side (Li et al. 2016, arXiv 1510.03055, section 4.3).

    Args:
        n: words in an n-gram. None spans two samples.
        side: "reconstructions" or "originals".
    """

    full_state_update = False

    def __init__(self, text_of: TextOf, n: int, side: str) -> None:
        super().__init__()
        self.text_of, self.n, self.side = text_of, n, side
        self.seen: set[tuple[str, ...]] = set()
        self.add_state("count", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Add the word n-grams of one side's texts, ids (n, 1, T); the distinct ones are kept in memory."""
        for ids in outputs if self.side == "reconstructions" else originals:
            tokens = words(self.text_of(ids.long()))
            grams = [*zip(*(tokens[first:] for first in range(self.n)), strict=False)]
            self.seen.update(grams)
            self.count += len(grams)

    def compute(self) -> Tensor:
        """float64 scalar, a share from 0 to 1; NaN if there were no n-grams."""
        return len(self.seen) / self.count

    def reset(self) -> None:
        """Forget the count, as torchmetrics does, and the set of n-grams, which it does not know."""
        super().reset()
        self.seen = set()


# BLEU


class BleuMetric(Metric):
    """BLEU, whose rule names the signature once it is known which words the texts have."""

    metric: "Bleu"

    def __init__(self, text_of: TextOf) -> None:
        rule = f"tokenizer 13a, or zh where over {CHINESE_SHARE:.0%} of the originals' characters are Chinese"
        super().__init__(Bleu(text_of), f"corpus BLEU by sacrebleu, 0 to 100; {rule}", True)

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Outputs and originals, ids (n, 1, T); the rule then names the signature for all that was seen."""
        super().update(outputs, originals)
        self.rule = f"corpus BLEU by sacrebleu, 0 to 100; {self.accumulator.signature()}"


class Bleu(torchmetrics.Metric):
    """Corpus BLEU (Papineni et al. 2002), each sample a segment with one reference.

    Chinese has no spaces, so that for the usual tokenizer (13a) a sentence is a word or two: where the originals are
    Chinese it is sacrebleu's zh, in which each ideograph is a word. Both are counted until all has been seen. Neither
    downloads anything.
    """

    full_state_update = False
    TOKENIZERS = ("13a", "zh")

    def __init__(self, text_of: TextOf) -> None:
        super().__init__()
        self.text_of = text_of
        # of each tokenizer: matching and all n-grams of four orders, the words of the outputs and of the originals
        shape = (len(self.TOKENIZERS), 2 * BLEU_ORDERS + 2)
        self.add_state("statistics", default=torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("chinese", "characters"):
            self.add_state(name, default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, originals: Tensor) -> None:
        """Add sacrebleu's counts for the texts of ids (n, 1, T), with both tokenizers, and count Chinese characters."""
        if not len(outputs):
            return
        output, original = zip(*texts(self.text_of, outputs, originals), strict=True)
        self.chinese += sum(len(IDEOGRAPH.findall(text)) for text in original)
        self.characters += sum(map(len, original))
        for row, tokenizer in enumerate(self.TOKENIZERS):
            score = _bleu(tokenizer).corpus_score(output, [original])
            self.statistics[row] += torch.tensor([*score.counts, *score.totals, score.sys_len, score.ref_len])

    def compute(self) -> Tensor:
        """float32 scalar from 0 to 100; NaN if the originals have no words."""
        counts = self.statistics[self._row()].tolist()
        correct, total, (output, original) = counts[:BLEU_ORDERS], counts[BLEU_ORDERS:-2], counts[-2:]
        if not original:
            return torch.tensor(torch.nan)
        scorer = _bleu(self.TOKENIZERS[self._row()])
        method = scorer.smooth_method
        return torch.tensor(scorer.compute_bleu(correct, total, output, original, smooth_method=method).score)

    def signature(self) -> str:
        """sacrebleu's, for what has been seen."""
        scorer = _bleu(self.TOKENIZERS[self._row()])
        scorer.corpus_score([""], [[""]])  # it knows the number of references after a first score
        return str(scorer.get_signature())

    def _row(self) -> int:
        return int(self.chinese > CHINESE_SHARE * self.characters)


def _bleu(tokenizer: str) -> Any:
    from sacrebleu import BLEU

    return BLEU(tokenize=tokenizer, force=True)  # texts may end in " ."; it would warn that they are tokenized


# Labels


class TextLabelClassifier:
    """A `LabelClassifier` of texts: logistic regression over n-grams of words and of characters.

    Args:
        text_of: the text of a sample.

    Raises:
        UserError: scikit-learn is not installed.
    """

    rule = (
        "logistic regression on TF-IDF of 1- and 2-grams of words and of 2- to 5-grams of characters within words, "
        "lower case"
    )

    def __init__(self, text_of: TextOf) -> None:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline, make_union
        except (ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"labelling texts needs scikit-learn, which did not load ({reason}): pip install scikit-learn"
            ) from None
        kinds: list[dict[str, Any]] = [
            {"tokenizer": words, "token_pattern": None, "ngram_range": (1, 2)},
            {"analyzer": "char_wb", "ngram_range": (2, 5)},
        ]
        features = [TfidfVectorizer(**kind, sublinear_tf=True, max_features=FEATURES) for kind in kinds]
        self.text_of = text_of
        # of C 1, 4 and 10 on sentences said to be positive or not the accuracies were 0.807, 0.812 and 0.818
        self._model = make_pipeline(make_union(*features), LogisticRegression(C=4.0, max_iter=1000))

    def fit(self, samples: Sequence[Tensor], labels: Sequence[int]) -> None:
        """Learn from ids (1, T) and their labels; the same ones give the same classifier.

        Raises:
            UserError: fewer than two different labels; no text with a word in it.
        """
        if len(set(labels)) < 2:
            raise UserError(
                f"a classifier of texts needs two labels or more: these {len(labels)} have {len(set(labels))}"
            )
        documents = [self.text_of(sample) for sample in samples]
        if not any(map(words, documents)):
            raise UserError(f"a classifier of texts needs words: these {len(documents)} texts have none")
        self._model.fit(documents, [*labels])

    def predict(self, samples: Sequence[Tensor]) -> list[int]:
        """The likeliest label of each; of a text with nothing that it knows, the one that is likeliest beforehand."""
        return [int(label) for label in self._model.predict([*map(self.text_of, samples)])] if samples else []


# One sample


def texts(text_of: TextOf, outputs: Tensor, originals: Tensor) -> Iterator[tuple[str, str]]:
    """The texts of two stacks of ids (N, 1, T), of any type."""
    for output, original in zip(outputs, originals, strict=True):
        yield text_of(output.long()), text_of(original.long())


def words(text: str) -> list[str]:
    """Letters and digits in a row, each Chinese character, and each sign that is neither nor white space."""
    return WORD.findall(text)


def same_text(output: str, original: str) -> tuple[float, float]:
    """1 if the texts are equal, else 0; out of 1."""
    return output == original, 1


def kept_characters(output: str, original: str) -> tuple[float, float]:
    """The characters of the original that are kept, out of all it has.

    Texts of one length: the positions that agree. Others: the original's length less the edit distance, at least 0.
    """
    if len(output) == len(original):
        return sum(map(eq, output, original)), len(original)
    return max(len(original) - edit_distance(output, original), 0), len(original)


def character_errors(output: str, original: str) -> tuple[float, float]:
    """The edit distance in characters, out of the characters of the original."""
    return edit_distance(output, original), len(original)


def length(output: str, original: str) -> tuple[float, float]:
    """Characters of the output, out of the characters of the original."""
    return len(output), len(original)


def rouge_l(output: str, original: str) -> tuple[float, float]:
    """F1 of the longest common subsequence of words (Lin 2004, "ROUGE", section 3.1, with beta 1).

    With l its length it is 2 l / (words of one + words of the other). An original without words has none, and is left
    out.
    """
    predicted, expected = words(output), words(original)
    if not expected:
        return 0, 0
    return 2 * common_subsequence(predicted, expected) / (len(predicted) + len(expected)), 1


def edit_distance(first: str, second: str) -> int:
    """The least number of characters to insert, delete or replace that makes one text the other.

    A column of the table of distances is two integers of a bit for each row, which say where it goes up and where
    down, so a step takes a few operations on long integers (Myers 1999, doi 10.1145/316542.316550, as Hyyrö 2003 has
    it): 100,000 characters against as many take seconds, not hours.
    """
    first, second = _without_common_ends(first, second)
    rows, columns = sorted((first, second), key=len, reverse=True)
    equal = _places(rows)
    every = (1 << len(rows)) - 1
    up, down = every, 0
    for character in columns:
        same = equal.get(character, 0) | down
        flat = ((((same & up) + up) ^ up) | same) & every  # no further than the neighbour up and to the left
        right = ((down | (every ^ (flat | up))) << 1 | 1) & every
        up, down = ((flat & up) << 1 & every) | (every ^ (flat | right)), right & flat
    return len(columns) + up.bit_count() - down.bit_count()


def common_subsequence(first: list[str], second: list[str]) -> int:
    """The length of the longest sequence that both hold, in order but not in a row.

    As `edit_distance`, with one integer: its zeros are the rows where the table's column goes up (Hyyrö 2004).
    """
    rows, columns = sorted((first, second), key=len, reverse=True)
    equal = _places(rows)
    every = (1 << len(rows)) - 1
    level = every
    for word in columns:
        rises = level & equal.get(word, 0)
        level = ((level + rises) | (level - rises)) & every
    return len(rows) - level.bit_count()


def _without_common_ends(first: str, second: str) -> tuple[str, str]:
    """Two texts less what they begin and end with in common: it is a part of some best alignment."""
    shorter = min(len(first), len(second))
    start = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    end = next((i for i in range(shorter - start) if first[-1 - i] != second[-1 - i]), shorter - start)
    return first[start : len(first) - end], second[start : len(second) - end]


def _places(items: str | list[str]) -> dict[str, int]:
    """For each item an integer with a bit for each of its places."""
    masks: dict[str, int] = {}
    for place, item in enumerate(items):
        masks[item] = masks.get(item, 0) | 1 << place
    return masks
