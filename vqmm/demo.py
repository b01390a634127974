"""`vqmm demo`: small tokenizers and a prior on built-in data, trained, judged and used in minutes, with no network.

The demo is a list of parts (`PARTS`). Each gets a folder and what the parts before it have made, so that one may build
upon another (a prior over the tokens of several tokenizers, say).
"""

import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vqmm.demo_joint import JointPart
from vqmm.files import must_be_free

USED = 8  # held-out samples that are encoded and decoded

Told = dict[str, Any]  # `about`, `metrics`, `report`, `seconds`, `next` and the paths of what was made


class Part(Protocol):
    """One thing that the demo does."""

    @property
    def name(self) -> str:
        """The folder's name, and the key of the result."""
        ...

    def go(self, folder: Path, done: Mapping[str, Told], quiet: bool) -> Told:
        """Do it, in a folder of its own; `done`: what the parts before this one have told, by name."""
        ...


@dataclass(frozen=True)
class TokenizerPart:
    """Train a tokenizer on built-in data, judge it, encode a few held-out samples and decode them."""

    name: str
    about: str
    modality: str
    data: str
    steps: int
    settings: Sequence[str]  # what the data itself asks for
    small: Sequence[str]  # what makes it quick
    recipe: str = "vqvae-ema"

    def go(self, folder: Path, done: Mapping[str, Told], quiet: bool) -> Told:
        from vqmm.report import report
        from vqmm.training.run import train
        from vqmm.transcode import decode, encode

        run, originals, tokens, decoded = (folder / name for name in ("run", "originals", "tokens", "decoded"))
        settings = [*self.settings, *self.small]
        told = train(self.modality, self.data, run, self.recipe, steps=self.steps, settings=settings, quiet=quiet)
        _write_held_out(run, self.data, originals)
        encoded = encode(run, originals, tokens)
        decode(run, tokens, decoded)
        return {
            "about": self.about,
            "run": str(run),
            "metrics": told["metrics"],
            "originals": str(originals),
            "tokens": str(tokens),
            "codes": encoded["codes"],
            "decoded": str(decoded),
            "report": told.get("report") or report(run)["report"],
            "next": self._next(folder, run, originals),
        }

    def _next(self, folder: Path, run: Path, originals: Path) -> list[str]:
        """Commands that work as they stand."""
        again = ["vqmm", "train", self.modality, "--data", self.data, "--recipe", "vqvae"]
        again += ["--out", str(folder / "vqvae")]
        for setting in self.settings:
            again += ["--set", setting]
        judge = ["vqmm", "eval", str(run), "--data", self.data, "--whole"]
        encode = ["vqmm", "encode", str(run), str(originals), "--out", str(folder / "more-tokens")]
        return [shlex.join(words) for words in (judge, encode, again)]


PARTS: list[Part] = [
    TokenizerPart(
        name="image",
        about="1,797 handwritten digits of 8 x 8 pixels, 16 pairs of codes each",
        modality="image",
        data="builtin:digits",
        steps=1000,
        settings=("modality.size=8", "modality.channels=1", "modality.stride=2"),
        # digits are not mirrored; codes that are few, and of what is near (no blocks), soon tell a prior which digit
        small=(
            "modality.flip=false",
            "modality.affine=0.1",
            "modality.width=64",
            "modality.blocks=0",
            "quantizer.groups=2",
            "quantizer.codebook_size=8",
            "quantizer.dim=16",
            "train.batch_size=64",
        ),
        recipe="gvq",
    ),
    TokenizerPart(
        name="audio",
        about="2,000 dialling tones of about 0.4 s, 25 codes a second: 150 bit/s",
        modality="audio",
        data="builtin:tones",
        steps=800,
        # at so low a rate phases cannot be kept: spectra are what counts
        settings=(
            "modality.sample_rate_hz=8000",
            "modality.stride=320",
            "modality.seconds=0.4",
            "modality.waveform_weight=0",
            "modality.mel_weight=1",
            "modality.envelope_weight=0",
        ),
        small=(
            "modality.width=64",
            "modality.blocks=2",
            "quantizer.codebook_size=64",
            "quantizer.dim=32",
            "train.batch_size=8",
        ),
    ),
    TokenizerPart(
        name="text",
        about="8,000 lines of Python's own help, 2 characters a code: 4.5 bits a character",
        modality="text",
        data="builtin:topics",
        steps=150,
        settings=(),
        small=("modality.width=96", "modality.blocks=2", "train.batch_size=32"),
    ),
    JointPart(
        name="joint",
        about="One prior over digits that are written, dialled and named: each of them from each other",
        data={"image": "builtin:digits", "audio": "builtin:tones", "text": "builtin:names"},
        built_on={"image": "image", "audio": "audio"},
        views={"image": 4},
        steps=4000,
        settings=(
            "hide=0.15",
            "prior.width=112",
            "prior.depth=3",
            "prior.dropout=0",
            "prior.places=true",
            "train.batch_size=16",
            "train.learning_rate=2e-3",
            "train.evaluate_every=2000",
            "train.evaluate_samples=128",
        ),
        names=("modality.front=subwords", "modality.vocabulary=300"),
        guidance=3.0,
    ),
]


def demo(out: str | Path = "vqmm-demo", *, quiet: bool = False) -> dict[str, Any]:
    """Train small tokenizers and a joint prior on built-in data and use them. Needs the extra `demo`, and no network.

    Returns:
        `parts`: for each its metrics, its page (`report`; that of the joint part is of all parts), its folders and
        seconds, of the joint part `coherence` and what belongs to it; `next`: commands to try.

    Raises:
        UserError: `out` holds something already; scikit-learn is absent.
    """
    out = Path(out)
    must_be_free(out, "the demo folder")
    done: dict[str, Told] = {}
    with _one_thread():
        for part in PARTS:
            start = time.perf_counter()
            told = part.go(out / part.name, done, quiet)
            done[part.name] = {**told, "seconds": time.perf_counter() - start}
    following = [commands for told in reversed(done.values()) for commands in told.pop("next")[:1]]
    return {"out": str(out), "parts": done, "next": following}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and lose much where another program wants the core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_held_out(run: Path, data: str, folder: Path) -> None:
    """A few samples that were not trained on, as files."""
    from vqmm.data.source import Source
    from vqmm.evaluation.evaluate import originals_of
    from vqmm.tokenizer import Tokenizer

    modality = Tokenizer.load(run).modality
    folder.mkdir()
    for sample in Source(modality, data).held_out()[:USED]:
        (original,) = originals_of(modality.collate([sample.read()], [sample.key]))
        modality.write(original, folder / re.sub(r"\W+", "-", sample.key))
