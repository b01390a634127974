"""`vqmm compare-priors`: several priors over the tokens of one tokenizer, in one table."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqmm.commands.prior import train_prior
from vqmm.comparison.compare import EVALUATION, Record, row_of
from vqmm.comparison.page import write_page
from vqmm.comparison.plan import (
    FILE,
    finite,
    is_begun,
    look_at,
    names_of,
    numbers_of,
    read_json,
    refuse_repeats,
    run_folder,
)
from vqmm.generation.generator import Generator
from vqmm.generation.recipe import PriorRecipe, read_prior_recipe
from vqmm.registry import Registry
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import HELD_OUT
from vqmm.tokens.token_set import TokenSet
from vqmm.utils.errors import Stopped, UserError
from vqmm.utils.files import must_be_free, write_text
from vqmm.utils.machine import machine

DRAWN = 16  # samples that are drawn at once, for their time
OWN_SETTINGS = {"prior.name": "--priors", "train.seed": "--seeds", "train.steps": "--steps", "condition": "--condition"}
FREQUENCIES = "frequencies"  # the row of one who knows how often each code comes, and nothing else
BITS = ("bits_per_code", "bits_per_code_unconditional", "bits_per_code_train", "bits_per_code_gap")


@dataclass(frozen=True)
class PriorPlan:
    """A comparison of priors whose arguments fit.

    Attributes:
        recipes: of each prior by its name, with the settings put in; their seed is that of none.
    """

    run: str
    tokens: str
    recipes: Mapping[str, PriorRecipe]
    seeds: tuple[int, ...]
    steps: int
    condition: str | None
    settings: tuple[str, ...]
    code_fingerprint: str
    modality: str

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Every (prior, seed), in the order in which they are trained."""
        return [(name, seed) for name in self.recipes for seed in self.seeds]

    def arguments(self) -> dict[str, Any]:
        """What must be the same when the comparison goes on."""
        names = ("run", "tokens", "steps", "condition", "code_fingerprint")
        lists = {"priors": [*self.recipes], "seeds": [*self.seeds], "settings": [*self.settings]}
        return {**{name: getattr(self, name) for name in names}, **lists}


def compare_priors(
    run: str | Path,
    tokens: str | Path,
    priors: str | Sequence[str],
    out: str | Path,
    *,
    condition: str | None = None,
    steps: int | None = None,
    seeds: str | Sequence[int] = (0,),
    settings: Sequence[str] = (),
    plugins: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every prior with every seed on the same tokens, and put what comes of it into one table.

    Called again with the same arguments it goes on where it was: finished runs are kept, an unfinished one is resumed.

    Args:
        run: the tokenizer's folder.
        tokens: the folder of its token shards.
        priors: names, as a list or with commas between them.
        condition: "label": each is told the class.
        steps: the budget of every run; by default that of a recipe.
        seeds: of `train.seed`, each once.
        settings: `a.b=c` changes to the recipe of all.

    Returns:
        As `vqmm.compare`: `rows`, one a prior, then one of the codes' frequencies alone; `rules`. The same is in
        `compare.json`, and in `compare.html` for people.

    Raises:
        UserError: arguments that do not fit, before anything is written. A prior that does not serve these tokens is
            an `error` in its row.
        Stopped: SIGTERM or SIGINT came.
    """
    out = Path(out)
    look_at(out)
    registry = Registry.discover(plugins)
    plan = _plan(registry, run, tokens, priors, condition, steps, seeds, settings)
    _claim(out, plan)
    records: dict[str, list[Record]] = {name: [] for name in plan.recipes}
    for number, (name, seed) in enumerate(plan.jobs, start=1):
        place = f"{number} of {len(plan.jobs)}: {name}, seed {seed}"
        records[name].append(_record(plan, out, registry, (name, seed), place, plugins, quiet))
    result = _summary(plan, records)
    write_text(out / "compare.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    modality = Tokenizer.load(Path(plan.run), registry).modality
    write_page(out / "compare.html", result, (modality, {}))
    return result


def _plan(
    registry: Registry,
    run: str | Path,
    tokens: str | Path,
    priors: str | Sequence[str],
    condition: str | None,
    steps: int | None,
    seeds: str | Sequence[int],
    settings: Sequence[str],
) -> PriorPlan:
    """Check everything that can be checked without the tokens' codes. A `UserError` says what does not fit."""
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if name in OWN_SETTINGS:
            raise UserError(f"--set {setting}: compare sets {name} itself: use {OWN_SETTINGS[name]}")
    extra = [f"train.steps={steps}"] if steps is not None else []
    extra += [f"condition={condition}"] if condition is not None else []
    names, recipes = names_of("--priors", priors, "pixelcnn,transformer"), {}
    refuse_repeats("--priors", names)
    for name in names:
        try:
            recipes[name] = read_prior_recipe(registry, [f"prior.name={name}", *settings, *extra])
        except UserError as error:  # a setting may fit one prior and not the next
            raise UserError(f"prior {name}: {error}") from None
    tokenizer, header = Tokenizer.load(Path(run), registry), TokenSet(tokens).header
    fingerprint = tokenizer.code_fingerprint()
    if header.code_fingerprint != fingerprint:
        raise UserError(
            f"{tokens} was encoded by the tokenizer {header.code_fingerprint}, and {run} is {fingerprint}: give the "
            "run that encoded it, or encode anew"
        )
    first = next(iter(recipes.values()))
    return PriorPlan(
        run=str(Path(run).resolve()),
        tokens=str(Path(tokens).resolve()),
        recipes=recipes,
        seeds=numbers_of(seeds),
        steps=first.train.steps,
        condition=condition,
        settings=tuple(settings),
        code_fingerprint=fingerprint,
        modality=tokenizer.modality.name,
    )


def _claim(out: Path, plan: PriorPlan) -> None:
    """Make the folder of a comparison, or go on in the one of the same arguments; a `UserError` for any other."""
    file, now = out / FILE, plan.arguments()
    if not file.is_file():
        must_be_free(out, "the folder of the comparison")
        out.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"arguments": now}, indent=2) + "\n")
        return
    was = read_json(file).get("arguments", {})
    differ = [f"{name} was {was.get(name)!r} and is {now[name]!r}" for name in now if was.get(name) != now[name]]
    if differ:
        raise UserError(
            f"{out} was begun with other arguments: {', '.join(differ)}: repeat those, or choose another folder"
        )


def _record(
    plan: PriorPlan,
    out: Path,
    registry: Registry,
    job: tuple[str, int],
    place: str,
    plugins: Sequence[str],
    quiet: bool,
) -> Record:
    """A finished run's figures: those that are stored, or after training."""
    name, seed = job
    folder = run_folder(out, name, seed)
    stored = folder / EVALUATION
    if stored.is_file():
        _say(f"{place}: finished before", quiet)
        return read_json(stored)
    _say(place, quiet)
    try:
        result = train_prior(
            plan.run,
            folder,
            tokens=plan.tokens,
            steps=plan.steps,
            condition=plan.condition,
            settings=[f"prior.name={name}", f"train.seed={seed}", *plan.settings],
            resume=is_begun(folder),
            plugins=plugins,
            quiet=quiet,
        )
    except Stopped as stopped:  # it would speak of --resume
        stopped.args = (f"stopped in run {place}: repeat the same call to go on",)
        raise
    except UserError as error:  # the others go on
        _say(f"{place} failed: {error}", quiet)
        return {"run": {"seed": seed, "run": str(folder.relative_to(out)), "error": str(error)}}
    figures = _figures(plan, Generator.load(folder, registry), result, folder, name)
    run = {"seed": seed, "run": str(folder.relative_to(out)), "error": None, **finite(figures), "machine": machine()}
    record = {"run": run, "rules": {each: RULES[each] for each in figures}, "count": result["held_out_examples"]}
    write_text(stored, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return record


def _figures(
    plan: PriorPlan, generator: Generator, result: Mapping[str, Any], folder: Path, name: str
) -> dict[str, float | None]:
    vocabulary_range = generator.vocabulary[plan.modality]
    bits = result["modalities"][plan.modality]
    start = time.perf_counter()
    generator.codes(plan.modality, DRAWN)
    return {
        "bits_per_code": bits["bits_per_code"],
        "bits_per_sample": None if vocabulary_range.free else bits["bits_per_code"] * len(vocabulary_range.layout),
        **{each: bits[each] for each in BITS[1:]},
        "bits_per_code_unigram": bits["bits_per_code_unigram"],
        "weights": result["weights"],
        "best_step": result["best"]["step"],
        "train_seconds": _train_seconds(folder, plan.recipes[name].train.batch_size),
        "draw_seconds": (time.perf_counter() - start) / DRAWN,
    }


RULES = {
    "bits_per_code": f"of {HELD_OUT} rows, given their class where there is a condition; at the best step",
    "bits_per_sample": "bits_per_code times the codes of a sample; null where samples differ in length",
    "bits_per_code_unconditional": "the same with the condition left out; null where there is none",
    "bits_per_code_train": "of training rows, without dropout",
    "bits_per_code_gap": "held-out bits less those of training: what was memorised",
    "bits_per_code_unigram": "of training codes, for one who knows how often each comes in its stage, and nothing else",
    "weights": "parameters that gradients train",
    "best_step": "the step whose held-out bits were lowest, and whose prior was kept",
    "train_seconds": "wall time of the steps",
    "draw_seconds": f"wall time of a sample, {DRAWN} drawn at once",
}


def _train_seconds(folder: Path, batch_size: int) -> float:
    """Out of metrics.jsonl: right also for a run that was stopped and went on."""
    total, before = 0.0, 0
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "train" and entry["samples_per_second"]:
            total += (entry["step"] - before) * batch_size / entry["samples_per_second"]
            before = entry["step"]
    return total


def _summary(plan: PriorPlan, records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """The object of compare.json, of the shape that `vqmm.compare` gives."""
    done = [record for of_one in records.values() for record in of_one if not record["run"]["error"]]
    rules = {name: rule for name, rule in RULES.items() if done}
    rows = [row_of(name, of_one, rules, None) for name, of_one in records.items()]
    if done:
        unigram = done[0]["run"]["bits_per_code_unigram"]
        run = {"seed": None, "run": None, "error": None, "bits_per_code": unigram}
        rows.append(
            row_of(
                FREQUENCIES,
                [{"run": run, "family": FREQUENCIES, "rules": {"bits_per_code": rules["bits_per_code_unigram"]}}],
                rules,
                None,
            )
        )
    return {
        "rows": rows,
        "rules": rules,
        "what": "priors",
        "modality": plan.modality,
        "rate": None,  # nothing is lost on the way, so there is no rate to draw against a distortion
        "main_metric": None,
        "higher_is_better": {"bits_per_code": False, "bits_per_sample": False, "draw_seconds": False},
        **plan.arguments(),
        "seconds": None,
        "data": plan.tokens,
        "split": f"{HELD_OUT} rows",
        "view": "as they were encoded",
        "count": done[0]["count"] if done else None,
        "unreadable": [],
        "machine": done[0]["run"]["machine"] if done else None,
    }


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, file=sys.stderr, flush=True)
