"""Curves and counts as inline SVG that takes its colours and its font from the page around it.

matplotlib knows neither CSS variables nor dark mode, so it draws in marker colours, which are then replaced.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

from markupsafe import Markup

from vqmm.pages.record import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = 6  # colours of curves that the style sheet has
_INK, _LINE = "#000001", "#000002"
_COLOURS = [f"#00001{number}" for number in range(SERIES)]
_MEANT = {_INK: "var(--soft)", _LINE: "var(--line)"} | {c: f"var(--series-{i})" for i, c in enumerate(_COLOURS)}

POINTS = 400  # of a curve of counts: more cannot be told apart
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "vqmm",  # the same numbers give the same page
    "font.size": 10.5,
    "text.parse_math": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.unicode_minus": True,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
}


def curves(title: str, lines: Sequence[Series], decays: bool = False) -> Markup:
    """Values over steps, each line in its own colour.

    Args:
        decays: what falls for a long time (a loss) is drawn on a log scale where it spans more than a factor of 20.
    """
    finite = [value for _, values in lines for value in values if math.isfinite(value)]
    logarithmic = decays and bool(finite) and min(finite) > 0 and max(finite) > 20 * min(finite)

    def draw(axes: "Axes") -> None:
        for number, (steps, values) in enumerate(lines):
            marker = "o" if len(steps) <= 12 else ""
            colour = _COLOURS[number % SERIES]
            axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3.2, clip_on=False)
        if logarithmic:
            axes.set_yscale("log")
        _x_axis(axes, max((step for steps, _ in lines for step in steps), default=1))

    return _svg(title, draw, logarithmic)


def counts_picture(title: str, counts: Sequence[int]) -> Markup:
    """How often every code was chosen, most used first; the dashed line is what an even use would give."""
    ranked = sorted(counts, reverse=True)
    places = range(len(ranked))
    if len(ranked) > POINTS:
        places = [round(i * (len(ranked) - 1) / (POINTS - 1)) for i in range(POINTS)]  # type: ignore[assignment]
    # a bar from rank to rank + 1, so that the last one has a width too
    edges = [*places, len(ranked)]
    heights = [ranked[place] for place in places]

    def draw(axes: "Axes") -> None:
        axes.stairs(heights, edges, fill=True, color=_COLOURS[0], linewidth=0)
        axes.axhline(sum(ranked) / len(ranked), color=_INK, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_ylim(bottom=0)
        _x_axis(axes, len(ranked))

    return _svg(title, draw, False)


def _x_axis(axes: "Axes", last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))


def short_count(value: float) -> str:
    """1500 -> 1.5k, 2000000 -> 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _svg(title: str, draw: Any, logarithmic: bool) -> Markup:
    """Figure objects and no pyplot: nothing of the caller's matplotlib is touched, and no display is looked for."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    with rc_context(_SETTINGS):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(which="both", length=0, pad=5)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        if logarithmic:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=5))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(["Date", "Creator", "Format"]))
    return _inline(file.getvalue(), title)


def _inline(drawn: str, title: str) -> Markup:
    """The bare <svg> element, with the page's colours and font, ids of its own, and as large as its place."""
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    body = re.sub(r"<(metadata|style).*?</\1>", "", body, flags=re.DOTALL)
    for marker, meant in _MEANT.items():
        body = body.replace(marker, meant)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)  # one way of matplotlib to write a font,
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # and the other
    prefix = f"chart-{crc32(drawn.encode()):08x}-"
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", body)
    (box,) = re.findall(r'viewBox="([^"]*)"', drawn)
    head = Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(box, title)
    return head + Markup(body)


def legend(names: Mapping[str, str]) -> list[dict[str, str]]:
    """Names with what to say of each, and the class of its colour, in the order in which `curves` draws."""
    return [
        {"name": name, "said": said, "colour": f"series-{number % SERIES}"}
        for number, (name, said) in enumerate(names.items())
    ]
