"""The demo's joint part: one prior over the tokens of drawn digits, of dialling tones and of digits' names."""

import shlex
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqmm.commands.demo_parts import ALL, Finished, TokenizerPart
from vqmm.data.builtin import dialled_digit
from vqmm.utils.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from vqmm.contracts.labels import LabelClassifier
    from vqmm.contracts.modality import Modality
    from vqmm.generation.generator import Generator

LABELS = "0123456789"
NAMES = "text"  # the modality of names, which are not quantized


@dataclass(frozen=True)
class JointPart:
    """Train one prior over what earlier parts have encoded, count coherence and show what it makes.

    Attributes:
        names: the names' data.
        settings: of the prior.
        names_settings: of the names' tokenizer, which does not quantize.
        count: samples of each cell of the coherence.
        fitted: real pictures that the classifier of pictures learns from.
        shown: digits on the page.
    """

    name: str
    about: str
    names: str
    steps: int
    settings: Sequence[str]
    names_settings: Sequence[str]
    guidance: float
    temperature: float
    count: int = 400
    fitted: int = 1000
    shown: int = len(LABELS)

    def train(self, out: Path, seed: int, runs: Mapping[str, Path]) -> Path:
        """The prior's run below `out`, in a process of one torch thread. `runs`: the tokenizers, by modality."""
        from vqmm.commands.encode import encode
        from vqmm.commands.prior import train_prior
        from vqmm.commands.train import train

        folder = out / self.name
        names, tokens, prior = folder / "names", folder / "names-tokens", folder / "prior"
        train(NAMES, self.names, names, "identity", settings=self.names_settings, quiet=True, report=False)
        encode(names, self.names, tokens)
        once = f"train.evaluate_every={self.steps}"  # at the end: nothing is chosen by held-out samples
        train_prior(
            [*runs.values(), names],
            prior,
            tokens=[*(run.parent / ALL for run in runs.values()), tokens],
            steps=self.steps,
            settings=[*self.settings, once, f"train.seed={seed}"],
            quiet=True,
        )
        return prior

    def evaluate(
        self,
        prior: Path,
        seed: int,
        data: Mapping[str, str],
        pictures: "LabelClassifier",
        into: Sequence[str],
    ) -> Finished:
        """What the prior makes of each modality in some of the others, and how often that is right: of `coherence_of`.

        Args:
            data: where held-out items are, by modality.
            pictures: a fitted classifier. Sounds are named by Goertzel's filter, names by being the same.
            into: what is made and evaluated.
        """
        from vqmm.evaluation.coherence import classifier_of, coherence_of
        from vqmm.generation.generator import Generator
        from vqmm.generation.sampling import Draw

        data = {**data, NAMES: self.names}
        generator = Generator.load(prior)
        modalities = {name: generator.tokenizers[name].modality for name in data}
        held_out = {name: items(modalities[name], path, held_out=True) for name, path in data.items()}
        names = classifier_of(modalities[NAMES], items(modalities[NAMES], self.names, held_out=False))
        return coherence_of(
            generator,
            {},
            held_out,
            LABELS,
            classifiers={"image": pictures, "audio": KeypadClassifier(), NAMES: names},
            count=self.count,
            draw=Draw(guidance=self.guidance, temperature=self.temperature),
            seed=seed,
            into=into,
        )

    def summed(self, prior: Path, data: Mapping[str, str], halves: Sequence[Finished]) -> Finished:
        """The part, from what `evaluate` gave for some modalities each."""
        tables: dict[str, dict[str, Any]] = {name: {} for name in ("coherence", "intervals", "control")}
        for name, table in tables.items():
            for each in halves:
                for row_name, row in each[name].items():
                    table.setdefault(row_name, {}).update(row)
        cells = [
            cell for row_name, row in tables["coherence"].items() for other, cell in row.items() if row_name != other
        ]
        metrics = {"coherence": sum(cells) / len(cells), "lowest_cell": min(cells)}
        return {
            "about": self.about,
            "run": str(prior),
            "metrics": metrics,
            **tables,
            **{name: dict(ChainMap(*(each[name] for each in reversed(halves)))) for name in ("classifiers", "rules")},
            "chance": halves[0]["chance"],
            "next": self._next(prior, [*data]),
        }

    def page(self, out: Path, prior: Path, data: Mapping[str, str], done: Mapping[str, Finished]) -> str:
        """Write the page of all parts; `done`: all of them, this one's too. Its path."""
        from vqmm.generation.generator import Generator
        from vqmm.pages.demo import render

        generator = Generator.load(prior)
        modalities = {name: tokenizer.modality for name, tokenizer in generator.tokenizers.items()}
        tokenizers = {name: part for name, part in done.items() if name != self.name}
        examples = self._examples(generator, {**data, NAMES: self.names})
        page = out / "index.html"
        write_text(page, render(out, tokenizers, done[self.name], modalities, examples))
        return str(page)

    def _examples(
        self, generator: "Generator", data: Mapping[str, str]
    ) -> "list[tuple[str, list[Tensor], dict[str, list[Tensor]]]]":
        """For each modality: its name, a held-out sample of each digit shown, and what the prior makes of each of them
        in the others."""
        from vqmm.generation.sampling import Draw

        draw = Draw(guidance=self.guidance, temperature=self.temperature)
        examples = []
        for modality_name, path in data.items():
            given = _one_of_each(generator.tokenizers[modality_name].modality, path)[: self.shown]
            prompts = [{modality_name: sample} for sample in given]
            others = [other for other in data if other != modality_name]
            examples.append(
                (modality_name, given, {o: generator.generate(o, given=prompts, draw=draw, seed=1) for o in others})
            )
        return examples

    def _next(self, prior: Path, modalities: Sequence[str]) -> list[str]:
        def make(want: str, given: str, out: str) -> str:
            words = ["vqmm", "generate", str(prior), "--want", want, "--given", given]
            words += ["--guidance", f"{self.guidance:g}", "--temperature", f"{self.temperature:g}"]
            return shlex.join([*words, "--out", str(prior.parent / out)])

        made = {"image": make("image", "text=seven", "sevens"), "audio": make("audio", "text=three", "threes")}
        return [command for name, command in made.items() if name in modalities]


class KeypadClassifier:
    """Names dialling tones (1, T) as a telephone exchange does: digits, or -1 for another key. Nothing is learnt."""

    rule = (
        "Goertzel's filters at and near the frequencies of a telephone's keypad (ITU-T Q.23): the key whose two are "
        "the loudest; nothing is learnt"
    )

    def fit(self, samples: "Sequence[Tensor]", labels: Sequence[int]) -> None:
        """Does nothing."""

    def predict(self, samples: "Sequence[Tensor]") -> list[int]:
        """The digit dialled in each sample (at 8 kHz), 0 to 9; -1 for "*" and "#", and for silence."""
        return [LABELS.find(dialled_digit(sample[0].numpy())) if sample.any() else -1 for sample in samples]


def fit_classifier(part: TokenizerPart, count: int) -> "LabelClassifier":
    """A classifier of the digits in a part's data, fitted to `count` real samples."""
    from vqmm.evaluation.coherence import classifier_of
    from vqmm.recipe import read_recipe
    from vqmm.registry import Registry
    from vqmm.tokenizer.storage import build_modality

    registry = Registry.discover()
    recipe = read_recipe(part.recipe, registry, part.modality, part.settings)
    modality = build_modality(recipe.model_dump(), registry)
    return classifier_of(modality, items(modality, part.data, held_out=False, most=count))


def items(modality: "Modality", path: str, held_out: bool, most: int = 10_000) -> "list[tuple[Tensor, int]]":
    """Samples of a built-in source and the numbers of their labels, at most so many, evenly over the labels."""
    from vqmm.data.source import Source
    from vqmm.evaluation.coherence import read_items, spread

    source = Source(modality, path)
    return read_items(modality, spread(source.held_out() if held_out else source.training(), LABELS, most), LABELS, [])


def _one_of_each(modality: "Modality", path: str) -> "list[Tensor]":
    """A held-out sample of each digit."""
    first = {label: sample for sample, label in reversed(items(modality, path, held_out=True, most=1000))}
    return [first[number] for number in range(len(LABELS))]
