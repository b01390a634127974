"""A prior's training: from tokenizers and what they make of data to a folder with a prior, and its numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from vqmm.contracts.prior import Prior
from vqmm.generation.corpus import Corpus, corpus_of
from vqmm.generation.generator import Generator
from vqmm.generation.recipe import PriorRecipe
from vqmm.recipe import Train
from vqmm.registry import Registry
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.log import MetricsLog
from vqmm.training.prior_loop import PriorLoop
from vqmm.training.progress import RunProgress
from vqmm.training.run_folder import RunFolder
from vqmm.training.setup import REPORT_EVERY, make_fabric
from vqmm.utils.errors import Stopped, UserError
from vqmm.utils.signals import StopRequest


def prepare_prior(
    recipe: PriorRecipe, out: Path, registry: Registry, *, resume: bool, quiet: bool, command: str
) -> "PriorRun":
    """A run that has not begun: its tokenizers, corpus, prior and loop. Nothing is written yet."""
    plan, data = recipe.train, recipe.data
    assert data is not None  # `vqmm.train_prior` names it
    tokenizers = {run: _tokenizer(run, registry) for run in data.runs}
    if len(tokenizers) < len(data.runs):
        raise UserError(f"a run was given twice: {', '.join(data.runs)}")
    fabric = make_fabric(Train(device=plan.device, precision=plan.precision))
    for tokenizer in tokenizers.values():
        tokenizer.to(fabric.device)
    corpus = corpus_of(tokenizers, data.tokens, data.pairs, recipe)
    torch.manual_seed(plan.seed)
    prior = _prior(recipe, corpus, registry)
    loop = PriorLoop(prior, corpus.training, plan, fabric)
    torch.manual_seed(plan.seed)
    folder = RunFolder(out, recipe, corpus.fingerprint(), resume, command)
    return PriorRun(folder, recipe, corpus, Generator(prior, corpus.tokenizers, corpus.labels), loop, quiet)


@dataclass(frozen=True)
class BitsPerCode:
    """What a code of one modality takes, where the length is free ends of blocks included.

    Attributes:
        held_out: of held-out examples, given the blocks before it.
        unconditional: the same without them; None where there is nothing to condition on.
        unigram: of training examples, for one who knows how often each code comes in its stage, and nothing else.
        training: of training examples, given the blocks before it, without dropout: what is far below `held_out` was
            memorised.
    """

    held_out: float
    unconditional: float | None
    unigram: float
    training: float

    def as_dict(self) -> dict[str, float | None]:
        """As results and metrics.jsonl name them; `bits_per_code_gap` is `held_out` less `training`."""
        return {
            "bits_per_code": self.held_out,
            "bits_per_code_unconditional": self.unconditional,
            "bits_per_code_unigram": self.unigram,
            "bits_per_code_train": self.training,
            "bits_per_code_gap": self.held_out - self.training,
        }


@dataclass
class PriorRun:
    """One recipe's parts, as `prepare_prior` makes them, and the course of its training.

    Attributes:
        best: {"step": ..., "bits_per_code": ..., "modalities": ...}; empty before the first evaluation.
        evaluations_since: at held-out examples, since the best.
    """

    folder: RunFolder
    recipe: PriorRecipe
    corpus: Corpus
    generator: Generator
    loop: PriorLoop
    quiet: bool = False
    best: dict[str, Any] = field(default_factory=dict)
    evaluations_since: int = 0

    @property
    def given_up(self) -> bool:
        """Whether held-out bits have not improved for too long, before the steps were done."""
        plan = self.recipe.train
        return plan.patience is not None and self.evaluations_since >= plan.patience and self.loop.step < plan.steps

    def run(self, request: StopRequest) -> dict[str, Any]:
        """Steps until they are done or held-out bits stop improving; a look at those every so often, at which a prior
        that is better than all before is saved; checkpoints. Returns what `vqmm.train_prior` does."""
        plan, loop = self.recipe.train, self.loop
        self._start()
        log = MetricsLog(self.folder.path / "metrics.jsonl", loop.step)
        with RunProgress(plan.steps, self.quiet) as progress:
            while loop.step < plan.steps and not self.given_up:
                loop.train_step()
                last, stop = loop.step == plan.steps, request.signum
                if loop.step % REPORT_EVERY == 0 or last:
                    report = loop.report()
                    said = f"bits per code: {_listed(report.bits_per_code)}"
                    progress.trained(report.step, said, report.samples_per_second)
                    log.write("train", **asdict(report))
                if loop.step % plan.evaluate_every == 0 or last:
                    self._evaluate(log, progress)
                last = last or self.given_up
                if loop.step % plan.checkpoint_every == 0 or last or stop:
                    self._checkpoint()
                if stop and not last:
                    raise Stopped(loop.step, stop)
            if self.given_up:
                progress.say(
                    f"stopped at step {loop.step}: held-out bits have not improved in {self.evaluations_since} "
                    f"evaluations; the prior of step {self.best['step']} is kept"
                )
        return self._result()

    def _start(self) -> None:
        """From the last checkpoint or anew; the folder says what the run is."""
        state = self.folder.restore(self.loop)
        if state is not None:
            self.best, self.evaluations_since = state["best"], state["evaluations_since"]
        self.folder.describe()

    def _checkpoint(self) -> None:
        tensors, since = self.loop.state_dict(), self.evaluations_since
        self.folder.write_checkpoint(self.loop.step, tensors, self.best, evaluations_since=since)

    def _evaluate(self, log: MetricsLog, progress: RunProgress) -> None:
        """Evaluate on held-out examples; save what is better than all before."""
        step = self.loop.step
        with self.loop.average.applied():
            results = self.evaluated()
            bits = {name: figures.held_out for name, figures in results.items()}
            mean = sum(bits.values()) / len(bits)
            records = {name: figures.as_dict() for name, figures in results.items()}
            if not self.best or mean < self.best["bits_per_code"]:
                self.best, self.evaluations_since = {"step": step, "bits_per_code": mean, "modalities": records}, 0
                self.generator.save(self.folder.path / "prior")
            else:
                self.evaluations_since += 1
        log.write("held-out", step=step, metrics={"bits_per_code": mean}, modalities=records)
        progress.evaluated(step, [f"held-out: {_listed(bits)}"])

    def evaluated(self) -> dict[str, BitsPerCode]:
        """By modality."""
        corpus, bits = self.corpus, self.loop.bits_per_code
        return {
            name: BitsPerCode(
                bits(corpus.held_out, name),
                bits(corpus.held_out, name, conditioned=False) if corpus.held_out.conditional else None,
                corpus.unigram_bits[name],
                bits(corpus.training, name),
            )
            for name in corpus.held_out.wanted
        }

    def _result(self) -> dict[str, Any]:
        corpus, prior = self.corpus, self.loop.prior
        return {
            "run": str(self.folder.path),
            "prior": str(self.folder.path / "prior"),
            "weights": sum(p.numel() for p in prior.parameters()),
            "vocabulary": len(corpus.vocabulary),
            "context": prior.context,
            "examples": len(corpus.training),
            "held_out_examples": len(corpus.held_out),
            "steps": self.loop.step,
            "stopped_early": self.given_up,
            "best": {name: self.best[name] for name in ("step", "bits_per_code")},
            "modalities": self.best["modalities"],
            "unreadable": corpus.unreadable,
        }


def _tokenizer(run: str, registry: Registry) -> Tokenizer:
    """A run's tokenizer, frozen. A `UserError` where it has no codes."""
    tokenizer = Tokenizer.load(run, registry)
    if not tokenizer.quantizer.stages:
        raise UserError(
            f"{run} has no codes: its quantizer is {tokenizer.quantizer.name!r}, and a prior needs tokenizers with a "
            "codebook, such as of the recipe vqvae-ema"
        )
    return tokenizer


def _prior(recipe: PriorRecipe, corpus: Corpus, registry: Registry) -> Prior:
    """An untrained prior, which knows the codes' vectors. Draws from torch's random state.

    Raises:
        UserError: its context does not hold the longest example.
    """
    vocabulary = corpus.vocabulary
    context = recipe.context or vocabulary.longest
    if vocabulary.longest > context:
        blocks = " + ".join(
            f"{vocabulary_range.name} {vocabulary_range.block}" for vocabulary_range in vocabulary.ranges
        )
        raise UserError(
            f"context: {context} ids are fewer than the longest example takes, {vocabulary.longest} ({blocks}): raise "
            "it or leave it null, or cut lines with longest"
        )
    prior_class, options = registry.part("prior", recipe.prior.model_dump())
    prior: Prior = prior_class(vocabulary, context, options)
    known = {name: tokenizer.quantizer.code_vectors() for name, tokenizer in corpus.tokenizers.items()}
    prior.init_embeddings({name: vectors for name, vectors in known.items() if vectors is not None})
    return prior


def _listed(bits_per_code: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {bits:.3f}" for name, bits in bits_per_code.items())
