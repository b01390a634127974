"""metrics.jsonl: one JSON object a line, in the order of the steps."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqmm.utils.errors import UserError
from vqmm.utils.files import write_text


class MetricsLog:
    """Appends as things happen; a run that goes on from an earlier step forgets what came after it.

    Args:
        path: None: nothing is written (by all processes but the first).
    """

    def __init__(self, path: Path | None, step: int = 0, tensorboard: bool = False):
        self.path = path
        self._writer = summary_writer(path.parent / "tensorboard", step) if path and tensorboard else None
        if path is not None and path.is_file():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_text(path, "".join(f"{line}\n" for line in kept))

    def write(self, kind: str, **values: Any) -> None:
        """Append a line; `values` must hold `step`. TensorBoard, where wanted, gets its numbers too."""
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")
        if self._writer is not None:
            for name, value in _numbers(values):
                self._writer.add_scalar(f"{kind}/{name}", value, values["step"])
            self._writer.flush()


def check_tensorboard() -> None:
    """A `UserError` where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            'train.tensorboard needs TensorBoard: pip install "vqmm[tensorboard]", or set it to false'
        ) from None


def summary_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer; it hides what an earlier process of the run wrote after `step`."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield f"{prefix}{name}", value


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the line that a kill cut short
        return float("inf")
