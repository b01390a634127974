"""What `vqmm compare` is to do: its arguments, checked before any training starts and kept in its folder."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqmm.contracts.modality import Modality
from vqmm.data.loader import Views
from vqmm.data.source import Source, evaluation_samples
from vqmm.recipe import Recipe, read_recipe
from vqmm.registry import Registry
from vqmm.tokenizer.storage import build_modality
from vqmm.training.run_folder import must_be_same
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_free, must_be_writable, write_text

FILE = "plan.json"  # what makes a folder one of a comparison
OWN_SETTINGS = {"train.seed": "--seeds", "train.steps": "--steps or --seconds"}  # compare sets these itself

Calibrations = dict[str, dict[str, float]]  # recipe -> how many steps fit into the seconds, and how that was found


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison whose arguments fit.

    Attributes:
        names: for each recipe what it is called in the table, and the name or file that was given.
        recipes: each of them read and checked, with the settings put in.
        steps: the budget of every run; None where it is `seconds`.
        split: what the runs are evaluated on, in words.
    """

    modality: Modality
    names: dict[str, str]
    recipes: dict[str, Recipe]
    source: Source
    seeds: tuple[int, ...]
    steps: int | None
    seconds: float | None
    settings: tuple[str, ...]
    split: str

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Every (recipe, seed), in the order in which they are trained."""
        return [(label, seed) for label in self.recipes for seed in self.seeds]

    def recipe(self, label: str, seed: int, steps: int) -> Recipe:
        """What the recipe.yaml of a run will hold."""
        recipe = self.recipes[label]
        plan = recipe.train.model_copy(update={"seed": seed, "steps": steps})
        return recipe.model_copy(update={"train": plan, "data": self.source.path})

    def arguments(self) -> dict[str, Any]:
        """What must be the same when the comparison goes on."""
        return {
            "modality": self.modality.name,
            "recipes": list(self.names.values()),
            "data": self.source.path,
            "data_fingerprint": self.source.fingerprint(),
            "steps": self.steps,
            "seconds": self.seconds,
            "seeds": list(self.seeds),
            "settings": list(self.settings),
        }


def make_plan(
    registry: Registry,
    modality: str,
    recipes: str | Sequence[str],
    data: str | Path,
    *,
    steps: int | None,
    seconds: float | None,
    seeds: str | Sequence[int],
    settings: Sequence[str],
) -> ComparisonPlan:
    """Check everything that can be checked without training. A `UserError` says what does not fit."""
    if steps is not None and seconds is not None:
        raise UserError(f"a budget is steps or seconds: --steps {steps} and --seconds {seconds:g} are both given")
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"--seconds {seconds:g}: give a number above 0")
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if name in OWN_SETTINGS:
            raise UserError(f"--set {setting}: compare sets {name} itself: use {OWN_SETTINGS[name]}")
    numbers = numbers_of(seeds)
    names = _names(recipes)
    extra = [f"train.steps={steps}"] if steps is not None else []
    read = {label: _read(name, registry, modality, [*settings, *extra]) for label, name in names.items()}
    if steps is None and seconds is None:
        steps = _common_steps(read)
    modalities = {label: build_modality(recipe.model_dump(), registry) for label, recipe in read.items()}
    _must_look_alike(modalities)
    first = next(iter(modalities.values()))
    source = Source(first, data)
    Views(first, source.training(), {}).check()
    split = evaluation_samples(source, source.path)[1]
    return ComparisonPlan(first, names, read, source, numbers, steps, seconds, tuple(settings), split)


def look_at(out: Path) -> None:
    """Refuse a folder that no comparison can be put into, or go on in, before anything else is done."""
    (must_be_writable if (out / FILE).is_file() else must_be_free)(out, "the folder of the comparison")


def claim(out: Path, plan: ComparisonPlan) -> Calibrations:
    """Make the folder of a comparison, or go on in the one of the same arguments; returns what was calibrated there.

    Raises:
        UserError: the folder is of another kind, or was begun with other arguments or recipes.
    """
    file = out / FILE
    record = read_json(file) if file.is_file() else {}
    if "arguments" not in record:
        must_be_free(out, "the folder of the comparison")
        out.mkdir(parents=True, exist_ok=True)
        note(out, plan, {})
        return {}
    was, now = record["arguments"], plan.arguments()
    differ = [name for name in now if was.get(name) != now[name]]
    if differ:
        said = ", ".join(_difference(name, was.get(name), now[name]) for name in differ)
        raise UserError(f"{out} was begun with other arguments: {said}: repeat those, or choose another folder")
    calibrations: Calibrations = record["calibrations"]
    for label, seed in plan.jobs:  # a recipe's file may have changed
        folder = run_folder(out, label, seed)
        steps = plan.steps if plan.steps is not None else calibrations.get(label, {}).get("steps")
        if is_begun(folder) and steps is not None:
            must_be_same(folder, plan.recipe(label, seed, int(steps)))
    return calibrations


def _difference(name: str, was: Any, now: Any) -> str:
    if name == "settings" and set(was) != set(now):  # of a long list only what is not in the other
        was, now = [each for each in was if each not in now], [each for each in now if each not in was]
    return f"{name} was {was!r} and is {now!r}"


def note(out: Path, plan: ComparisonPlan, calibrations: Mapping[str, Mapping[str, float]]) -> None:
    """Keep the arguments, and the steps that were calibrated so far: a run that goes on needs the same number."""
    record = {"arguments": plan.arguments(), "calibrations": calibrations}
    write_text(out / FILE, json.dumps(record, indent=2) + "\n")


def run_folder(out: Path, label: str, seed: int) -> Path:
    """The folder below `out` of the run that trains recipe `label` with `seed`."""
    return out / "runs" / f"{label}-seed-{seed}"


def is_begun(run: Path) -> bool:
    """Whether a run has got far enough to be gone on with."""
    return (run / "recipe.yaml").is_file()


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. A `UserError` where the file holds anything else."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged: {' '.join(str(error).split())}: remove it, then repeat the call") from None


def finite(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """JSON has neither infinity nor NaN."""
    return {name: value if value is None or math.isfinite(value) else None for name, value in figures.items()}


def numbers_of(seeds: str | Sequence[int]) -> tuple[int, ...]:
    """Whole numbers from 0 on, none of them twice."""
    parts = [str(part).strip() for part in (seeds.split(",") if isinstance(seeds, str) else seeds)]
    wrong = [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 19)]
    if wrong or not parts:
        said = repr(wrong[0]) if wrong else "an empty list"
        raise UserError(f"--seeds: {said} is not a whole number from 0 on: write them as 0,1,2")
    numbers = tuple(map(int, parts))
    refuse_repeats("--seeds", numbers)
    return numbers


def names_of(option: str, names: str | Sequence[str], example: str) -> list[str]:
    """As they were given, none of them empty."""
    given = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    if not all(given) or not given:
        raise UserError(f"{option} {','.join(given)!r} lacks a name: write them as {example}")
    return given


def _names(recipes: str | Sequence[str]) -> dict[str, str]:
    """The given names and files by what they are called in the table and on disk."""
    given = names_of("--recipes", recipes, "ae,vqvae-ema")
    labels = [Path(name).stem if name.endswith((".yaml", ".yml")) else name for name in given]
    refuse_repeats("--recipes", labels)
    return dict(zip(labels, given, strict=True))


def refuse_repeats(option: str, values: Sequence[object]) -> None:
    """A `UserError` for values that an option of the command line is given more than once."""
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise UserError(f"{option}: {', '.join(map(str, twice))} is there more than once: name each once")


def _read(name: str, registry: Registry, modality: str, settings: Sequence[str]) -> Recipe:
    registry.modality(modality)
    try:
        return read_recipe(name, registry, modality, settings)
    except UserError as error:  # a setting may fit one recipe and not the next
        raise UserError(f"recipe {name}: {error}") from None


def _common_steps(recipes: Mapping[str, Recipe]) -> int:
    steps = {label: recipe.train.steps for label, recipe in recipes.items()}
    if len(set(steps.values())) > 1:
        listing = ", ".join(f"{label} {count}" for label, count in steps.items())
        raise UserError(
            f"the recipes have different train.steps ({listing}): give one budget, --steps N or --seconds S"
        )
    return next(iter(steps.values()))


def _must_look_alike(modalities: Mapping[str, Modality]) -> None:
    """All runs are evaluated on the same views of the same samples, or their figures could not stand in one table."""
    views = {label: f"{each.evaluation().view}, {each.channels} channels" for label, each in modalities.items()}
    if len(set(views.values())) > 1:
        listing = "; ".join(f"{label} {view}" for label, view in views.items())
        raise UserError(f"the recipes look at the data in different ways ({listing}): give them one view with --set")
