"""A model's training: from data and a recipe to a folder with a tokenizer or a generator, and its numbers."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from vqmm.data.loader import evaluation_batches
from vqmm.evaluation.evaluate import EvaluationResult, evaluate_held_out, shuffled_loss_ratio
from vqmm.recipe import Recipe
from vqmm.registry import Registry
from vqmm.tokenizer.model import Model
from vqmm.training.adversarial import AdversarialTrainer, said_of
from vqmm.training.checkpoint import checkpoints
from vqmm.training.health import Event, HealthWatch
from vqmm.training.log import MetricsLog, check_tensorboard
from vqmm.training.loop import Loop
from vqmm.training.prepare import Data, prepare_critic, prepare_data, prepare_model
from vqmm.training.progress import RunProgress
from vqmm.training.run_folder import RunFolder
from vqmm.training.setup import REPORT_EVERY, make_fabric
from vqmm.utils.errors import Stopped, UserError
from vqmm.utils.signals import StopRequest

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Job:
    """What every process of a run is told; fields as of `vqmm.train`, and `command`: what was typed."""

    recipe: Recipe
    data: str
    out: Path
    command: str
    plugins: tuple[str, ...] = ()
    strict: bool = False
    resume: bool = False
    quiet: bool = False


@dataclass
class Trained:
    """What a run ends with.

    Attributes:
        best: {"step": ..., "value": ...} of the main metric.
        evaluation: on held-out data, of the model that the run's folder now holds.
        unreadable: damaged samples that training or the evaluation has met.
        profile: the share of each part in a step's time; empty without `train.profile`.
    """

    weights: int
    best: dict[str, float]
    evaluation: EvaluationResult
    unreadable: list[str]
    profile: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """What can be written as JSON."""
        numbers = {**self.evaluation.as_dict(), "unreadable": self.unreadable, "profile": self.profile}
        return {"weights": self.weights, "best": self.best, **numbers}

    def with_tensors(self, change: Callable[[Any], Any]) -> "Trained":
        """The same with every tensor of the evaluation changed."""
        originals, outputs, inputs = (
            [*map(change, samples)] for samples in (*self.evaluation.shown, self.evaluation.inputs)
        )
        return replace(self, evaluation=replace(self.evaluation, shown=(originals, outputs), inputs=inputs))


def train(job: Job, registry: Registry) -> Trained | None:
    """Train a model, in as many processes as the recipe asks for. On all nodes but the first nothing comes back.

    Raises:
        UserError: something in the recipe or the data that does not fit, before the run's folder is made.
        Stopped: SIGTERM or SIGINT came; a checkpoint was written.
    """
    plan = job.recipe.train
    if plan.tensorboard:
        check_tensorboard()
    fabric = make_fabric(plan)
    with StopRequest() as request:
        if plan.devices * plan.nodes == 1:
            return prepare(fabric, job, registry).run(request)
        try:
            result = fabric.launch(_in_process, vars(job))  # as a dict: Fabric would take a frozen dataclass apart
        except ProcessExitedException:
            if request.signum:
                saved = checkpoints(job.out / "checkpoints")
                if saved:  # a process died on its way out, after it had been asked to stop
                    raise Stopped(int(saved[-1].name.rpartition("-")[2]), request.signum) from None
                raise KeyboardInterrupt from None  # stopped before the processes had come up: nothing to save
            raise
    if isinstance(result, Exception):
        raise result
    return result and result.with_tensors(torch.from_numpy)


def _in_process(fabric: "Fabric", job_fields: dict[str, Any]) -> Trained | Exception | None:
    """One of several processes. A mistake or a stop is the same in all of them, and told by the first.

    What comes back holds arrays: the memory of a tensor would go with its process.
    """
    job = Job(**job_fields)
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of the reducer, harmless
    with StopRequest() as request:
        try:
            trained = prepare(fabric, job, Registry.discover(job.plugins)).run(request)
        except (UserError, Stopped) as error:
            return error
    return trained and trained.with_tensors(torch.Tensor.numpy)


def prepare(fabric: "Fabric", job: Job, registry: Registry) -> "Run":
    """A run that has not begun: its data, model, critic and loop. Nothing is written yet."""
    seed = job.recipe.train.seed
    data = prepare_data(job.recipe, job.data, registry, job.strict)
    recipe = job.recipe.model_copy(update={"data": data.path})
    torch.manual_seed(seed)
    model = prepare_model(recipe, data, registry)
    critic = prepare_critic(recipe, data, model, registry, fabric)
    loop = Loop(model, data.training, recipe.train, fabric, critic)
    torch.manual_seed(seed + fabric.global_rank)  # from here on each process draws its own noise
    folder = RunFolder(job.out, recipe, data.fingerprint, job.resume, job.command)
    return Run(fabric, folder, recipe, data, model, critic, loop, HealthWatch(data.higher_is_better), job.quiet)


@dataclass
class Run:
    """One recipe's parts in one process, as `prepare` makes them, and the course of its training.

    Attributes:
        best: {"step": ..., "value": ...} of the main metric; empty before the first evaluation.
    """

    fabric: "Fabric"
    folder: RunFolder
    recipe: Recipe
    data: Data
    model: Model
    critic: AdversarialTrainer | None
    loop: Loop
    health: HealthWatch
    quiet: bool = False
    best: dict[str, float] = field(default_factory=dict)

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that evaluates, saves and says how far the run is."""
        return self.fabric.is_global_zero

    @property
    def steps(self) -> int:
        """How many there are to make: none for a model without weights, such as `identity`."""
        return self.recipe.train.steps if any(True for _ in self.model.parameters()) else 0

    def run(self, request: StopRequest) -> Trained | None:
        """All steps; a look at held-out data every so often, at which the model is saved; checkpoints."""
        plan, loop = self.recipe.train, self.loop
        self._start()
        file = self.folder.path / "metrics.jsonl"
        log = MetricsLog(file if self.is_first else None, loop.step, plan.tensorboard)
        evaluation: EvaluationResult | None = None
        with RunProgress(self.steps, self.quiet or not self.is_first) as progress:
            if not self.steps:
                progress.say("this recipe has no weights: there is nothing to train")
                evaluation = self._evaluate(log, progress)
            while loop.step < self.steps:
                try:
                    stop = loop.train_step(request.signum)
                except UserError as error:  # not finite; the caller says it, here it is kept for the report
                    log.write("health", **asdict(Event(loop.step, "not_finite", str(error))))
                    raise
                last = loop.step == self.steps
                self._close_epoch(log, progress)
                self._tell(loop.events, log, progress)
                loop.events.clear()
                if loop.step % REPORT_EVERY == 0 or last:
                    self._report(log, progress)
                if loop.step % plan.evaluate_every == 0 or last:
                    evaluation = self._evaluate(log, progress)
                if loop.step % plan.checkpoint_every == 0 or last or stop:
                    self._checkpoint()
                if stop and not last:
                    raise Stopped(loop.step, stop)
            # of a run that was resumed when all was done; its log has these numbers
            evaluation = evaluation or self._evaluate(MetricsLog(None), progress)
            return self._trained(evaluation, progress) if self.is_first else None

    def _start(self) -> None:
        """From the last checkpoint, or from data; the first process writes what the run is."""
        state = self.folder.restore(self.loop)
        if state is not None:
            self.loop.unreadable = dict.fromkeys(state["unreadable"])
            self.best = state["best"]
        elif self.recipe.train.init_from is None:
            self.loop.start_from_data()
        self.fabric.barrier()  # nobody may look for a recipe that the first process has yet to write
        if self.is_first:
            self.folder.describe()

    def _checkpoint(self) -> None:
        tensors = self.loop.state_dict()  # gathers from all processes
        self.loop.check_equal()
        if self.is_first:
            self.folder.write_checkpoint(self.loop.step, tensors, self.best, unreadable=list(self.loop.unreadable))
        self.fabric.barrier()

    def _close_epoch(self, log: MetricsLog, progress: RunProgress) -> None:
        closed = self.loop.close_epoch()
        if closed is None:
            return
        epoch, usage = closed
        metrics = {
            "codebook_usage": usage.use(),
            "codebook_perplexity": usage.perplexity(),
            "dead_codes": usage.dead(),
        }
        log.write("epoch", step=self.loop.step, epoch=epoch, **metrics)
        self._tell(self.health.epoch(self.loop.step, epoch, usage), log, progress)

    def _report(self, log: MetricsLog, progress: RunProgress) -> None:
        """How the steps since the last report went."""
        report = self.loop.report()
        progress.trained(report.step, f"loss {report.loss:.4f}", report.samples_per_second)
        log.write("train", **asdict(report))
        self._tell(self.health.report(report.step, report.gradient_norm), log, progress)
        figures = {} if self.critic is None else self.critic.figures()
        if figures:
            log.write("critic", step=report.step, **figures)

    def _tell(self, events: Sequence[Event], log: MetricsLog, progress: RunProgress) -> None:
        for event in events:
            progress.say(f"step {event.step}: {event.said}")
            log.write("health", **asdict(event))

    def _evaluate(self, log: MetricsLog, progress: RunProgress) -> EvaluationResult:
        """The first process looks at held-out data and saves the model; the others wait."""
        evaluation = EvaluationResult()
        if self.is_first:
            with self.loop.average.applied():
                evaluation = self._evaluated(log, progress)
                self.model.save(self.folder.path / "tokenizer")
        self.fabric.barrier()
        if self.critic is not None:
            # of the first, who alone knows
            value = self.fabric.broadcast(evaluation.metrics.get(self.data.modality.evaluation().main_metric))
            self._tell(self.critic.schedule.evaluated(self.loop.step, value), log, progress)
            if self.is_first and self.critic.figures():
                progress.say(f"step {self.loop.step}: critic  {said_of(self.critic.figures())}")
        return evaluation

    def _evaluated(self, log: MetricsLog, progress: RunProgress) -> EvaluationResult:
        plan, step, views = self.recipe.train, self.loop.step, self.data.held_out
        main_metric = self.data.modality.evaluation().main_metric
        evaluation = evaluate_held_out(self.model, views, self.data.split, plan.batch_size, plan.evaluate_samples)
        metrics = evaluation.metrics
        value, usage = metrics.get(main_metric), metrics.get("codebook_usage")
        if value is not None and (not self.best or (value > self.best["value"]) == self.data.higher_is_better):
            self.best = {"step": step, "value": value}
        log.write("held-out", step=step, count=evaluation.count, metrics=metrics)
        said = [] if value is None else [f"{main_metric} {value:.4g}"]
        progress.evaluated(step, said if usage is None else [*said, f"codes used {usage:.0%}"])
        first = next((batch for batch, _ in evaluation_batches(views, plan.batch_size) if batch is not None), None)
        shuffled = None if first is None else shuffled_loss_ratio(self.model, first.to(self.fabric.device))
        self._tell(self.health.held_out(step, metrics, main_metric, shuffled), log, progress)
        return evaluation

    def _trained(self, evaluation: EvaluationResult, progress: RunProgress) -> Trained:
        unreadable = list(dict.fromkeys([*self.loop.unreadable, *evaluation.unreadable]))
        if unreadable:
            progress.say(f"{len(unreadable)} damaged samples were skipped: {'; '.join(unreadable[:10])}")
        profile = self.loop.profile.shares()
        if profile:
            progress.say("a step's time: " + ", ".join(f"{name} {share:.0%}" for name, share in profile.items()))
        weights = sum(p.numel() for p in self.model.parameters())
        return Trained(weights, self.best, evaluation, unreadable, profile)
