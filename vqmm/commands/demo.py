"""`vqmm demo`: small tokenizers and a prior on built-in data, trained, evaluated and used in minutes, with no network.

What does not need each other runs side by side, in two processes:

    first    pictures, then the joint prior, then what it makes of pictures
    second   sounds, then the classifier of pictures, text, the pages, then what the prior makes of the others

Each part of `PARTS` is small enough for one thread. No checkpoint is chosen by what the demo reports; settings are to
be chosen on `builtin:NAME-validation`.
"""

import json
import time
from dataclasses import dataclass, replace
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vqmm.commands.demo_joint import JointPart, fit_classifier
from vqmm.commands.demo_parts import Finished, TokenizerPart, write_pages
from vqmm.commands.demo_progress import DemoProgress, Stage
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_free, write_text
from vqmm.utils.lanes import lanes
from vqmm.utils.requirements import must_load, problem


@dataclass(frozen=True)
class Parts:
    """What the demo does. `audio` is None where sound is left out."""

    image: TokenizerPart
    audio: TokenizerPart | None
    text: TokenizerPart
    joint: JointPart

    def without_sound(self) -> "Parts":
        """The other parts alone, for a machine on which the libraries of sound do not load."""
        return replace(self, audio=None)

    def shortened(self) -> "Parts":
        """Every part with a few steps on few data: shows that all of it works, and nothing else."""

        def few(part: TokenizerPart, data: str) -> TokenizerPart:
            small = (*part.small, "train.evaluate_samples=16")
            return replace(part, steps=QUICK_STEPS, data=data, small=small)

        image, text = few(self.image, f"{self.image.data}-few"), few(self.text, self.text.data)
        audio = None if self.audio is None else few(self.audio, f"{self.audio.data}-few")
        joint = replace(self.joint, steps=QUICK_STEPS, count=10, fitted=100, shown=2)
        return Parts(image, audio, text, joint)


QUICK_STEPS = 4
ROOM = 200_000_000  # bytes that the demo's folder may take
NO_LOOPS = (
    "vqmm: the C++ loops of the kernels were not built, and plain torch takes their place, in more time: get a C++ "
    "compiler (g++ or clang++) and install vqmm again"
)
SOUND = ("torchaudio", "soundfile", "pystoi")  # what sound needs; importing its plugin would import torch
SHARES = {"image": 0.25, "joint": 0.6, "evaluating": 0.08, "pages": 0.07}  # of the time of the first process

PARTS = Parts(
    image=TokenizerPart(
        name="image",
        about="digits in the fonts of matplotlib, 32 x 32 pixels, 16 codes each: 128 bits",
        modality="image",
        data="builtin:drawn",
        steps=600,
        settings=("modality.size=32", "modality.stride=8", "modality.flip=false"),
        small=("modality.width=64", "modality.blocks=1", "quantizer.codebook_size=256", "quantizer.dim=32"),
        for_prior=True,
    ),
    audio=TokenizerPart(
        name="audio",
        about="dialling tones of about 0.4 s, 25 codes a second: 175 bit/s",
        modality="audio",
        data="builtin:tones",
        steps=700,
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
            "modality.blocks=1",
            "quantizer.codebook_size=128",
            "quantizer.dim=32",
            "train.batch_size=8",
        ),
        for_prior=True,
    ),
    text=TokenizerPart(
        name="text",
        about="8,000 lines of Python's own help, 2 characters a code: 4.5 bits a character",
        modality="text",
        data="builtin:topics",
        steps=150,
        settings=(),
        small=("modality.width=96", "modality.blocks=2"),
    ),
    joint=JointPart(
        name="joint",
        about="One prior over digits that are drawn, dialled and named: each of them from each other",
        names="builtin:names",
        steps=2200,
        settings=(
            "given=1",
            "token_dropout=0.25",  # else a picture is guessed from its own first codes, and not from the word
            "token_dropout_on=last",
            "loss_on=last",  # all of it goes into making one from another
            "prior.width=64",
            "prior.depth=3",
            "prior.dropout=0",
            "prior.learned_positions=true",
            "train.batch_size=32",
            "train.learning_rate=1e-2",
            "train.evaluate_samples=128",
        ),
        names_settings=("modality.front=subwords", "modality.vocabulary=300"),
        guidance=3.0,
        temperature=0.6,
    ),
)


def demo(out: str | Path = "vqmm-demo", *, seed: int = 0, quick: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train small tokenizers and a joint prior on built-in data and use them. Needs the extra `demo`, and no network.

    Args:
        seed: of all that is random in training and drawing; the data stay the same.
        quick: a few steps of everything: whether the demo runs here, not what it can do.

    Returns:
        What `demo.json` in the folder holds too. `parts`: for each its metrics, its page (`report`; that of the joint
        part is of all parts), its folders and seconds, of the joint part `coherence` and what belongs to it;
        `left_out`: modalities whose libraries do not load, and why; `seconds`, `seed`; `next`: commands to try.

    Raises:
        UserError: `out` holds something already, or cannot be written; there is no room; scikit-learn does not load.
    """
    out = Path(out)
    must_be_free(out, "the demo folder", ROOM)
    must_load({"matplotlib": "matplotlib", "sklearn": "vqmm[demo]"}, "the demo")
    left_out = _left_out()
    parts = PARTS.without_sound() if "audio" in left_out else PARTS
    parts = parts.shortened() if quick else parts
    record = _claimed(out)
    start = time.perf_counter()
    with DemoProgress(quiet) as progress:
        for name, why in left_out.items():
            progress.say(f"vqmm: the demo leaves out {name}: {why}")
        if not _has_loops():
            progress.say(NO_LOOPS)
        finished = _run(parts, out, seed, progress)
    following = [part.pop("next") for part in finished.values()]
    result = {
        "out": str(out),
        "seed": seed,
        "parts": finished,
        "left_out": left_out,
        "seconds": time.perf_counter() - start,
        "next": [commands[0] for commands in reversed(following) if commands],
    }
    write_text(record, json.dumps(result, indent=2) + "\n")
    return result


def _claimed(out: Path) -> Path:
    """The file of the result, made at once: of two demos that begin together one is told to go elsewhere."""
    record = out / "demo.json"
    out.mkdir(parents=True, exist_ok=True)
    try:
        record.touch(exist_ok=False)
    except FileExistsError:
        raise UserError(f"the demo folder {out} is another demo's, which has just begun: choose another name") from None
    return record


def _left_out() -> dict[str, str]:
    """The modalities whose libraries do not load, and why."""
    wrong = next(filter(None, (problem(library, "vqmm[audio]") for library in SOUND)), None)
    return {} if wrong is None else {"audio": f"sound needs {wrong}"}


def _has_loops() -> bool:
    """Whether the kernels' loops for a CPU were built when vqmm was installed; without importing torch."""
    spec = find_spec("vqmm.kernels")
    folder = Path(spec.origin or "").parent if spec is not None else Path()
    names = ("nearest_code/_search", "cached_attention/_attend")
    return all(any((folder / f"{name}{suffix}").exists() for suffix in EXTENSION_SUFFIXES) for name in names)


def _run(parts: Parts, out: Path, seed: int, progress: DemoProgress) -> dict[str, Finished]:
    """What each part has made, by name, in the order in which the parts are listed."""
    quantized, joint = [part for part in (parts.image, parts.audio) if part is not None], parts.joint
    data = {part.modality: part.data for part in quantized}
    tokenizers = [*quantized, parts.text]
    said = {name: f"part {i} of {len(tokenizers) + 1}, {name}" for i, name in enumerate([*data, "text", "joint"], 1)}
    with lanes(2, said=["compiled loop"]) as (first, second):
        making = {
            part.name: lane.submit(part.make, out, seed) for part, lane in zip(quantized, (first, second), strict=False)
        }
        classifier = second.submit(fit_classifier, parts.image, joint.fitted)
        making["text"] = second.submit(parts.text.make, out, seed)
        pages = second.submit(write_pages, [out / part.name / "run" for part in tokenizers])
        for part in tokenizers:
            share = SHARES.get(part.name, 0.0)
            progress.add(Stage(said[part.name], share, making[part.name], out / part.name / "run", part.steps))
        finished = {part.name: progress.wait(making[part.name]) for part in quantized}
        start = time.perf_counter()
        training = first.submit(joint.train, out, seed, {name: Path(made["run"]) for name, made in finished.items()})
        progress.add(Stage(said["joint"], SHARES["joint"], training, out / "joint" / "prior", joint.steps))
        prior = progress.wait(training)
        known = progress.wait(classifier)
        halves = (first, ["image"]), (second, [name for name in (*data, "text") if name != "image"])
        evaluating = [lane.submit(joint.evaluate, prior, seed, data, known, into) for lane, into in halves]
        for half, (_, into) in zip(evaluating, halves, strict=True):
            progress.add(Stage(f"{' and '.join(into)} from the others, evaluated", SHARES["evaluating"] / 2, half))
        finished["text"] = progress.wait(making["text"])
        finished["joint"] = joint.summed(prior, data, [progress.wait(half) for half in evaluating])
        finished["joint"]["seconds"] = time.perf_counter() - start
        page = first.submit(joint.page, out, prior, data, finished)
        progress.add(Stage("the pages", SHARES["pages"], page))
        finished["joint"]["report"] = progress.wait(page)
        progress.wait(pages)
    return finished
