"""What a run's folder says without its model: the recipe, the lines of metrics.jsonl, and run.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vqmm.utils.errors import UserError

Series = tuple[list[int], list[float]]  # steps and values


@dataclass(frozen=True)
class Record:
    """A run as its files tell it, finished or not.

    Attributes:
        recipe: recipe.yaml as it stands; not checked again, so that a run of an older version can be shown.
        lines: metrics.jsonl, without a line that a kill cut short.
        noted: run.json (`command`, `machine`), empty where a run has none.
    """

    folder: Path
    recipe: dict[str, Any]
    lines: list[dict[str, Any]]
    noted: dict[str, Any]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind ("train", "held-out", "health"), in the order of the steps."""
        return [line for line in self.lines if line.get("kind") == kind]

    @property
    def plan(self) -> dict[str, Any]:
        """The recipe's `train`."""
        plan = self.recipe.get("train")
        return plan if isinstance(plan, dict) else {}

    @property
    def step(self) -> int:
        """The last step that any line speaks of; 0 before the first."""
        return max((line["step"] for line in self.lines), default=0)

    @property
    def steps(self) -> int | None:
        """How many steps the recipe asks for."""
        return self.plan.get("steps")

    @property
    def has_model(self) -> bool:
        """Whether the run has saved a model, as it does at each look at held-out data."""
        return (self.folder / "tokenizer" / "config.json").is_file()

    def training_seconds(self) -> float | None:
        """From the samples and samples/s of every line: what the clock showed, evaluations included."""
        seconds, before = 0.0, 0
        each = [self.plan.get(name, 1) for name in ("batch_size", "accumulate", "devices")]
        for line in self.of_kind("train"):
            speed = line.get("samples_per_second")
            if speed:
                seconds += (line["step"] - before) * each[0] * each[1] * each[2] / speed
            before = line["step"]
        return seconds or None


def read_record(folder: Path) -> Record:
    """Read a run's folder. A `UserError` where it is none, or where recipe.yaml is damaged."""
    file = folder / "recipe.yaml"
    if not file.is_file():
        raise UserError(f"{folder} is no run: it has no recipe.yaml; give the folder that vqmm train --out made")
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise UserError(f"{file} is not a recipe: it holds {type(recipe).__name__}, and a recipe maps names to values")
    log = folder / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    records = [line for line in map(_object, lines) if isinstance(line.get("step"), int)]
    noted = folder / "run.json"
    return Record(folder, recipe, records, _object(noted.read_text(encoding="utf-8")) if noted.is_file() else {})


def _object(text: str) -> dict[str, Any]:
    """A JSON object; an empty one for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def series(lines: Sequence[Mapping[str, Any]], *path: str) -> Series:
    """Steps and values of what lies at `path` in each line, where it is a number."""
    steps, values = [], []
    for line in lines:
        value: Any = line
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            steps.append(line["step"])
            values.append(float(value))
    return steps, values


def names_at(lines: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    """Every name in the mapping `field` of any line, in the order of their first appearance."""
    return list(dict.fromkeys(name for line in lines for name in (line.get(field) or {})))
