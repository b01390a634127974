"""The page of a comparison: one HTML file that needs nothing else, not even a network."""

import base64
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from torch import Tensor

from vqmm.comparison.template import TEMPLATE
from vqmm.contracts.modality import Modality
from vqmm.utils.files import write_text

Shown = tuple[Modality, dict[str, list[Tensor]]]  # samples by the name of their row, originals first

COLOURS = ("#3f7fd4", "#d2691e", "#2e9b62", "#a556c4", "#cf4a4a", "#0f96a5", "#a08418", "#b8558f")  # on white and black
MARKERS = "osD^vPX*"
GRAY = "#7b828c"  # of baselines,
BASELINE_MARKERS = "x+1"  # and none of the recipes' markers
INK, LINE = "#010203", "#040506"  # stand in the drawing for the page's own colours, which depend on light and dark
LABELS = {
    "bits_per_pixel": "rate, bits per pixel",
    "bits_per_second": "rate, bits per second",
    "bits_per_char": "rate, bits per character",
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "si_sdr_db": "SI-SDR, dB",
}


def write_page(path: Path, result: Mapping[str, Any], shown: Shown) -> None:
    """`result` is what `compare` returns; `shown` the samples for the eye."""
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    rate, main_metric = result["rate"], result["main_metric"]
    with_headline = [row for row in result["rows"] if row.get(main_metric) is not None]
    context = {
        "result": result,
        "rows": _rows(result),
        "several": len(result["seeds"]) > 1,
        "plot": draw(result) if with_headline else "",
        "has_line": any(row[rate] is None for row in with_headline),
        "has_baseline": any(row["baseline"] for row in with_headline),
        "budget": _budget(result),
        "samples": _samples(shown),
        "notes": _notes(result),
    }
    write_text(path, page.render(context) + "\n")


def draw(result: Mapping[str, Any]) -> str:
    """The main metric against the rate, as an SVG element whose ink is the page's.

    A recipe without codes has no rate: a dashed line across, the bound that its width allows. A baseline is a cross in
    gray; those that differ in their rate alone are joined by a dotted line.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rate, main_metric = result["rate"], result["main_metric"]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vqmm", "font.size": 10}):
        figure = Figure(figsize=(5.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        recipes, known = _parted(result["rows"])
        for number, row in enumerate(recipes):
            if row.get(main_metric) is not None:
                _draw_row(axes, row, rate, main_metric, number)
        for number, family in enumerate(dict.fromkeys(row["family"] for row in known)):
            _draw_family(axes, [row for row in known if row["family"] == family], rate, main_metric, number)
        _style(axes, any(row.get(rate) is not None for row in result["rows"]))
        axes.set_xlabel(_label(rate), color=INK)
        axes.set_ylabel(_label(main_metric), color=INK)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue())


def _draw_row(axes: Any, row: Mapping[str, Any], rate: str, main_metric: str, number: int) -> None:
    look: dict[str, Any] = {"color": _colour(number), "label": row["recipe"]}
    if row[rate] is None:
        axes.axhline(row[main_metric], linestyle=(0, (5, 3)), **look)
        return
    look |= {"marker": MARKERS[number % len(MARKERS)], "linestyle": "none", "markersize": 7}
    if main_metric not in row["spread"]:
        axes.plot([row[rate]], [row[main_metric]], **look)
        return
    low, high = row["spread"][main_metric]
    bars = [[row[main_metric] - low], [high - row[main_metric]]]
    axes.errorbar([row[rate]], [row[main_metric]], yerr=bars, capsize=3, **look)


def _draw_family(axes: Any, rows: Sequence[Mapping[str, Any]], rate: str, main_metric: str, number: int) -> None:
    points = sorted((row[rate], row[main_metric]) for row in rows if None not in (row.get(rate), row.get(main_metric)))
    if points:
        look = {"color": GRAY, "marker": BASELINE_MARKERS[number % len(BASELINE_MARKERS)], "linestyle": ":"}
        axes.plot(*zip(*points, strict=True), **look, markersize=7, linewidth=1, label=rows[0]["family"])


def _style(axes: Any, has_rates: bool) -> None:
    axes.margins(0.25, 0.2)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.ticklabel_format(useOffset=False)
    if not has_rates:
        axes.set_xticks([])
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
    axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, handletextpad=0.5)


def _inline(svg: str) -> str:
    """The drawing as a part of an HTML page: no prologue, no namespaces, no size of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    return svg.replace(INK, "currentColor").replace(LINE, "var(--line)")


def _samples(shown: Shown) -> dict[str, Any] | None:
    """All rows through the modality's `show`: a picture with a name beside each row, or the HTML it gives."""
    modality, rows = shown
    if not rows:
        return None
    seen = modality.evaluation().show(*rows.values(), names=[*rows])
    if isinstance(seen, str):
        return {"names": list(rows), "html": seen}
    file = io.BytesIO()
    seen.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"names": list(rows), "picture": f"data:image/png;base64,{data}", "width": seen.width, "height": seen.height}


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table; a recipe without a finished run has no cells."""
    columns = [_column(name, result) for name in result["rules"]]
    recipes, known = _parted(result["rows"])
    colours = [*(_colour(number) for number in range(len(recipes))), *[GRAY] * len(known)]
    rows = []
    for place, (row, colour) in enumerate(zip(result["rows"], colours, strict=True)):
        done = any(not run["error"] for run in row["runs"])
        cells = [column[place] for column in columns] if done else []
        header = {"name": row["recipe"], "baseline": row["baseline"], "error": row["error"]}
        rows.append({**header, "colour": colour, "cells": cells})
    return rows


def _parted(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The recipes, and the baselines after them."""
    return [row for row in rows if not row["baseline"]], [row for row in rows if row["baseline"]]


def _column(name: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One cell for each row: the mean, the spread, and whether it is the best recipe of its column.

    A baseline takes no part in that: at three times the rate it would always win.
    """
    up = result["higher_is_better"].get(name)
    values = [row[name] for row in result["rows"]]
    there = [row[name] for row in result["rows"] if row[name] is not None and not row["baseline"]]
    best = None if up is None or len(set(there)) < 2 else (max if up else min)(there)
    return [
        {
            "value": number(value),
            "spread": _spread(row["spread"].get(name)),
            "best": value is not None and value == best and not row["baseline"],
        }
        for row, value in zip(result["rows"], values, strict=True)
    ]


def _notes(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The rules, the steps that were measured, and the machine."""
    measured = [
        (
            row["recipe"],
            f"{timing['steps']} steps, at {timing['seconds_per_step']:.4g} s each over {timing['timed_steps']}",
        )
        for row in result["rows"]
        if (timing := row["calibration"])
    ]
    row_rules = [(f"{name}, {', '.join(recipes)}", rule) for name, rule, recipes in own_rules(result["rows"])]
    return [*result["rules"].items(), *row_rules, *measured, *(result["machine"] or {}).items()]


def own_rules(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[str]]]:
    """The rules that are not those of the table: a figure's name, its rule, and the rows that it holds for.

    Where it holds for a whole family of baselines, the family stands for its rows.
    """
    rows_by_rule: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        for named_rule in row["rules"].items():
            rows_by_rule.setdefault(named_rule, []).append(row)
    sizes = Counter(row["family"] for row in rows if not row["error"])
    named = []
    for (name, rule), matching_rows in rows_by_rule.items():
        here = Counter(row["family"] for row in matching_rows)
        whole = [row["family"] is not None and here[row["family"]] == sizes[row["family"]] for row in matching_rows]
        labels = [
            row["family"] if all_of_it else row["recipe"] for row, all_of_it in zip(matching_rows, whole, strict=True)
        ]
        named.append((name, rule, list(dict.fromkeys(labels))))
    return named


def _spread(ends: Sequence[float] | None) -> str:
    return "" if ends is None or ends[0] == ends[1] else f"{number(ends[0], 3)} to {number(ends[1], 3)}"


def number(value: float | None, digits: int = 4) -> str:
    """So many digits that count, but all of a whole number; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:#.{digits}g}"


def _budget(result: Mapping[str, Any]) -> str:
    if result["seconds"] is None:
        return f"{result['steps']:,} steps a run"
    return f"{result['seconds']:g} s of training a run"


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
