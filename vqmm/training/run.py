"""`vqmm train`: from a folder of samples to a folder with a tokenizer."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from vqmm.contracts.labels import require_every_label
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.source import Source, label_numbers
from vqmm.evaluation.evaluate import EvaluationResult, evaluate, shuffled_loss_ratio, write_shown
from vqmm.recipe import Recipe, read_recipe
from vqmm.registry import Registry
from vqmm.tokenizer.storage import build_modality, tokenizer_folder
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.adversarial import AdversarialTrainer, said_of
from vqmm.training.checkpoint import checkpoints, keep_last, read_checkpoint, room_bytes, write_checkpoint
from vqmm.training.health import Event, HealthWatch
from vqmm.training.init_from import init_from
from vqmm.training.log import MetricsLog, check_tensorboard
from vqmm.training.loop import Loop
from vqmm.training.progress import RunProgress
from vqmm.training.setup import REPORT_EVERY, command_line, make_fabric, must_be_same
from vqmm.utils.errors import Stopped, UserError
from vqmm.utils.files import lacks_room, must_be_free, must_be_writable, write_text
from vqmm.utils.machine import machine
from vqmm.utils.signals import StopRequest

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Job:
    """What every process of a run is told."""

    recipe: Recipe
    data: str
    out: Path
    plugins: tuple[str, ...]
    strict: bool
    resume: bool
    quiet: bool
    command: str
    show: bool = True


def train(
    modality: str,
    data: str | Path,
    out: str | Path,
    recipe: str = "vqvae-ema",
    *,
    steps: int | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    strict: bool = False,
    plugins: Sequence[str] = (),
    quiet: bool = False,
    show: bool = True,
) -> dict[str, Any]:
    """Train a tokenizer on a file, folder or archive of samples; `vqmm.commands.train` adds the page.

    Args:
        recipe: the name of a recipe, or a YAML file.
        settings: `a.b=c` changes to it.
        resume: go on from the last checkpoint of `out`, with the same arguments as before.
        strict: refuse damaged samples; otherwise they are skipped, counted and named.
        show: write reconstructions beside their originals at the end, to look at. Sounds take seconds.

    Returns:
        The run's folder, its number of weights, and the held-out metrics at its end; on all nodes but the first,
        nothing.

    Raises:
        UserError: anything in the arguments or the data that does not fit, before the run's folder is made.
        Stopped: SIGTERM or SIGINT came; a checkpoint was written.
    """
    out = Path(out)
    (must_be_writable if resume else must_be_free)(out, "the run folder")
    registry = Registry.discover(plugins)
    extra = [f"train.steps={steps}"] if steps is not None else []
    plan = read_recipe(recipe, registry, modality, [*settings, *extra])
    job = Job(plan, str(data), out, tuple(plugins), strict, resume, quiet, command_line(), show)
    if plan.train.tensorboard:
        check_tensorboard()
    fabric = make_fabric(plan.train)
    with StopRequest() as request:
        if plan.train.devices * plan.train.nodes == 1:
            return Run(fabric, job, registry).run(request)
        try:
            result = fabric.launch(_in_process, vars(job))  # as a dict: Fabric would take a frozen dataclass apart
        except ProcessExitedException:
            if request.signum:
                saved = checkpoints(out / "checkpoints")
                if saved:  # a process died on its way out, after it had been asked to stop
                    raise Stopped(int(saved[-1].name.rpartition("-")[2]), request.signum) from None
                raise KeyboardInterrupt from None  # stopped before the processes had come up: nothing to save
            raise
    if isinstance(result, Exception):
        raise result
    return result


def _in_process(fabric: "Fabric", job_fields: dict[str, Any]) -> dict[str, Any] | Exception:
    """One of several processes. A mistake or a stop is the same in all of them, and told by the first."""
    job = Job(**job_fields)
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of the reducer, harmless
    with StopRequest() as request:
        try:
            return Run(fabric, job, Registry.discover(job.plugins)).run(request)
        except (UserError, Stopped) as error:
            return error


class Run:
    """Data, tokenizer and loop of one recipe, in one process."""

    def __init__(self, fabric: "Fabric", job: Job, registry: Registry):
        self.fabric, self.job = fabric, job
        recipe, plan = job.recipe, job.recipe.train
        config = recipe.model_dump()
        self.modality = build_modality(config, registry)
        source = Source(self.modality, job.data)
        self.data_fingerprint = source.fingerprint()
        self.recipe = recipe.model_copy(update={"data": source.path})
        conditional = recipe.condition == "label"
        if conditional:
            instead = "put samples into one sub-folder a class, or name labels in a CSV"
            require_every_label([sample.label for sample in source.samples], f"samples of {source.path}", instead)
        if job.strict:
            refuse_unreadable(source.samples)
        labels = label_numbers(source.samples, source.labels)
        training, held_out = source.training(), source.held_out()
        self.views = Views(self.modality, training, labels, plan.seed, plan.cache_mb, degrade=plan.degrade)
        self.held_out_views = Views(
            self.modality, held_out, labels, plan.seed, plan.cache_mb // 4, degrade=plan.degrade
        )
        self.views.check()
        begin = None if plan.init_from is None else tokenizer_folder(Path(plan.init_from))
        front = self.modality.front()
        if begin is None:
            self.modality.check_samples(self.views.values())
            if front is not None:
                front.fit(self.views.values())
        elif front is not None:
            front.load(begin)
        judged = self.modality.evaluation()
        main_metric = judged.metrics()[judged.main_metric]
        self.health = HealthWatch(bool(main_metric.higher_is_better))
        torch.manual_seed(plan.seed)
        extent, draws = self.views.extent(), recipe.input == "noise"
        self.tokenizer = Tokenizer.build(config, self.modality, registry, source.labels, conditional, extent, draws)
        if begin is not None:
            init_from(self.tokenizer, begin, freeze_codes=plan.freeze == "codes")
        self.adversarial = self._adversarial(config, registry)
        self.loop = Loop(self.tokenizer, self.views, plan, fabric, self.adversarial)
        self.steps = plan.steps if any(True for _ in self.tokenizer.parameters()) else 0  # `identity` has no weights
        torch.manual_seed(plan.seed + fabric.global_rank)  # from here on each process draws its own noise
        self.best: dict[str, float] = {}  # {"step": ..., "value": ...} of the main metric

    def _adversarial(self, config: dict[str, Any], registry: Registry) -> AdversarialTrainer | None:
        """The critic that the recipe names, and its course; none where it names none."""
        recipe = self.recipe
        if recipe.adversary is None:
            if self.tokenizer.draws:
                raise UserError("input: noise is judged by nobody but an adversary: set adversary.name=critic")
            return None
        adversary_class, options = registry.part("adversary", config["adversary"])
        labels = len(self.tokenizer.labels) if self.tokenizer.label_embedding is not None else 0
        adversary = adversary_class(self.modality, options, labels)
        return AdversarialTrainer(adversary, self.tokenizer, recipe.train, self.fabric, self.health.higher_is_better)

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that judges, saves and says how far the run is."""
        return self.fabric.is_global_zero

    def run(self, request: StopRequest) -> dict[str, Any]:
        """All steps; a look at held-out data every so often, at which the tokenizer is saved; checkpoints."""
        plan, loop, out = self.recipe.train, self.loop, self.job.out
        self._start()
        log = MetricsLog(out / "metrics.jsonl", loop.step, plan.tensorboard) if self.is_first else None
        evaluation: EvaluationResult | None = None
        with RunProgress(self.steps, self.job.quiet or not self.is_first) as progress:
            if not self.steps:
                progress.say("this recipe has no weights: there is nothing to train")
                evaluation = self._evaluate(log, progress)
            while loop.step < self.steps:
                try:
                    stop = loop.train_step(request.signum)
                except UserError as error:  # not finite; the caller says it, here it is kept for the report
                    if log is not None:
                        log.write("health", **asdict(Event(loop.step, "not_finite", str(error))))
                    raise
                last = loop.step == self.steps
                self._close_epoch(log, progress)
                self._tell(loop.events, log, progress)
                loop.events.clear()
                if loop.step % REPORT_EVERY == 0 or last:
                    report = loop.report()
                    progress.trained(report.step, report.loss, report.samples_per_second)
                    if log is not None:
                        log.write("train", **asdict(report))
                    self._tell(self.health.report(report.step, report.gradient_norm), log, progress)
                    figures = {} if self.adversarial is None else self.adversarial.figures()
                    if log is not None and figures:
                        log.write("critic", step=report.step, **figures)
                if loop.step % plan.evaluate_every == 0 or last:
                    evaluation = self._evaluate(log, progress)
                if loop.step % plan.checkpoint_every == 0 or last or stop:
                    self._checkpoint()
                if stop and not last:
                    raise Stopped(loop.step, stop)
            return self._finish(evaluation or self._evaluate(None, progress), progress)

    def _start(self) -> None:
        """From the last checkpoint, or from data; the first process writes what the run is."""
        out, plan = self.job.out, self.recipe.train
        done = checkpoints(out / "checkpoints")
        room = room_bytes(self.tokenizer, plan.keep_checkpoints - len(done))
        said = self.fabric.broadcast(lacks_room(out, "the run folder", room))  # one answer for all processes
        if said:
            raise UserError(said)
        if self.job.resume:
            must_be_same(out, self.recipe)
        if self.job.resume and done:
            tensors, state = read_checkpoint(done[-1])
            if state["data_fingerprint"] != self.data_fingerprint:
                raise UserError(
                    f"{self.recipe.data} holds other samples than when the run began (fingerprint "
                    f"{self.data_fingerprint}, was {state['data_fingerprint']}): bring them back, or start a new run"
                )
            self.loop.load_state_dict(state["step"], tensors)
            self.loop.unreadable = dict.fromkeys(state["unreadable"])
            self.best = state["best"]
        elif not (self.tokenizer.draws or plan.init_from):
            self.loop.start_from_data()
        self.fabric.barrier()  # nobody may look for a recipe that the first process has yet to write
        if self.is_first:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / "recipe.yaml", self.recipe.to_yaml())
            made = {"command": self.job.command, "machine": machine()}
            write_text(out / "run.json", json.dumps(made, indent=2) + "\n")

    def _close_epoch(self, log: MetricsLog | None, progress: RunProgress) -> None:
        closed = self.loop.close_epoch()
        if closed is None:
            return
        epoch, usage = closed
        if log is not None:
            metrics = {
                "codebook_usage": usage.use(),
                "codebook_perplexity": usage.perplexity(),
                "dead_codes": usage.dead(),
            }
            log.write("epoch", step=self.loop.step, epoch=epoch, **metrics)
        self._tell(self.health.epoch(self.loop.step, epoch, usage), log, progress)

    def _tell(self, events: Sequence[Event], log: MetricsLog | None, progress: RunProgress) -> None:
        for event in events:
            progress.say(f"step {event.step}: {event.said}")
            if log is not None:
                log.write("health", **asdict(event))

    def _evaluate(self, log: MetricsLog | None, progress: RunProgress) -> EvaluationResult:
        """The first process looks at held-out data and saves the tokenizer; the others wait."""
        evaluation = EvaluationResult()
        if self.is_first:
            with self.loop.average.applied():
                evaluation = self._judge(log, progress)
                self.tokenizer.save(self.job.out / "tokenizer")
        self.fabric.barrier()
        if self.adversarial is not None:
            # of the first, who alone knows
            value = self.fabric.broadcast(evaluation.metrics.get(self.modality.evaluation().main_metric))
            self._tell(self.adversarial.schedule.evaluated(self.loop.step, value), log, progress)
            if self.is_first and self.adversarial.figures():
                progress.say(f"step {self.loop.step}: critic  {said_of(self.adversarial.figures())}")
        return evaluation

    def _judge(self, log: MetricsLog | None, progress: RunProgress) -> EvaluationResult:
        plan, step, main_metric = self.recipe.train, self.loop.step, self.modality.evaluation().main_metric
        views = self.held_out_views
        evaluation = evaluate(self.tokenizer, evaluation_batches(views, plan.batch_size, plan.evaluate_samples))
        value = evaluation.metrics.get(main_metric)
        if value is not None and (not self.best or (value > self.best["value"]) == self.health.higher_is_better):
            self.best = {"step": step, "value": value}
        if log is not None:
            log.write("held-out", step=step, count=evaluation.count, metrics=evaluation.metrics)
        progress.evaluated(step, main_metric, value, evaluation.metrics.get("codebook_usage"))
        first = next((batch for batch, _ in evaluation_batches(views, plan.batch_size) if batch is not None), None)
        shuffled = None if first is None else shuffled_loss_ratio(self.tokenizer, first.to(self.fabric.device))
        self._tell(self.health.held_out(step, evaluation.metrics, main_metric, shuffled), log, progress)
        return evaluation

    def _checkpoint(self) -> None:
        tensors = self.loop.state_dict()  # gathers from all processes
        self.loop.check_equal()
        if self.is_first:
            folder = self.job.out / "checkpoints"
            state = {
                "data_fingerprint": self.data_fingerprint,
                "unreadable": list(self.loop.unreadable),
                "best": self.best,
            }
            write_checkpoint(folder, self.loop.step, tensors, state)
            keep_last(folder, self.recipe.train.keep_checkpoints, int(self.best["step"]) if self.best else None)
        self.fabric.barrier()

    def _finish(self, evaluation: EvaluationResult, progress: RunProgress) -> dict[str, Any]:
        if not self.is_first:
            return {}
        out = self.job.out
        shown = evaluation.count and self.job.show
        picture = write_shown(self.modality, evaluation.rows, out / "reconstructions") if shown else None
        unreadable = list(dict.fromkeys([*self.loop.unreadable, *evaluation.unreadable]))
        if unreadable:
            progress.say(f"{len(unreadable)} damaged samples were skipped: {'; '.join(unreadable[:10])}")
        profile = self.loop.profile.shares()
        if profile:
            progress.say("a step's time: " + ", ".join(f"{name} {share:.0%}" for name, share in profile.items()))
        weights = sum(p.numel() for p in self.tokenizer.parameters())
        result = {
            "run": str(out),
            "weights": weights,
            "best": self.best,
            **evaluation.as_dict(),
            "unreadable": unreadable,
        }
        return {**result, "profile": profile, "shown": None if picture is None else str(picture)}


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
