"""What runs of tokenizers and of priors start with: processes and precision, what was typed, the recipe of before."""

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml
from pydantic import BaseModel

from vqmm.recipe import Train
from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

for _name in ("distributed", "rank_zero"):  # they greet once per process; the library sets its own level when it loads
    logging.getLogger(f"lightning_fabric.utilities.{_name}").setLevel(logging.WARNING)

STARTS: dict[str, Literal["spawn", "fork", "popen"]] = {"ddp_spawn": "spawn", "ddp_fork": "fork", "ddp": "popen"}
REPORT_EVERY = 20  # steps between lines of metrics.jsonl
# in a resumed run: they change no weight
MAY_DIFFER = ("train.device", "train.workers", "train.cache_mb", "train.profile")


def command_line() -> str:
    """What was typed to get here."""
    program = Path(sys.argv[0])
    module = program.name == "__main__.py"
    return shlex.join([*(["python", "-m", program.parent.name] if module else [program.name]), *sys.argv[1:]])


def make_fabric(plan: Train) -> "Fabric":
    """The processes and the precision that a recipe asks for. A `UserError` for devices that are not there."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    have = torch.cuda.device_count()
    if plan.device == "cuda" and not have:
        raise UserError("train.device: cuda was asked for and there is no CUDA device: take auto or cpu")
    accelerator = "cuda" if have and plan.device != "cpu" else "cpu"
    if accelerator == "cuda" and plan.devices > have:
        raise UserError(f"train.devices: {plan.devices} were asked for and there are {have} CUDA devices")
    # spawned, not run as scripts, so that a Python program may call `train` too; buffers are never broadcast: the
    # quantizer keeps its own equal on all processes
    many = plan.devices * plan.nodes > 1
    strategy = DDPStrategy(start_method=STARTS[plan.strategy], broadcast_buffers=False) if many else "auto"
    precision = {"float32": "32-true", "bfloat16": "bf16-mixed"}[plan.precision]
    return Fabric(
        accelerator=accelerator, devices=plan.devices, num_nodes=plan.nodes, strategy=strategy, precision=precision
    )


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
