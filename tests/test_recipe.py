"""Recipes: written and read back, changed by settings, and refused in words when they do not fit."""

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import vqmm
from vqmm.recipe import Part, Recipe, Train, read_named_recipe, read_recipe
from vqmm.registry import Registry
from vqmm.utils.errors import UserError

REGISTRY = Registry.discover()

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), words, st.none())
values = st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(words, plain, max_size=2))
parts = st.builds(lambda options, name: Part(**{**options, "name": name}), st.dictionaries(words, values), words)
rates = st.floats(1e-12, 1e6)
trains = st.builds(
    Train,
    steps=st.integers(1, 2**62),
    batch_size=st.integers(1, 2**20),
    learning_rate=rates,
    warmup=st.floats(0, 0.999),
    clip=rates,
    seed=st.integers(0, 2**63 - 1),
    precision=st.sampled_from(["float32", "bfloat16"]),
)
recipes = st.builds(
    Recipe,
    about=words,
    modality=st.none() | parts,
    quantizer=parts,
    decoder=parts,
    condition=st.sampled_from([None, "label"]),
    train=trains,
    data=st.none() | words,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes") / "own.yaml"


@given(recipe=recipes)
@example(recipe=Recipe(data="a\x85b \u2028 c é"))
def test_a_recipe_that_is_written_reads_back_equal(file, recipe):
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert read_named_recipe(file) == recipe


@given(name=words, part=st.sampled_from(["", "train.", "quantizer.", "decoder.", "modality."]), value=plain)
def test_any_unknown_name_is_a_mistake_of_the_user(name, part, value):
    known = {*Recipe.model_fields, *Train.model_fields, "name"}
    for kind in ("modality", "quantizer", "decoder"):
        for found in REGISTRY.offers[kind].values():
            known |= found.Options.model_fields.keys()
    assume(name.split("=")[0].split(".")[0].strip() not in known)
    with pytest.raises(UserError) as error:
        read_recipe("vqvae", REGISTRY, "image", [f"{part}{name}={value}"])
    assert len(str(error.value)) < 1000


@given(setting=st.text(max_size=30))
def test_no_setting_whatever_gives_another_error(setting):
    with suppress(UserError):
        read_recipe("vqvae", REGISTRY, "image", [setting])


@given(value=st.text(max_size=30))
def test_no_value_whatever_gives_another_error(value):
    for name in ("train.steps", "quantizer", "quantizer.codebook_size", "modality", "modality.size", "modality.stride"):
        with suppress(UserError):
            read_recipe("vqvae", REGISTRY, "image", [f"{name}={value}"])


@given(content=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="ignore")))
def test_no_file_whatever_gives_another_error(file, content):
    file.write_bytes(content)
    with suppress(UserError):
        read_recipe(str(file), REGISTRY, "image")


def read(*settings: str, name: str = "vqvae-ema") -> Recipe:
    return read_recipe(name, REGISTRY, "image", settings)


def test_the_defaults_of_every_part_are_written_out():
    recipe = read()
    assert recipe.modality.model_dump()["size"] == 32
    assert recipe.quantizer.model_dump()["commitment"] == 0.25
    assert recipe.decoder.name == "direct"


def test_settings_are_put_in_from_left_to_right():
    recipe = read("train.steps=10", " train.steps = 20", "quantizer.codebook_size=64", "modality.stride=[2, 8]")
    assert recipe.train.steps == 20 and recipe.quantizer.codebook_size == 64 and recipe.modality.stride == [2, 8]


@pytest.mark.parametrize("typed", ["3e-4", "3.0e-4", "0.0003"])
def test_a_rate_may_be_written_as_people_write_it(typed):
    assert read(f"train.learning_rate={typed}").train.learning_rate == 3e-4


def test_another_name_for_a_part_drops_the_options_of_the_one_before():
    recipe = read("quantizer.name=none", "quantizer.dim=16")
    assert recipe.quantizer.model_dump() == {"name": "none", "dim": 16}
    assert read("quantizer.codebook_size=8", "quantizer.name=vector").quantizer.codebook_size == 8


def test_a_setting_may_hold_an_equals_sign():
    assert read("about=a=b").about == "a=b"


@pytest.mark.parametrize("name", sorted(REGISTRY.offers["recipe"]))
def test_every_named_recipe_serves_any_modality(name):
    recipe = read_named_recipe(REGISTRY.recipe(name))
    assert recipe.modality is None and recipe.about.endswith(".")
    assert read(name=name).modality.name == "image"


def test_a_recipe_file_keeps_its_modality_options(tmp_path):
    path = tmp_path / "own.yml"
    path.write_text("modality: {name: image, size: 64}\ntrain: {steps: 7}")
    recipe = read("modality.channels=1", name=str(path))
    assert (recipe.modality.size, recipe.modality.channels, recipe.train.steps) == (64, 1, 7)
    assert read_recipe(str(path), REGISTRY).modality.size == 64


def test_an_error_names_every_wrong_field():
    with pytest.raises(UserError) as error:
        read("train.steps=0", "train.clip=x", "condition=1")
    assert all(part in str(error.value) for part in ("train.steps: 0", "train.clip: 'x'", "condition: 1"))


def test_numbers_are_numbers_and_switches_are_switches():
    assert read("modality.flip=no").modality.flip is False
    for setting in ("train.steps=true", "modality.size=true", "modality.flip=2", "about=true", "quantizer.project=yes"):
        with pytest.raises(UserError, match=setting.split("=")[0]):
            read(setting)


def test_a_named_recipe_that_is_wrong_names_its_file(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {steps: 0}")
    with pytest.raises(UserError, match=r"a\.yaml: train\.steps: 0"):
        read_named_recipe(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="No such file"):
        read_named_recipe(Path(tmp_path / "b.yaml"))


def test_options_that_came_later_stand_in_a_recipe_only_where_they_are_changed():
    """So that a run that was begun without them can go on."""
    plain = read_recipe("vqvae", REGISTRY, "image")
    assert "shift" not in plain.model_dump()["modality"] and "bounded" not in plain.model_dump()["decoder"]
    changed = read_recipe(
        "vqvae", REGISTRY, "image", ["modality.shift=2", "decoder.name=direct", "decoder.bounded=true"]
    )
    assert changed.modality.shift == 2 and changed.decoder.bounded is True


def test_a_recipe_of_a_plugin_that_is_wrong_is_named_when_it_is_asked_for(tmp_path):
    (tmp_path / "mine.yaml").write_text("quantiser: {name: vector}")
    registry = Registry.discover()
    registry.add(
        SimpleNamespace(register_recipes=vqmm.hookimpl(lambda register: register(tmp_path / "mine.yaml"))), "x"
    )
    with pytest.raises(UserError, match=r"the recipe \S+mine.yaml: quantiser: .*Did you mean 'quantizer'"):
        read_recipe("mine", registry, "image")
