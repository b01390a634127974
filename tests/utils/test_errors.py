"""The words of a mistake: what is wrong, the value, and what would be right."""

import pytest
from pydantic import Field

from vqmm.contracts.options import PartOptions
from vqmm.utils.errors import UserError, explained, one_of, unknown


class Inner(PartOptions):
    depth: int = 1


class Outer(PartOptions):
    size: int = Field(4, ge=1)
    flat: bool = False
    either: bool | int = 0
    ratio: float = 0.5
    inner: Inner = Inner()
    needed: str


def said(where="", **told) -> str:
    with pytest.raises(UserError) as error, explained(where, Outer.model_fields):
        Outer(**{"needed": "x", **told})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_choices_are_sorted_and_the_nearest_is_asked_about():
    assert one_of(["b", "a"]) == "There is: a, b."
    assert one_of(["text", "image"], "imgae") == "There is: image, text. Did you mean 'image'?"
    assert one_of([], "x") == "There is none."
    assert str(unknown("modality", "imgae", ["image"])).startswith("no modality is called 'imgae'. ")


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


def test_a_field_is_named_with_its_part_and_value():
    assert said(size=0) == "size: 0 does not fit: input should be greater than or equal to 1"
    assert said("quantizer", size=0).startswith("quantizer.size: 0 does not fit")
    assert said(inner={"depth": "x"}).startswith("inner.depth: 'x' does not fit")


def test_a_wrong_name_is_asked_about_within_its_own_part():
    assert said("quantizer", sise=1).startswith("quantizer.sise: there is no such option.")
    assert said(sise=1).endswith("Did you mean 'size'?")
    assert said(inner={"dept": 1}) == "inner.dept: there is no such option. There is: depth. Did you mean 'depth'?"


def test_a_missing_field_and_a_part_that_is_none():
    assert said(needed=None).startswith("needed: None does not fit")
    assert said(inner=3) == "inner: 3 does not fit: it has options of its own, written as inner.OPTION=VALUE"
    with pytest.raises(UserError, match="needed: is required and missing"), explained("", Outer.model_fields):
        Outer()


def test_every_wrong_field_is_told_once():
    assert said(size=0, ratio="x").count(" does not fit") == 2


def test_true_is_no_number_and_nothing_is_infinite():
    assert "switches" in said(size=True) and "switches" in said(inner={"depth": False})
    assert "finite" in said(ratio=float("inf")) and "ratio" in said(ratio=float("nan"))
    assert Outer(needed="x", flat=True, either=True).flat is True


def test_another_exception_passes_through():
    with pytest.raises(ZeroDivisionError), explained("", {}):
        _ = 1 / 0
