"""Processes and precision: what Fabric is asked for."""

import logging
from typing import TYPE_CHECKING, Literal

import torch

from vqmm.recipe import Train
from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

for _name in ("distributed", "rank_zero"):  # they greet once per process; the library sets its own level when it loads
    logging.getLogger(f"lightning_fabric.utilities.{_name}").setLevel(logging.WARNING)

STARTS: dict[str, Literal["spawn", "fork", "popen"]] = {"ddp_spawn": "spawn", "ddp_fork": "fork", "ddp": "popen"}
REPORT_EVERY = 20  # steps between lines of metrics.jsonl


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
