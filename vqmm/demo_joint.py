"""The demo's joint part: one prior over the tokens of handwritten digits, of dialling tones and of digits' names."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqmm.data.builtin import DIGIT_NAMES, dialled_digit
from vqmm.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from vqmm.generator import Generator

LABELS = "0123456789"
HEARD = 100  # generated sounds that Goertzel's filter listens to


@dataclass(frozen=True)
class JointPart:
    """Encode what earlier parts tokenize, train one prior over all of it, count coherence and show what it makes.

    Attributes:
        data: by modality its labelled data; for "text" names of the labels, which are not quantized.
        built_on: for each other modality the part whose tokenizer it is.
        views: how many altered ones stand beside each training sample of a modality, if any.
    """

    name: str
    about: str
    data: Mapping[str, str]
    built_on: Mapping[str, str]
    views: Mapping[str, int]
    steps: int
    settings: Sequence[str]
    names: Sequence[str]  # settings of the names' tokenizer
    guidance: float
    count: int = 200

    def go(self, folder: Path, done: Mapping[str, dict[str, Any]], quiet: bool) -> dict[str, Any]:
        """`coherence` and the like as of `vqmm.coherence`; `report`: a page of this and of the parts before."""
        from vqmm.evaluation.coherence import coherence
        from vqmm.generator import Generator
        from vqmm.report.demo import render
        from vqmm.training.prior_run import train_prior
        from vqmm.training.run import train
        from vqmm.transcode import encode

        runs = {name: Path(done[part]["run"]) for name, part in self.built_on.items()}
        runs["text"] = folder / "names"
        train("text", self.data["text"], runs["text"], "identity", settings=self.names, quiet=True)
        for name, run in runs.items():
            encode(run, self.data[name], folder / "tokens" / name, views=self.views.get(name, 0))
        tokens = [folder / "tokens" / name for name in runs]
        prior = folder / "prior"
        train_prior([*runs.values()], prior, tokens=tokens, steps=self.steps, settings=self.settings, quiet=quiet)
        found = coherence(prior, self.data, count=self.count, guidance=self.guidance)
        generator = Generator.load(prior)
        cells = [cell for one, row in found["coherence"].items() for other, cell in row.items() if one != other]
        told = {
            "about": self.about,
            "run": str(prior),
            "metrics": {"coherence": sum(cells) / len(cells), "lowest_cell": min(cells), **self._heard(generator)},
            **{name: found[name] for name in ("coherence", "intervals", "control", "judges", "chance", "rules")},
            "next": self._next(prior),
        }
        page = folder.parent / "index.html"
        modalities = {name: tokenizer.modality for name, tokenizer in generator.tokenizers.items()}
        write_text(page, render(page.parent, done, told, modalities, self.examples(generator)))
        return {**told, "report": str(page)}

    def examples(self, generator: "Generator") -> "list[tuple[str, list[Tensor], dict[str, list[Tensor]]]]":
        """For each modality: its name, a sample of every digit, held-out where there are such, and what the prior makes
        of each of them in the others."""
        from vqmm.sampling import Draw

        draw = Draw(guidance=self.guidance)
        found = []
        for one in self.data:
            given = self._one_of_each(generator, one)
            prompts = [{one: sample} for sample in given]
            others = [other for other in self.data if other != one]
            found.append((one, given, {o: generator.generate(o, given=prompts, draw=draw, seed=1) for o in others}))
        return found

    def _one_of_each(self, generator: "Generator", name: str) -> "list[Tensor]":
        from vqmm.data.source import Source

        modality = generator.tokenizers[name].modality
        if name == "text":
            return [modality.ids_of(word) for word in DIGIT_NAMES]
        held_out = {sample.label: sample for sample in Source(modality, self.data[name]).held_out()}
        return [modality.collate([held_out[label].read()], [label]).goals[0] for label in LABELS]

    def _heard(self, generator: "Generator") -> dict[str, float]:
        """The share of sounds made from names in which Goertzel's filter hears the right two tones."""
        from vqmm.sampling import Draw

        goals = [LABELS[i % len(LABELS)] for i in range(HEARD)]
        prompts = [{"text": DIGIT_NAMES[int(goal)]} for goal in goals]
        sounds = generator.generate("audio", given=prompts, draw=Draw(guidance=self.guidance), seed=2)
        right = [dialled_digit(sound[0].numpy()) == goal for sound, goal in zip(sounds, goals, strict=True)]
        return {"goertzel": sum(right) / len(right)}

    def _next(self, prior: Path) -> list[str]:
        def make(want: str, given: str, out: str) -> str:
            words = ["vqmm", "generate", str(prior), "--want", want, "--given", given]
            return shlex.join([*words, "--guidance", f"{self.guidance:g}", "--out", str(prior.parent / out)])

        return [make("image", "text=seven", "sevens"), make("audio", "text=three", "threes")]
