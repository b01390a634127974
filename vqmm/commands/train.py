"""`vqmm train`: a run, and the page about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqmm.pages.page import report as write_report
from vqmm.training import run


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
        The run's folder, its number of weights, the held-out metrics at its end, and `report`, the path of the page or
        None; on all nodes but the first, nothing.

    Raises:
        UserError: anything in the arguments or the data that does not fit, before the run's folder is made.
        Stopped: SIGTERM or SIGINT came; a checkpoint was written.
    """
    result = run.train(
        modality,
        data,
        out,
        recipe,
        steps=steps,
        settings=settings,
        resume=resume,
        strict=strict,
        plugins=plugins,
        quiet=quiet,
        show=report,
    )
    if not result:
        return result
    return {**result, "report": write_report(out, plugins=plugins)["report"] if report else None}
