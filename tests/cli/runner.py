"""Run a command line inside the test's process, and say what must be true of one that is refused."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from vqmm.cli import main

TINY = ("--set", "modality.size=8", "--set", "modality.channels=1", "--set", "modality.stride=2")
TINY += ("--set", "modality.width=16", "--set", "quantizer.dim=8")
TINY_CODES = (*TINY, "--set", "quantizer.codebook_size=32")


@dataclass
class Finished:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        assert self.code == 0, self.err
        return json.loads(self.out)


class Vqmm:
    """`vqmm("train", "image", ...)`. An exception that is not the user's fault comes through as it is."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Finished:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        return Finished(left.value.code, out, err)

    def refuses(self, *arguments: object) -> str:
        """The one line with which a mistake is answered; exit code 2, nothing on standard output."""
        finished = self(*arguments)
        assert (finished.code, finished.out) == (2, ""), finished
        lines = finished.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("vqmm: "), finished.err
        return lines[0]
