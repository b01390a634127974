"""metrics.jsonl: one JSON object a line, in the order of the steps."""

import json
from pathlib import Path
from typing import Any

from vqmm.files import write_text


class MetricsLog:
    """Appends as things happen; a run that goes on from an earlier step forgets what came after it."""

    def __init__(self, path: Path, step: int = 0):
        self.path = path
        if path.is_file():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_text(path, "".join(f"{line}\n" for line in kept))

    def write(self, kind: str, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the line that a kill cut short
        return float("inf")
