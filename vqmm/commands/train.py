"""`vqmm train`: a run, and the page about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqmm.data.builtin import source_must_exist
from vqmm.pages.page import write_page
from vqmm.pages.record import read_record
from vqmm.utils.files import must_be_free, must_be_writable

if TYPE_CHECKING:
    from vqmm.evaluation.evaluate import EvaluationResult
    from vqmm.registry import Registry


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
    report: bool = True,
) -> dict[str, Any]:
    """Train a tokenizer on a file, folder or archive of samples, and write the page of the run.

    Args:
        recipe: the name of a recipe, or a YAML file.
        settings: `a.b=c` changes to it.
        resume: go on from the last checkpoint of `out`, with the same arguments as before.
        strict: refuse damaged samples; otherwise they are skipped, counted and named.
        report: write `report.html` and reconstructions beside their originals at the end. It takes seconds;
            `vqmm.report` writes the page at any time.

    Returns:
        The run's folder, its number of weights, the held-out metrics at its end, and `report` and `shown`, the paths
        of the page and of the reconstructions, or None; on all nodes but the first, nothing.

    Raises:
        UserError: anything in the arguments or the data that does not fit, before the run's folder is made.
        Stopped: SIGTERM or SIGINT came; a checkpoint was written.
    """
    out = Path(out)
    (must_be_writable if resume else must_be_free)(out, "the run folder")
    source_must_exist(data)

    # From here on seconds pass: these import torch.
    from vqmm.recipe import read_recipe
    from vqmm.registry import Registry
    from vqmm.training import run
    from vqmm.training.run_folder import command_line

    registry = Registry.discover(plugins)
    extra = [f"train.steps={steps}"] if steps is not None else []
    plan = read_recipe(recipe, registry, modality, [*settings, *extra])
    job = run.Job(plan, str(data), out, command_line(), tuple(plugins), strict, resume, quiet)
    trained = run.train(job, registry)
    if trained is None:
        return {}
    shown, page = _show(out, trained.evaluation, registry) if report else (None, None)
    return {"run": str(out), **trained.as_dict(), "shown": shown, "report": page}


def _show(out: Path, evaluation: "EvaluationResult", registry: "Registry") -> tuple[str | None, str]:
    """Write reconstructions or new samples beside originals, where there are any, and the page."""
    from vqmm.evaluation.evaluate import write_shown
    from vqmm.tokenizer.loading import load_model

    model = load_model(out, registry)
    picture = None
    if evaluation.count:
        picture = str(write_shown(model.modality, evaluation, out / evaluation.produces.replace(" ", "-")))
    return picture, str(write_page(read_record(out), model, evaluation))
