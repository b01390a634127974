"""Checkpoints: everything a run needs to go on, as safetensors and JSON. No pickle.

    RUN/checkpoints/step-00000500/{state.safetensors, state.json}

A checkpoint appears by a rename, whole; whatever stops the writing leaves the ones before it as they were.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vqmm.utils.errors import UserError
from vqmm.utils.files import new_folder, write_tensors, write_text


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write one checkpoint. A `UserError` that names what is safe, where it cannot be written (a full disk)."""
    path = folder / f"step-{step:08d}"
    try:
        with new_folder(path) as new:
            write_tensors(new / "state.safetensors", tensors)
            write_text(new / "state.json", json.dumps({"step": step, **state}, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        before = checkpoints(folder)
        whole = f"the one of {before[-1].name} is whole" if before else "there is none before it"
        raise UserError(
            f"the checkpoint of step {step} could not be written: {error}; {whole}: make room, then --resume"
        ) from None
    return path


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors, on the CPU, and what its JSON says."""
    try:
        return load_file(path / "state.safetensors"), json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint {path} is damaged: {' '.join(str(error).split())[:160]}: remove it, then --resume"
        ) from None


def checkpoints(folder: Path) -> list[Path]:
    """Those of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())


def keep_last(folder: Path, last: int, best: int | None) -> None:
    """Remove all but the last so many and the one of step `best`; and what a killed writer left behind."""
    kept = {path.name for path in checkpoints(folder)[-last:]} | {f"step-{best:08d}" if best is not None else ""}
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def room_bytes(model: nn.Module, more: int) -> int:
    """What a run writes at least: its model, and `more` checkpoints beside the one that is being written, each of the
    weights and two averages of their gradients.
    """
    weights = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    return weights * (1 + 3 * (1 + max(more, 0)))


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each under its name with `prefix` before it."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`: those whose names begin with `prefix`."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors: `optimizer.<parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`, into an optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in unprefixed("optimizer.", tensors).items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
