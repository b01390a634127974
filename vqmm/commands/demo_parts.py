"""What the demo does with one modality: a tokenizer, trained, evaluated and used."""

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALL = "all-tokens"  # the folder of what a prior learns from
USED = 8  # held-out samples that are encoded and decoded

Finished = dict[str, Any]  # `about`, `metrics`, `report`, `seconds`, `next` and the paths of what was made


@dataclass(frozen=True)
class TokenizerPart:
    """Train a tokenizer on built-in data, evaluate it, encode a few held-out samples and decode them."""

    name: str
    about: str
    modality: str
    data: str
    steps: int
    settings: Sequence[str]  # what the data itself asks for
    small: Sequence[str]  # what makes it quick
    recipe: str = "vqvae-ema"
    for_prior: bool = False  # encode all of the data as well

    def make(self, out: Path, seed: int) -> Finished:
        """All but the page, below `out`, in a process of one torch thread."""
        from vqmm.commands.decode import decode
        from vqmm.commands.encode import encode
        from vqmm.commands.train import train

        start = time.perf_counter()
        folder = out / self.name
        run, originals, tokens, decoded = (folder / name for name in ("run", "originals", "tokens", "decoded"))
        once = f"train.evaluate_every={self.steps}"  # at the end: nothing is chosen by held-out samples
        settings = [*self.settings, *self.small, once, f"train.seed={seed}"]
        trained = train(
            self.modality, self.data, run, self.recipe, steps=self.steps, settings=settings, quiet=True, report=False
        )
        _write_held_out(run, self.data, originals)
        encoded = encode(run, originals, tokens)
        decode(run, tokens, decoded)
        if self.for_prior:
            encode(run, self.data, folder / ALL)
        return {
            "about": self.about,
            "run": str(run),
            "metrics": trained["metrics"],
            "originals": str(originals),
            "tokens": str(tokens),
            "codes": encoded["codes"],
            "decoded": str(decoded),
            "report": str(run / "report.html"),
            "next": self._next(folder, run, originals),
            "seconds": time.perf_counter() - start,
        }

    def _next(self, folder: Path, run: Path, originals: Path) -> list[str]:
        """Commands that work as they stand."""
        again = ["vqmm", "train", self.modality, "--data", self.data, "--recipe", "vqvae"]
        again += ["--out", str(folder / "vqvae")]
        for setting in self.settings:
            again += ["--set", setting]
        evaluate = ["vqmm", "eval", str(run), "--data", self.data, "--whole"]
        encode = ["vqmm", "encode", str(run), str(originals), "--out", str(folder / "more-tokens")]
        return [shlex.join(words) for words in (evaluate, encode, again)]


def _write_held_out(run: Path, data: str, folder: Path) -> None:
    """A few samples that were not trained on, as files."""
    from vqmm.data.source import Source
    from vqmm.evaluation.evaluate import originals_of
    from vqmm.tokenizer.tokenizer import Tokenizer

    modality = Tokenizer.load(run).modality
    folder.mkdir()
    for sample in Source(modality, data).held_out()[:USED]:
        (original,) = originals_of(modality.collate([sample.read()], [sample.key]))
        modality.write(original, folder / re.sub(r"\W+", "-", sample.key))


def write_pages(runs: Sequence[Path]) -> None:
    """The page of each run."""
    from vqmm.pages import report

    for run in runs:
        report(run)
