"""`vqmm prior`: from tokenizers and what they make of data to a folder with a prior."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vqmm.contracts.prior import Prior
from vqmm.generation.corpus import Corpus, corpus_of
from vqmm.generation.generator import Generator
from vqmm.generation.recipe import PriorData, PriorRecipe, read_prior_recipe
from vqmm.recipe import Train
from vqmm.registry import Registry
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.checkpoint import checkpoints, keep_last, read_checkpoint, room_bytes, write_checkpoint
from vqmm.training.log import MetricsLog
from vqmm.training.prior_loop import PriorLoop
from vqmm.training.prior_progress import PriorProgress
from vqmm.training.setup import REPORT_EVERY, command_line, make_fabric, must_be_same
from vqmm.utils.errors import Stopped, UserError
from vqmm.utils.files import must_be_free, must_be_writable, write_text
from vqmm.utils.machine import machine
from vqmm.utils.signals import StopRequest


def train_prior(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    tokens: str | Path | Sequence[str | Path] = (),
    pairs: str | Path | None = None,
    steps: int | None = None,
    condition: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    plugins: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a prior over the codes of one tokenizer, or of several together. One process does it.

    Args:
        runs: folders of tokenizers, in the order that their modalities get in the vocabulary.
        tokens: for each run a folder of its token shards, in any order. Those of several are paired by label, afresh in
            each epoch and within a split.
        pairs: instead of tokens a CSV whose columns are named by modality, with `label` and `split` where wanted.
        condition: "label": class numbers come first in a sequence.
        settings: `a.b=c` changes to the recipe (`vqmm.generation.recipe.PriorRecipe`).
        resume: go on from the last checkpoint of `out`, with the same arguments as before.

    Returns:
        The run's folder and that of its prior; how many weights, examples and steps there were; `best`, the step that
        was kept; and of it by modality bits per code: of held-out examples with their condition and without, of
        training examples, and for one who knows the frequencies of codes alone.

    Raises:
        UserError: anything in the arguments or the data that does not fit, before the run's folder is made.
        Stopped: SIGTERM or SIGINT came; a checkpoint was written.
    """
    out = Path(out)
    data = PriorData(runs=_paths(runs), tokens=_paths(tokens), pairs=None if pairs is None else _paths(pairs)[0])
    if not data.runs or bool(data.tokens) == (pairs is not None):
        raise UserError(
            f"{len(data.runs)} runs, {len(data.tokens)} folders of tokens and pairs {pairs}: give runs, and either "
            "--tokens for each of them or --pairs"
        )
    (must_be_writable if resume else must_be_free)(out, "the run folder")
    registry = Registry.discover(plugins)
    extra = [f"train.steps={steps}"] if steps is not None else []
    extra += [f"condition={condition}"] if condition is not None else []
    recipe = read_prior_recipe(registry, [*settings, *extra], data=data)
    with StopRequest() as request:
        return PriorRun(recipe, out, registry, resume, quiet).run(request)


def _paths(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Resolved: what a recipe records."""
    return tuple(str(Path(path).resolve()) for path in ([given] if isinstance(given, str | Path) else given))


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


class PriorRun:
    """Corpus, prior and loop of one recipe."""

    def __init__(self, recipe: PriorRecipe, out: Path, registry: Registry, resume: bool, quiet: bool):
        self.recipe, self.out, self.resume, self.quiet = recipe, out, resume, quiet
        plan, data = recipe.train, recipe.data
        assert data is not None  # train_prior names it
        fabric = make_fabric(Train(device=plan.device, precision=plan.precision))
        tokenizers = {run: _tokenizer(run, registry).to(fabric.device) for run in data.runs}
        if len(tokenizers) < len(data.runs):
            raise UserError(f"a run was given twice: {', '.join(data.runs)}")
        self.corpus = corpus_of(tokenizers, data.tokens, data.pairs, recipe)
        torch.manual_seed(plan.seed)
        self.prior = _prior(recipe, self.corpus, registry)
        known = {name: each.quantizer.code_vectors() for name, each in self.corpus.tokenizers.items()}
        self.prior.init_embeddings({name: vectors for name, vectors in known.items() if vectors is not None})
        self.generator = Generator(self.prior, self.corpus.tokenizers, self.corpus.labels)
        self.loop = PriorLoop(self.prior, self.corpus.training, plan, fabric)
        torch.manual_seed(plan.seed)
        self.data_fingerprint = self.corpus.fingerprint()
        self.best: dict[str, Any] = {}  # {"step": ..., "bits_per_code": ..., "modalities": ...}
        self.evaluations_since = 0  # at held-out examples, since the best

    @property
    def given_up(self) -> bool:
        """Whether held-out bits have not improved for too long, before the steps were done."""
        plan = self.recipe.train
        return plan.patience is not None and self.evaluations_since >= plan.patience and self.loop.step < plan.steps

    def run(self, request: StopRequest) -> dict[str, Any]:
        """Steps until they are done or held-out bits stop improving; a look at those every so often, at which a prior
        that is better than all before is saved; checkpoints."""
        plan, loop, out = self.recipe.train, self.loop, self.out
        self._start()
        log = MetricsLog(out / "metrics.jsonl", loop.step)
        progress = PriorProgress(plan.steps, self.quiet)
        with progress:
            while loop.step < plan.steps and not self.given_up:
                loop.train_step()
                last, stop = loop.step == plan.steps, request.signum
                if loop.step % REPORT_EVERY == 0 or last:
                    report = loop.report()
                    progress.bits(report.step, report.bits_per_code, report.samples_per_second)
                    log.write("train", **asdict(report))
                if loop.step % plan.evaluate_every == 0 or last:
                    self._evaluate_held_out(log, progress)
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
        return self._told()

    def _start(self) -> None:
        """From the last checkpoint or anew; the folder says what the run is."""
        if self.resume:
            must_be_same(self.out, self.recipe)
        done = checkpoints(self.out / "checkpoints")
        room = room_bytes(self.prior, self.recipe.train.keep_checkpoints - len(done))
        must_be_writable(self.out, "the run folder", room)
        if self.resume and done:
            tensors, state = read_checkpoint(done[-1])
            if state["data_fingerprint"] != self.data_fingerprint:
                raise UserError(
                    f"{self.out} was begun with other data (fingerprint {state['data_fingerprint']}, now "
                    f"{self.data_fingerprint}): bring it back, or start a new run"
                )
            self.loop.load_state_dict(state["step"], tensors)
            self.best, self.evaluations_since = state["best"], state["evaluations_since"]
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "recipe.yaml", self.recipe.to_yaml())
        made = {"command": command_line(), "machine": machine()}
        write_text(self.out / "run.json", json.dumps(made, indent=2) + "\n")

    def _evaluate_held_out(self, log: MetricsLog, progress: PriorProgress) -> None:
        """Judge on held-out examples; save what is better than all before."""
        step = self.loop.step
        with self.loop.average.applied():
            results = self.evaluated()
            bits = {name: figures.held_out for name, figures in results.items()}
            mean = sum(bits.values()) / len(bits)
            records = {name: figures.as_dict() for name, figures in results.items()}
            if not self.best or mean < self.best["bits_per_code"]:
                self.best, self.evaluations_since = {"step": step, "bits_per_code": mean, "modalities": records}, 0
                self.generator.save(self.out / "prior")
            else:
                self.evaluations_since += 1
        log.write("held-out", step=step, metrics={"bits_per_code": mean}, modalities=records)
        progress.held_out(step, bits)

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

    def _checkpoint(self) -> None:
        folder, step = self.out / "checkpoints", self.loop.step
        state = {
            "data_fingerprint": self.data_fingerprint,
            "best": self.best,
            "evaluations_since": self.evaluations_since,
        }
        write_checkpoint(folder, step, self.loop.state_dict(), state)
        keep_last(folder, self.recipe.train.keep_checkpoints, self.best["step"] if self.best else None)

    def _told(self) -> dict[str, Any]:
        corpus = self.corpus
        return {
            "run": str(self.out),
            "prior": str(self.out / "prior"),
            "weights": sum(p.numel() for p in self.prior.parameters()),
            "vocabulary": len(corpus.vocabulary),
            "context": self.prior.context,
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
    """An untrained prior. A `UserError` where its context does not hold the longest example."""
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
    return prior_class(vocabulary, context, options)
