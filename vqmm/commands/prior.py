"""`vqmm prior`: what is asked for is checked, then a prior is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_free, must_be_writable, must_exist


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
    out, run_paths, token_paths = Path(out), _paths(runs), _paths(tokens)
    if not run_paths or bool(token_paths) == (pairs is not None):
        raise UserError(
            f"{len(run_paths)} runs, {len(token_paths)} folders of tokens and pairs {pairs}: give runs, and either "
            "--tokens for each of them or --pairs"
        )
    (must_be_writable if resume else must_be_free)(out, "the run folder")
    for path in run_paths:
        must_exist(path, "give the folder of a run, made by vqmm train")
    for path in token_paths:
        must_exist(path, "give a folder of tokens, made by vqmm encode")
    if pairs is not None:
        must_exist(pairs, "give a CSV of pairs, with a column for each modality")

    # From here on seconds pass: these import torch.
    from vqmm.generation.recipe import PriorData, read_prior_recipe
    from vqmm.registry import Registry
    from vqmm.training.prior_run import prepare_prior
    from vqmm.training.run_folder import command_line
    from vqmm.utils.signals import StopRequest

    registry = Registry.discover(plugins)
    extra = [f"train.steps={steps}"] if steps is not None else []
    extra += [f"condition={condition}"] if condition is not None else []
    data = PriorData(runs=run_paths, tokens=token_paths, pairs=None if pairs is None else _paths(pairs)[0])
    recipe = read_prior_recipe(registry, [*settings, *extra], data=data)
    with StopRequest() as request:
        run = prepare_prior(recipe, out, registry, resume=resume, quiet=quiet, command=command_line())
        return run.run(request)


def _paths(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Resolved: what a recipe records."""
    return tuple(str(Path(path).resolve()) for path in ([given] if isinstance(given, str | Path) else given))
