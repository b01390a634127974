"""The page of `vqmm generate`: what was given above what came, one HTML file that opens offline."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vqmm import __version__
from vqmm.pages.templates import template

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vqmm.contracts.modality import Modality

COLUMNS = 8  # samples side by side in a grid
GAP = 2  # pixels between rows, as a modality leaves between columns
STYLE = ".generated { display: block; max-width: 100%; height: auto; margin-top: 16px; image-rendering: pixelated; }"

Shown = tuple["Modality", Sequence["Tensor"]]  # samples and what can show them


def grid_of(modality: "Modality", samples: Sequence["Tensor"]) -> "Image.Image | None":
    """Samples as one picture, eight in a row; None for a modality that shows itself as HTML."""
    from PIL import Image

    evaluation = modality.evaluation()
    rows = [evaluation.show(samples[start : start + COLUMNS]) for start in range(0, len(samples), COLUMNS)]
    pictures = [row for row in rows if not isinstance(row, str)]
    if not pictures:
        return None
    height = sum(picture.height + GAP for picture in pictures) - GAP
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    below = 0
    for picture in pictures:  # one below the other: the last may be shorter than the others
        sheet.paste(picture, (0, below))
        below += picture.height + GAP
    return sheet


def render(result: Mapping[str, Any], given: Mapping[str, Shown | str], generated: Shown) -> str:
    """The page as text.

    Args:
        result: what `vqmm.generate` returns, as far as it is known.
        given: what was given, by modality: samples, or for a label its name.
        generated: the generated samples that are shown.
    """
    parts = [section(*_words(result, name), thing) for name, thing in given.items()]
    shown, count = len(generated[1]), result["count"]
    many = f"{shown} of {count} samples; all of them are files" if shown < count else ""
    parts.append(section("Generated", many, generated))
    page = template("generated.html", STYLE).render(
        title=f"{result['want']} from {_from(result)}",
        subtitle=_subtitle(result),
        parts=parts,
        version=__version__,
    )
    return page.encode("ascii", "xmlcharrefreplace").decode()  # names need not be UTF-8


def _from(result: Mapping[str, Any]) -> str:
    sources = [*result["given"]] + ["a part of one"] * (result["complete"] is not None)
    return " and ".join(sources) or "nothing"


def _words(result: Mapping[str, Any], name: str) -> tuple[str, str]:
    """The heading of what was given, and a line below it."""
    if name == result["want"]:
        return "To be completed", f"{result['complete']}: the first {result['keep']:.0%} of its codes were kept"
    return f"Given: {name}", result["given"][name]


def _subtitle(result: Mapping[str, Any]) -> str:
    draw = {name: value for name, value in result["draw"].items() if value is not None}
    settings = [f"{name.replace('_', '-')} {value:g}" for name, value in draw.items()]
    return ", ".join([f"{result['count']} sample{'s' * (result['count'] != 1)}", *settings, f"seed {result['seed']}"])


def section(title: str, said: str, thing: Shown | str) -> dict[str, Any]:
    """A section of a page: samples as their modality shows them, below a heading and a line of text."""
    if isinstance(thing, str):
        return {"title": title, "said": thing}
    modality, samples = thing
    picture = grid_of(modality, samples)
    if picture is None:  # the modality's plugin has escaped what is in its fragment
        return {"title": title, "said": said, "fragment": Markup(modality.evaluation().show(samples))}
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return {"title": title, "said": said, "data": data, "width": picture.width, "height": picture.height}
