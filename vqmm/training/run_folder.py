"""The folder of a run, of a tokenizer or of a prior: how it was begun, and its checkpoints."""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from torch import Tensor

from vqmm.generation.recipe import PriorRecipe
from vqmm.recipe import Recipe
from vqmm.training.base_loop import BaseLoop
from vqmm.training.checkpoint import checkpoints, keep_last, read_checkpoint, room_bytes, write_checkpoint
from vqmm.utils.errors import UserError
from vqmm.utils.files import lacks_room, write_text
from vqmm.utils.machine import machine

# in a resumed run: they change no weight
MAY_DIFFER = ("train.device", "train.workers", "train.cache_mb", "train.profile")


@dataclass(frozen=True)
class RunFolder:
    """RUN/{recipe.yaml, run.json, metrics.jsonl, checkpoints/}, written by one process.

    Attributes:
        recipe: with the data that it names.
        data_fingerprint: of that data: a resumed run must have the same.
        resume: whether to go on from the last checkpoint.
        command: what was typed.
    """

    path: Path
    recipe: Recipe | PriorRecipe
    data_fingerprint: str
    resume: bool
    command: str

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def restore(self, loop: BaseLoop) -> dict[str, Any] | None:
        """Let a loop go on from the last checkpoint of a run that is resumed. Writes nothing.

        Returns:
            The state that the checkpoint was written with; None where the run begins anew.

        Raises:
            UserError: the disk has no room for what the run will write; the run was begun with another recipe or with
                other data; the checkpoint is damaged.
        """
        done = checkpoints(self.checkpoints)
        room = room_bytes(loop.module, self.recipe.train.keep_checkpoints - len(done))
        lacking = loop.fabric.broadcast(lacks_room(self.path, "the run folder", room))  # one answer for all processes
        if lacking:
            raise UserError(lacking)
        if self.resume:
            must_be_same(self.path, self.recipe)
        if not (self.resume and done):
            return None
        tensors, state = read_checkpoint(done[-1])
        if state["data_fingerprint"] != self.data_fingerprint:
            raise UserError(
                f"{self.path} was begun with other data (fingerprint {state['data_fingerprint']}, now "
                f"{self.data_fingerprint}): bring it back, or start a new run"
            )
        loop.load_state_dict(state["step"], tensors)
        return state

    def describe(self) -> None:
        """Write recipe.yaml and run.json: from now on there is a run to resume."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "recipe.yaml", self.recipe.to_yaml())
        made = {"command": self.command, "machine": machine()}
        write_text(self.path / "run.json", json.dumps(made, indent=2) + "\n")

    def write_checkpoint(self, step: int, tensors: Mapping[str, Tensor], best: Mapping[str, Any], **state: Any) -> None:
        """Write a checkpoint, then remove all but the last ones and the one of `best["step"]`."""
        state |= {"data_fingerprint": self.data_fingerprint, "best": best}
        write_checkpoint(self.checkpoints, step, tensors, state)
        keep_last(self.checkpoints, self.recipe.train.keep_checkpoints, best.get("step"))


def must_be_same(out: Path, recipe: BaseModel) -> None:
    """Refuse to go on with another recipe; a `UserError` that names the fields that differ."""
    file = out / "recipe.yaml"
    if not file.is_file():
        raise UserError(f"{out} is no run to resume: it has no recipe.yaml; start it without --resume")
    was, now = _flat(yaml.safe_load(file.read_text(encoding="utf-8"))), _flat(recipe.model_dump(mode="json"))
    differ = [name for name in sorted(was | now) if was.get(name) != now.get(name) and name not in MAY_DIFFER]
    if differ:
        changes = ", ".join(f"{name} was {was.get(name)!r} and is {now.get(name)!r}" for name in differ)
        raise UserError(f"{out} was begun with another recipe: {changes}: repeat the command it was begun with")


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def command_line() -> str:
    """What was typed to get here."""
    program = Path(sys.argv[0])
    module = program.name == "__main__.py"
    return shlex.join([*(["python", "-m", program.parent.name] if module else [program.name]), *sys.argv[1:]])
