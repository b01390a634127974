"""The registry: what it takes in, what it refuses, and in which words."""

import sys
from types import SimpleNamespace

import pytest

import vqmm
from vqmm.recipe import read_named_recipe
from vqmm.registry import KINDS, Registry, import_plugin
from vqmm.utils.errors import UserError


class Sound(vqmm.Modality):
    name, rank, channels = "sound", 1, 1

    def samples(self, path):
        return iter(())

    def write(self, sample, path):
        return path


def plugin(hook="register_modalities", things=(Sound,)):
    """An object with one hook that offers `things`."""

    def offer(register):
        for thing in things:
            register(thing)

    return SimpleNamespace(**{hook: vqmm.hookimpl(offer)})


def refused(what, name="mine", check=None) -> str:
    registry = Registry(check)
    with pytest.raises(UserError) as error:
        registry.add(what, name)
    assert not registry.plugins and not any(registry.offers.values())  # all of it or nothing
    return str(error.value)


def test_a_registry_starts_empty_and_holds_what_was_added():
    registry = Registry()
    assert not registry.plugins and not any(registry.offers.values())
    registry.add(plugin(), "mine")
    assert registry.modality("sound") is Sound
    assert registry.plugins == {"mine": [("modality", "sound")]}


def test_a_misspelt_hook_is_named_with_the_right_one():
    said = refused(plugin("register_modalitys"))
    assert "plugin 'mine'" in said and "hook 'register_modalitys'" in said
    assert "Did you mean 'register_modalities(register)'?" in said
    assert "hook 'registr'" in refused(plugin("registr"))  # however far off


def right_and_wrong(register):
    register(Sound)


@pytest.mark.parametrize("hook", KINDS.values())
@pytest.mark.parametrize("wrong", [lambda reg: None, lambda register, more: None, lambda: None])
def test_a_wrong_signature_is_named_with_the_right_one(hook, wrong):
    said = refused(SimpleNamespace(**{hook: vqmm.hookimpl(wrong)}))
    assert "plugin 'mine'" in said and f"hook '{hook}'" in said and f"write {hook}(register)" in said


def test_a_hook_without_its_mark_is_told_which_mark():
    said = refused(SimpleNamespace(register_modalities=right_and_wrong))
    assert "plugin 'mine', hook 'register_modalities'" in said and "@vqmm.hookimpl" in said


def test_a_plugin_that_offers_nothing_is_told_what_it_could():
    for hook in KINDS.values():
        assert f"{hook}(register)" in refused(SimpleNamespace())
    assert "offers nothing" in refused(plugin(things=()))


class Nameless(Sound):
    name = ""


class Flat(Sound):
    rank = 0


class Unwritten(vqmm.Modality):
    name, rank, channels = "unwritten", 1, 1

    def samples(self, path):
        return iter(())


class Typed(vqmm.Strings, Sound):
    name = "typed"


class Pieces(vqmm.ManyPerFile, Sound):
    name = "pieces"

    def file_of(self, key):
        return key


class Judging(Sound):
    name = "judging"

    def metrics(self):
        return {}


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (Sound(), "register the class itself"),
        ("sound", "register the class itself"),
        (vqmm.Quantizer, "not a class made from vqmm.Modality"),
        (Nameless, "Nameless has no name"),
        (Flat, "Flat lacks rank (1, 2 or 3)"),
        (Unwritten, "Unwritten lacks write: see vqmm.Modality"),
        (Typed, "Typed lacks ids_of: see vqmm.Strings"),
        (Pieces, "Pieces lacks join: see vqmm.ManyPerFile"),
        (Judging, "Judging.metrics would not be used: put it into a class made from vqmm.Evaluation"),
    ],
)
def test_a_thing_that_cannot_be_offered(thing, said):
    told = refused(plugin(things=(Sound, thing)))
    assert "plugin 'mine', hook 'register_modalities'" in told and said in told


def test_a_name_taken_twice_names_both_plugins():
    registry = Registry()
    registry.add(plugin(), "first")
    with pytest.raises(
        UserError, match="plugin 'second', hook 'register_modalities': the name 'sound' is taken by plu"
    ):
        registry.add(plugin(), "second")
    with pytest.raises(UserError, match="a plugin called 'first' is already registered"):
        registry.add(plugin(things=(Flat,)), "first")
    assert registry.plugins == {"first": [("modality", "sound")]}
    assert "taken by plugin 'mine'" in refused(plugin(things=(Sound, Sound)))


def test_one_name_may_stand_for_things_of_two_kinds():
    class Bottleneck(vqmm.Quantizer):
        name = "sound"

    registry = Registry()
    registry.add(plugin(), "a")
    registry.add(plugin("register_quantizers", (Bottleneck,)), "b")
    assert registry.quantizer("sound") is Bottleneck and registry.modality("sound") is Sound


def test_a_recipe_of_a_plugin_is_checked_when_it_is_registered(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("quantizer: {name: of-another-plugin, size: 3}")
    bad.write_text("quantiser: {name: vector}")
    registry = Registry(read_named_recipe)
    registry.add(plugin("register_recipes", (good,)), "mine")
    assert registry.recipe("good") == good
    for path, said in ((bad, "Did you mean 'quantizer'?"), (tmp_path / "no.yaml", "No such file"), (3, "")):
        told = refused(plugin("register_recipes", (path,)), check=read_named_recipe)
        assert "plugin 'mine', hook 'register_recipes'" in told and said in told


def test_find_lists_the_choices_and_what_did_not_load():
    registry = Registry()
    registry.add(plugin(), "mine")
    registry.failed["audio"] = "No module named 'soundfile'"
    with pytest.raises(UserError) as error:
        registry.modality("audio")
    assert "There is: sound." in str(error.value) and "'audio': No module named 'soundfile'" in str(error.value)
    with pytest.raises(UserError, match="Did you mean 'sound'"):
        registry.modality("sund")


SELF_AWARE = """
from __future__ import annotations
import dataclasses, sys

@dataclasses.dataclass
class Point:
    x: int = 0

assert sys.modules[__name__].Point is Point
"""


def test_a_file_is_imported_as_a_module_of_its_own(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "points.py").write_text(SELF_AWARE)
    first, second = (import_plugin(str(tmp_path / folder / "points.py")) for folder in ("a", "b"))
    assert first.__name__ != second.__name__ and sys.modules[first.__name__] is first


def test_a_file_that_fails_leaves_no_half_module(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\nraise RuntimeError('no luck')")
    before = set(sys.modules)
    with pytest.raises(RuntimeError, match="no luck"):
        import_plugin(str(tmp_path / "broken.py"))
    assert set(sys.modules) == before


def test_a_file_given_as_a_module_is_told_its_suffix(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    with pytest.raises(UserError, match=r"write only_here\.py"):
        import_plugin("only_here")
