"""`vqmm report`: from a run's folder to one HTML file."""

import base64
import datetime
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vqmm import __version__
from vqmm.pages import charts
from vqmm.pages.record import Record, Series, names_at, read_record, series
from vqmm.pages.templates import template
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_writable, write_text

if TYPE_CHECKING:
    from vqmm.contracts.modality import Modality
    from vqmm.evaluation.evaluate import EvaluationResult
    from vqmm.tokenizer.model import Model

COLUMNS = 4  # samples side by side in one picture: on a phone they are still large enough to judge
SMALL = 600  # a picture of fewer pixels across is enlarged by the page, and keeps its pixels sharp
UNREADABLE = 10  # damaged samples named one by one


def report(run: str | Path, *, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Write `report.html` into a run's folder: one file that needs no network, for a phone or a desktop.

    A run that is unfinished gets a page that says so; what needs the held-out data is left out where it is gone.

    Returns:
        `report`: the path of the page.

    Raises:
        UserError: the folder is no run; its recipe.yaml is damaged; a plugin in `plugins` does not load.
    """
    from vqmm.pages.heldout import evaluate_again, saved_model
    from vqmm.registry import Registry

    record = read_record(Path(run))
    must_be_writable(record.folder, "the run folder")
    model, evaluation, lacking = None, None, ""
    try:
        model = saved_model(record, Registry.discover(plugins))
        evaluation = evaluate_again(record, model)
    except UserError as error:
        lacking = str(error)
    return {"report": str(write_page(record, model, evaluation, lacking))}


def write_page(record: Record, model: "Model | None", evaluation: "EvaluationResult | None", lacking: str = "") -> Path:
    """Write `report.html` into a run's folder.

    Args:
        model: the one that the run has saved; None where there is none.
        evaluation: of that model on held-out data; None where that is gone.
        lacking: why one of them is None.
    """
    seen = evaluation
    if seen is not None and not seen.count:
        lacking = f"none of the samples can be read; the first: {seen.unreadable[0]}"
        seen = None
    shown = [] if model is None or seen is None else _shown(model.modality, seen)
    page = template("page.html").render(
        name=record.folder.resolve().name,
        subtitle=_subtitle(record),
        about=record.recipe.get("about") or "",
        notes=_notes(record, model, lacking),
        tiles=_tiles(record, model, seen),
        shown=shown,
        heading=_heading(seen, shown),
        small=SMALL,
        looked_at=None if seen is None else seen.looked_at,
        curves=_training_curves(record) + _held_out_curves(record),
        codebooks=[] if seen is None else _codebooks(seen),
        metrics=_metrics(record, model, seen),
        unreadable=[] if seen is None else seen.unreadable,
        named=UNREADABLE,
        health=record.of_kind("health"),
        finished=record.steps is not None and record.step >= record.steps,
        times=_times(record, seen),
        machine=_machine(record),
        command=_command(record),
        settings=_settings(record, model),
        version=__version__,
        date=datetime.date.today().isoformat(),
    )
    path = record.folder / "report.html"
    write_text(path, page.encode(errors="backslashreplace").decode())  # a folder's name need not be UTF-8
    return path


def _notes(record: Record, model: "Model | None", lacking: str) -> list[str]:
    """A sentence for each thing that the page of a whole run would have."""
    notes = []
    if record.steps is not None and record.step < record.steps:
        notes.append(f"This run is unfinished: {record.step:,} of {record.steps:,} steps so far.")
    if lacking and model is None:
        notes.append(f"Without its model a run shows no samples and no codes: {lacking}.")
    elif lacking:
        notes.append(f"Reconstructions and codebook use are left out, as the held-out data cannot be read: {lacking}.")
    return notes


def _subtitle(record: Record) -> str:
    """`image, vector quantizer with 512 codes, direct decoder`."""

    def name(part: str) -> str | None:
        config = record.recipe.get(part)
        return config.get("name") if isinstance(config, dict) else None

    phrases = []
    if name("modality"):
        kind = "generator" if record.recipe.get("input") == "noise" else "tokenizer"
        phrases.append(f"{name('modality')} {kind}")
    if name("quantizer"):
        size = record.recipe["quantizer"].get("codebook_size")
        phrases.append(f"{name('quantizer')} quantizer" + (f" with {size:,} codes" if isinstance(size, int) else ""))
    if name("decoder"):
        phrases.append(f"{name('decoder')} decoder")
    return " · ".join(phrases)


def _tiles(record: Record, model: "Model | None", seen: "EvaluationResult | None") -> list[dict[str, str]]:
    """The few numbers to read first."""
    metrics = _values(record, seen)
    main_metric = None if model is None else model.modality.evaluation().main_metric
    wanted = [main_metric, "nmse", *(name for name in metrics if name.startswith("bits_per_")), "codebook_usage"]
    names = [name for name in dict.fromkeys(wanted) if name and metrics.get(name) is not None]
    tiles = [{"name": name, "value": _headline(name, metrics[name])} for name in names]
    tiles.append({"name": "steps", "value": f"{record.step:,}"})
    if model is not None:
        weights = sum(p.numel() for p in model.parameters())
        tiles.append({"name": "weights", "value": f"{weights:,}"})
    return tiles


def _headline(name: str, value: float) -> str:
    if name == "codebook_usage" and math.isfinite(value):
        return f"{value:.0%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")
    if name.endswith("_db"):
        return f"{value:.2f}\N{NARROW NO-BREAK SPACE}dB"
    return number(value)


def number(value: Any) -> str:
    """Four digits, thousands apart; a dash for none."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if 1e3 <= abs(value) < 1e12 else f"{value:.4g}"


def _values(record: Record, seen: "EvaluationResult | None") -> dict[str, Any]:
    """The metrics of the evaluation that is at hand, else of the last one in the log."""
    if seen is not None:
        return seen.metrics
    evaluations = record.of_kind("held-out")
    return dict(evaluations[-1].get("metrics") or {}) if evaluations else {}


def _metrics(record: Record, model: "Model | None", seen: "EvaluationResult | None") -> list[dict[str, str]]:
    """The table of rate and distortion: name, value, rule."""
    rules: dict[str, str] = {}
    if seen is not None:
        rules = seen.rules
    elif model is not None:
        rules = {name: metric.rule for name, metric in model.modality.evaluation().metrics().items()}
    values = _values(record, seen)
    return [{"name": name, "value": number(value), "rule": rules.get(name, "")} for name, value in values.items()]


def _shown(modality: "Modality", seen: "EvaluationResult") -> list[dict[str, Any]]:
    """Rows of samples as the modality shows them: pictures of a few samples each, or one fragment."""
    rows = seen.rows
    whole = modality.evaluation().show(*rows)
    if isinstance(whole, str):  # a fragment arranges its samples itself; its plugin has escaped what is in it
        return [{"fragment": Markup(whole), "keys": seen.keys}]
    figures = []
    for start in range(0, len(rows[0]), COLUMNS):
        some = slice(start, start + COLUMNS)
        picture = modality.evaluation().show(*(row[some] for row in rows))
        assert not isinstance(picture, str)  # it was a picture a moment ago
        file = io.BytesIO()
        picture.save(file, format="PNG", optimize=True)
        data = base64.b64encode(file.getvalue()).decode()
        width, height = picture.size
        figures.append({"data": data, "width": width, "height": height, "keys": seen.keys[some]})
    return figures


def _heading(seen: "EvaluationResult | None", shown: Sequence[Mapping[str, Any]]) -> str:
    """What the rows are; a fragment need not put them one above the other."""
    if seen is not None and seen.inputs:
        return f"Degraded inputs, {seen.produces}, originals"
    beside = any("fragment" in each for each in shown)
    produces = "reconstructions" if seen is None else seen.produces
    return f"Originals {'and' if beside else 'over'} {produces}"


def _training_curves(record: Record) -> list[dict[str, Any]]:
    lines = record.of_kind("train")
    drawn = [
        _curve("losses", {name: series(lines, "losses", name) for name in names_at(lines, "losses")}, decays=True),
        _curve("gradient norm", {"gradient_norm": series(lines, "gradient_norm")}, decays=True),
        _curve("learning rate", {"learning_rate": series(lines, "learning_rate")}),
    ]
    return [curve for curve in drawn if curve["legend"]]


def _held_out_curves(record: Record) -> list[dict[str, Any]]:
    """One for each metric of the samples that changes in the run; a nominal rate, say, does not."""
    lines = record.of_kind("held-out")
    names = [name for name in names_at(lines, "metrics") if name != "samples_per_second"]
    drawn = {name: series(lines, "metrics", name) for name in names}
    return [_curve(f"held-out {n}", {n: line}) for n, line in drawn.items() if len(set(line[1])) > 1]


def _curve(title: str, lines: Mapping[str, Series], decays: bool = False) -> dict[str, Any]:
    drawn = {name: line for name, line in lines.items() if line[0]}
    return {
        "title": title,
        "svg": charts.curves(f"{title} over steps", list(drawn.values()), decays),
        "legend": charts.legend({name: number(values[-1]) for name, (_, values) in drawn.items()}),
    }


def _codebooks(seen: "EvaluationResult") -> list[dict[str, Any]]:
    """A picture for every stage of every map."""
    books = []
    maps = seen.code_counts
    for m, stages in enumerate(maps):
        for s, counts in enumerate(stages):
            where = [f"map {m}"] * (len(maps) > 1) + [f"stage {s}"] * (len(stages) > 1)
            title = ", ".join(where) or "codebook"
            svg = charts.counts_picture(f"counts of every code, {title}", counts)
            books.append({"title": title, "svg": svg, "said": _said_of(counts)})
    return books


def _said_of(counts: Sequence[int]) -> list[str]:
    total = max(sum(counts), 1)
    return [
        f"{sum(count > 0 for count in counts):,} of {len(counts):,} codes used",
        f"the most used takes {max(counts) / total:.1%} of all, an even share is {1 / len(counts):.1%}",
        f"{total:,} codes counted",
    ]


def _times(record: Record, seen: "EvaluationResult | None") -> list[tuple[str, str]]:
    rows = []
    seconds = record.training_seconds()
    if seconds is not None:
        rows.append(("training, with its evaluations on held-out data", duration(seconds)))
    speeds = series(record.of_kind("train"), "samples_per_second")[1]
    if speeds:
        rows.append(("samples/s in training, median", number(sorted(speeds)[len(speeds) // 2])))
    if seen is not None:
        rule = seen.rules["samples_per_second"]
        rows.append((f"samples/s, {rule}", number(seen.metrics["samples_per_second"])))
    return rows


def duration(seconds: float) -> str:
    """`8.4 s`, `12 min 30 s`, `3 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _machine(record: Record) -> dict[str, Any]:
    """The one that the run has noted, else this one, and which of the two it is."""
    noted = record.noted.get("machine")
    if isinstance(noted, dict):
        return {"what": "The machine of the run", "told": {str(name): number(value) for name, value in noted.items()}}
    from vqmm.utils.machine import machine

    return {"what": "The machine on which this page was made", "told": machine()}


def _command(record: Record) -> str:
    import shlex

    command = record.noted.get("command", "")
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


def _settings(record: Record, model: "Model | None") -> list[dict[str, Any]]:
    """The recipe in groups: one for each part, and one for what stands alone."""
    alone, groups = {}, []
    for name, value in record.recipe.items():
        if isinstance(value, dict):
            groups.append({"name": name, "rows": {option: _setting(each) for option, each in value.items()}})
        elif name != "about":
            alone[name] = _setting(value)
    if model is not None and model.labels:
        alone["labels"] = _setting(list(model.labels))
    return [*groups, *([{"name": "recipe", "rows": alone}] if alone else [])]


def _setting(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "\N{EN DASH}"}[value]
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
