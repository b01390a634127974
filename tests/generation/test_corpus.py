"""The corpus of a prior: its vocabulary, its classes, what is left out and said so, what is refused."""

import math

import numpy as np
import pytest
import torch

from tests.generation.prior_rows import column, rows, tokenizer
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.generation.column import Column
from vqmm.generation.corpus import Corpus, corpus_of, entropy_bits
from vqmm.generation.recipe import PriorRecipe
from vqmm.tokens.shards import HELD_OUT, TRAIN, Header, Row, ShardWriter
from vqmm.utils.errors import Remark, UserError


def added(training, held_out=((4,),), longest=None, **shape):
    return column(rows(training, **shape), rows(held_out, **shape)).added_to(Vocabulary(), longest)["sound"]


def test_rows_on_one_grid_give_a_fixed_one_and_others_lines_of_free_length():
    assert added([(4,), (4,)]).grids == ((4,),)
    free = added([(4,), (2,)])
    assert (free.grids, free.longest, free.fingerprint) == (None, 4, "aa")


def test_a_held_out_line_longer_than_all_training_lines_is_cut_and_counted():
    with pytest.warns(Remark, match="1 of 3 rows of sound-tokens are longer than 3 frames: they are cut there"):
        assert added([(3,), (2,)], held_out=[(5,)]).longest == 3


def test_longest_cuts_lines_and_makes_one_grid_where_all_reach_it():
    with pytest.warns(Remark, match="2 of 3 rows of sound-tokens are longer than 3 frames"):
        assert added([(3,), (5,)], held_out=[(4,)], longest=3).grids == ((3,),)
    with pytest.warns(Remark, match="1 of 3 rows"):
        assert added([(2,), (5,)], held_out=[(3,)], longest=3).longest == 3
    assert added([(2,), (3,)], held_out=[(3,)], longest=99).longest == 3  # never more than there is


def test_pictures_of_different_sizes_are_refused():
    with pytest.raises(UserError, match=r"codes on 2 different grids \(2x3, 3x3\).* crop or resize"):
        added([(2, 3), (3, 3)], held_out=[(2, 3)])


def test_fewer_stages_than_the_tokenizer_has():
    assert column(rows([(4,)], stages=2), rows([(4,)], stages=2), sizes=((9, 9, 9),)).sizes == ((9, 9),)
    with pytest.raises(UserError, match=r"\(1,\), \(2,\) stages of codes: encode all at one rate"):
        column(rows([(4,)], stages=2), rows([(4,)]), sizes=((9, 9, 9),))


def test_rows_without_codes_are_left_out_and_said_so():
    with pytest.warns(Remark, match="2 rows of sound-tokens have no codes"):
        found = column(rows([(2,), (0,), (3,), (0,)]), rows([(2,)]))
    assert found.usable[TRAIN] == [0, 2]


@pytest.mark.parametrize(("training", "held_out", "lacks"), [([], [(2,)], "train"), ([(2,)], [], "held-out")])
def test_a_split_without_rows_is_refused(training, held_out, lacks):
    with pytest.raises(UserError, match=f"sound-tokens has no {lacks} rows"):
        column(rows(training), rows(held_out))


@pytest.mark.parametrize("split", [TRAIN, HELD_OUT])
def test_a_split_without_an_example_is_refused_before_anything_is_trained(split):
    sound = column(rows([(2,)]), rows([(2,)]))
    sound.usable[split] = []
    with pytest.raises(UserError, match=f"there is no {split} example in sound-tokens"):
        Corpus([sound], PriorRecipe(), by_class=False)


def labelled(labels, held_out, name="sound", fingerprint="aa", grid=(2,)):
    return column(
        rows([grid] * len(labels), labels), rows([grid] * len(held_out), held_out), name, ((9,),), fingerprint
    )


def test_classes_are_numbered_in_natural_order_and_stand_first():
    found = Corpus([labelled(["10", "9", "9"], ["9"])], PriorRecipe(condition="label"), by_class=False)
    assert found.labels == ("9", "10") and [own.name for own in found.vocabulary.ranges] == ["label", "sound"]
    items = [found.training.pairing.items(0, number)["label"].row for number in range(3)]
    assert items == [1, 0, 0] and len(found.training) == 3


def test_a_missing_label_is_refused_and_an_unknown_one_left_out():
    with pytest.raises(UserError, match="1 of 2 train rows of sound-tokens lack one"):
        Corpus([labelled(["a", None], ["a"])], PriorRecipe(condition="label"), by_class=False)
    with pytest.warns(Remark, match="2 held-out rows of sound-tokens have no label that train rows have"):
        found = Corpus([labelled(["a", "b"], ["c", "a", None])], PriorRecipe(condition="label"), by_class=False)
    assert [found.held_out.pairing.items(None, n)["sound"].row for n in range(len(found.held_out))] == [1]
    with pytest.raises(UserError, match="no held-out row"):
        Corpus([labelled(["a"], ["c"])], PriorRecipe(condition="label"), by_class=False)


def test_pairs_by_class_never_leave_their_split_and_classes_without_items_are_named():
    sound = labelled(["a", "b", "c", "b", None], ["a", "b"])
    picture = labelled(["b", "b", "a", "d"], ["b", "a", "c"], "picture", "bb", (2, 2))
    with pytest.warns(Remark) as told:
        found = Corpus([sound, picture], PriorRecipe(), by_class=True)
    said = [str(each.message) for each in told]
    assert any(
        "2 of 4 classes lack train rows and are left out: 'c' (no picture), 'd' (no sound)" in each for each in said
    )
    assert any("1 train rows of sound-tokens have no label" in each for each in said)
    assert not any(
        "held-out" in each for each in said
    )  # "c" cannot be learnt: that it has no held-out sound is no news
    train, held_out = found.training.pairing, found.held_out.pairing
    assert set(train.classes) == set(held_out.classes) == {"a", "b"}
    assert train.members["sound"] == {"a": [0], "b": [1, 3]} and held_out.members["picture"] == {"a": [1], "b": [0]}
    assert found.training.rows["sound"] is sound.rows[TRAIN]
    assert found.held_out.rows["sound"] is sound.rows[HELD_OUT]


def test_no_class_in_common_is_refused_with_those_there_are():
    columns = [labelled(["1", "2"], ["1"]), labelled(["one"], ["one"], "picture", "bb")]
    with pytest.raises(UserError, match=r"no class has train rows of every modality.*sound has '1', '2'; picture has"):
        Corpus(columns, PriorRecipe(), by_class=True)
    columns = [labelled(["1", "2"], ["1"]), labelled(["1", "2"], ["2"], "picture", "bb")]
    with pytest.raises(UserError, match="no class has held-out rows of every modality"):
        Corpus(columns, PriorRecipe(), by_class=True)


def test_windows_are_of_one_modality_with_longest():
    for recipe in (PriorRecipe(cut="windows"), PriorRecipe(cut="windows", longest=2)):
        columns = [labelled(["a"], ["a"]), labelled(["a"], ["a"], "picture", "bb")]
        with pytest.raises(UserError, match=r"cut: windows are of one modality alone.* longest is (None|2)"):
            Corpus(columns[: 2 if recipe.longest else 1], recipe, by_class=recipe.longest is not None)
    with pytest.warns(Remark, match="2 of 3 rows of sound-tokens are longer than 3 frames: they are taken in windows"):
        found = Corpus(
            [column(rows([(7,), (3,)]), rows([(4,)]))], PriorRecipe(cut="windows", longest=3), by_class=False
        )
    assert (len(found.training), len(found.held_out)) == (4, 2) and found.vocabulary["sound"].grids == ((3,),)


def entropy(*counts):
    shares = [count / sum(counts) for count in counts]
    return -sum(share * math.log2(share) for share in shares if share)


def test_unigram_bits_are_the_entropy_of_the_codes_of_each_stage():
    codes = [
        Row(f"{i}", None, (2,), (np.array([[a, b], [c, 0]]),)) for i, (a, b, c) in enumerate([(0, 1, 2), (0, 0, 3)])
    ]
    found = Corpus([column(codes, codes[:1], sizes=((9, 9),))], PriorRecipe(), by_class=False)
    # the first stage has 0 three times and 1 once, the second 0 twice, 2 and 3
    assert found.unigram_bits["sound"] == pytest.approx((4 * entropy(3, 1) + 4 * entropy(2, 1, 1)) / 8)


def test_an_end_is_a_code_where_the_length_is_free():
    own = Vocabulary().add("sound", [[4]], longest=3)["sound"]
    ids = torch.cat([own.join([torch.tensor([[line]])])[0] for line in ([0, 0, 1], [0])])
    assert entropy_bits(own, torch.bincount(ids, minlength=own.stop)) == pytest.approx(entropy(3, 1, 2))


def test_the_fingerprint_knows_codes_keys_and_labels():
    def made(**changes):
        told = {"key": "k", "label": "a", "size": (2,), "maps": (np.array([[1, 2]]),), **changes}
        return Corpus([column([Row(**told)], rows([(2,)]))], PriorRecipe(), by_class=False).fingerprint()

    others = [made(key="j"), made(label="b"), made(maps=(np.array([[1, 3]]),))]
    assert made() == made() and len({made(), *others}) == 4


# Matching


def shards(folder, fingerprint, split=None):
    folder.mkdir()
    header = Header(fingerprint, "sound", ((9,),), None, split)
    with ShardWriter(folder, header) as writer:
        for i in range(4):
            writer.add(Row(f"{i}", "a", (2,), (np.array([[i, 1]]),), None, split and (HELD_OUT if i == 3 else TRAIN)))
    return str(folder)


def test_tokens_are_recognised_by_their_fingerprint(tmp_path):
    folders = [shards(tmp_path / name, name, "rule") for name in ("bb", "aa")]
    named = {"one": tokenizer("sound", fingerprint="aa"), "two": tokenizer("picture", fingerprint="bb")}
    found = corpus_of(named, folders, None, PriorRecipe())
    assert [own.name for own in found.vocabulary.ranges] == ["sound", "picture"]
    assert [each.where for each in found.columns] == folders[::-1]
    assert isinstance(found.columns[0], Column) and len(found.columns[0].rows[TRAIN]) == 3


def test_tokens_that_do_not_match_are_refused(tmp_path):
    aa, bb, old = (
        shards(tmp_path / "aa", "aa", "rule"),
        shards(tmp_path / "bb", "bb", "rule"),
        shards(tmp_path / "o", "aa"),
    )
    one, two = tokenizer("sound", fingerprint="aa"), tokenizer("picture", fingerprint="bb")
    wrong = [
        ({"one": one}, [bb], "bb was encoded by the tokenizer bb, and one is aa"),
        ({"one": one}, [aa, aa], "are tokens of one tokenizer"),
        ({"one": one, "two": two}, [aa], "there are no tokens of two"),
        ({"one": one, "two": one}, [aa], "two runs are of one: one is sound, two is sound"),
        ({"one": one}, [old], "does not tell which of its rows are held out: encode it anew"),
        ({"one": one}, [str(tmp_path)], "holds no token shards"),
    ]
    for tokenizers, folders, said in wrong:
        with pytest.raises(UserError, match=said):
            corpus_of(tokenizers, folders, None, PriorRecipe())
