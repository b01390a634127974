"""The check of labels: one message, whoever asks."""

import pytest

from vqmm.contracts.labels import check_labels, label_number, require_every_label
from vqmm.utils.errors import UserError


def test_labels_that_are_there_have_their_numbers():
    check_labels([], [], "--label")
    check_labels(["b", "a", "b"], ["a", "b"], "--label")
    assert [label_number(label, ["a", "b"], "--label") for label in "ab"] == [0, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([None], "x.png: no label is given, and the decoder needs one. There is: cat, dog."),
        (["cats"], "x.png: no label is called 'cats'. There is: cat, dog. Did you mean 'cat'?"),
        (["cow", "cat", "ape", "cow"], "x.png: no label is called 'cow', 'ape'. There is: cat, dog."),
        ([None, "cow"], "x.png: no label is given, and the decoder needs one. There is: cat, dog."),
        (list("fedcba"), "x.png: no label is called 'f', 'e', 'd', 'c', 'b'. There is: cat, dog."),
    ],
)
def test_a_missing_or_unknown_label(given, said):
    with pytest.raises(UserError) as error:
        check_labels(given, ["cat", "dog"], "x.png")
    assert str(error.value) == said


def test_every_sample_needs_a_label_where_labels_are_trained_on():
    require_every_label(["a", "b"], "samples of data/", "name them in a CSV")
    with pytest.raises(UserError) as error:
        require_every_label(["a", None, None], "samples of data/", "name them in a CSV")
    assert str(error.value) == (
        "condition: label needs a label for every sample, and 2 of 3 samples of data/ lack one: name them in a CSV, or "
        "set condition=null"
    )
