"""`vqmm` in processes of its own that need not import torch first: a server that has imported it forks each of them."""

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
# Lightning and torch.compile take longer to import than such a program takes to run, and each of them would.
HEAVY = ["lightning_fabric", "torch._dynamo", "torchmetrics", "sklearn.datasets"]
SERVER.set_forkserver_preload(["vqmm.training.run", "vqmm.commands.encode", "vqmm.plugins.image", *HEAVY])


class Program:
    """`vqmm` with some arguments, started; what it prints is kept until it has ended."""

    def __init__(self, *arguments: object, **environment: str):
        self.folder = Path(tempfile.mkdtemp(prefix="vqmm-program-"))
        for name in ("out", "err"):
            (self.folder / name).touch()
        told = ([str(argument) for argument in arguments], environment, self.folder)
        self.process = SERVER.Process(target=_main, args=told)
        self.process.start()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever became of the test, nothing runs on and nothing is left."""
        if self.process.is_alive():
            self.process.terminate()  # it passes that on to those that it has started
            self.process.join(10)
            self.process.kill()
        self.process.join()
        shutil.rmtree(self.folder)

    def running(self) -> bool:
        return self.process.is_alive()

    def send(self, signum: signal.Signals) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, signum)

    def ended(self, within: float = 300) -> tuple[int, str, str]:
        """Its exit code, standard output and standard error."""
        self.process.join(within)
        assert not self.process.is_alive(), f"still running after {within} s"
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return self.process.exitcode, out, err


def output_of(*arguments: object, **environment: str) -> str:
    """What it prints when nothing goes wrong."""
    with Program(*arguments, **environment) as program:
        code, out, err = program.ended()
    assert code == 0, err
    return out


def empty_page(record: Any, *_: object) -> Path:
    """In the place of `write_page`: a page takes longer than the training of a few steps that it is about."""
    page = record.folder / "report.html"
    page.touch()
    return page


def _main(arguments: Sequence[str], environment: dict[str, str], folder: Path) -> None:
    import sys

    import torch

    from vqmm.cli import main
    from vqmm.commands import train
    from vqmm.training import setup

    setup.STARTS["ddp_spawn"] = "fork"  # what was imported before is there; spawned ones have a test of their own
    train.write_page = empty_page
    os.environ.update(environment, TMPDIR=str(folder))
    tempfile.tempdir = None  # look for it again
    torch.set_num_threads(1)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY), number)
    sys.argv = ["vqmm", *arguments]
    main(arguments)
