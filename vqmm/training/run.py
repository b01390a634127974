"""`vqmm train`: from a folder of samples to a folder with a tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.sample import Sample, Unreadable
from vqmm.data.source import Source, label_numbers
from vqmm.errors import UserError
from vqmm.evaluation.evaluate import Evaluation, evaluate
from vqmm.evaluation.show import write_shown
from vqmm.files import must_be_free, write_text
from vqmm.recipe import Recipe, read_recipe
from vqmm.registry import Registry
from vqmm.tokenizer import Tokenizer, build_modality
from vqmm.training.loop import Loop
from vqmm.training.progress import RunProgress

REPORT_EVERY = 20  # steps between lines of metrics.jsonl


def train(
    modality: str,
    data: str | Path,
    out: str | Path,
    recipe: str = "vqvae-ema",
    *,
    steps: int | None = None,
    settings: Sequence[str] = (),
    strict: bool = False,
    plugins: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a tokenizer on a file, folder or archive of samples.

    Args:
        recipe: the name of a recipe, or a YAML file.
        settings: `a.b=c` changes to it.
        strict: refuse damaged samples; otherwise they are skipped, counted and named.

    Returns:
        The run's folder, its number of weights, and the held-out metrics at its end.

    Raises:
        UserError: anything in the arguments or the data that does not fit, before the run's folder is made.
    """
    out = Path(out)
    must_be_free(out, "the run folder")
    registry = Registry.discover(plugins)
    extra = [f"train.steps={steps}"] if steps is not None else []
    plan = read_recipe(recipe, registry, modality, [*settings, *extra])
    torch.manual_seed(plan.train.seed)
    run = Run(plan, data, registry, strict)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "recipe.yaml", run.recipe.to_yaml())
    with RunProgress(plan.train.steps, quiet) as progress:
        return run.go(out, progress)


class Run:
    """Data, tokenizer and loop of one recipe."""

    def __init__(self, recipe: Recipe, data: str | Path, registry: Registry, strict: bool):
        plan, told = recipe.train, recipe.model_dump()
        self.modality = build_modality(told, registry)
        source = Source(self.modality, data)
        self.recipe = recipe.model_copy(update={"data": source.path})
        conditional = recipe.condition == "label"
        if conditional and any(sample.label is None for sample in source.samples):
            raise UserError(
                f"condition: label needs a label for every sample, and {source.path} lacks some: put samples into one "
                "sub-folder a class, name labels in a CSV, or set condition=null"
            )
        if strict:
            refuse_unreadable(source.samples)
        labels = label_numbers(source.samples, source.labels)
        training, held_out = source.training(), source.held_out()
        self.views = Views(self.modality, training, labels, plan.seed, plan.cache_mb)
        self.held_out_views = Views(self.modality, held_out, labels, plan.seed, plan.cache_mb // 4)
        self.views.check()
        self.modality.fit(self.views.values())
        self.tokenizer = Tokenizer.build(told, self.modality, registry, source.labels, conditional, self.views.extent())
        self.loop = Loop(self.tokenizer, self.views, plan, fabric(plan.device, plan.precision))

    def go(self, out: Path, progress: RunProgress) -> dict[str, Any]:
        """All steps; a look at held-out data every so often, at which the tokenizer is saved."""
        plan, loop = self.recipe.train, self.loop
        self.tokenizer.quantizer.to(loop.fabric.device)
        loop.start_from_data()
        log = MetricsLog(out / "metrics.jsonl")
        while loop.step < plan.steps:
            loop.advance()
            last = loop.step == plan.steps
            if loop.step % REPORT_EVERY == 0 or last:
                report = loop.report()
                log.write("train", **asdict(report))
                progress.trained(report.step, report.loss, report.samples_per_second)
            if loop.step % plan.evaluate_every == 0 or last:
                found = self.evaluate()
                log.write("held-out", step=loop.step, **found.as_dict())
                headline = found.metrics[self.modality.headline]
                progress.judged(loop.step, self.modality.headline, headline, found.metrics["codebook_use"])
                self.tokenizer.save(out / "tokenizer")
        picture = write_shown(self.modality, found.shown, out / "reconstructions")
        unreadable = list(dict.fromkeys([*loop.unreadable, *found.unreadable]))
        if unreadable:
            progress.say(f"{len(unreadable)} damaged samples were skipped: {'; '.join(unreadable[:10])}")
        weights = sum(p.numel() for p in self.tokenizer.parameters())
        return {"run": str(out), "weights": weights, **found.as_dict(), "unreadable": unreadable, "shown": str(picture)}

    def evaluate(self) -> Evaluation:
        plan = self.recipe.train
        return evaluate(self.tokenizer, evaluation_batches(self.held_out_views, plan.batch_size, plan.evaluate_samples))


class MetricsLog:
    """One JSON object a line, written as it happens."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, kind: str, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")


def fabric(device: str, precision: str) -> Fabric:
    """One process on the chosen device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device: cuda was asked for and there is no CUDA device: take auto or cpu")
    accelerator = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    return Fabric(
        accelerator=accelerator, devices=1, precision={"float32": "32-true", "bfloat16": "bf16-mixed"}[precision]
    )


def refuse_unreadable(samples: Sequence[Sample]) -> None:
    """Read everything once; a `UserError` that names what is damaged."""
    bad = []
    for sample in samples:
        try:
            sample.read()
        except Unreadable as error:
            bad.append(str(error))
    if bad:
        raise UserError(f"{len(bad)} of {len(samples)} samples are damaged: {'; '.join(bad[:10])}")
