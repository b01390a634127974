"""Texts for the eye: originals over their reconstructions, marked where they differ, as HTML that needs no files."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from html import escape

from torch import Tensor

from vqmm.contracts.show import named_rows
from vqmm.plugins.text.metrics import TextOf

LONGEST = 600  # characters of a text that are shown
SPARE = 100  # characters more that are compared, so that the cut, where one side is shifted, is no difference
VISIBLE = {" ": "\u2423", "\t": "\u2192\t", "\n": "\u21b5\n"}  # what a difference in white space looks like
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

# Blue and orange are told apart by most eyes that see few colours, dotted and solid lines by all. The letters have the
# page's own colour, under which both tints are faint enough on white and on black.
STYLE = """<style>
.texts { display: grid; gap: 24px; }
.texts > p { margin: 0; font-size: 0.84rem; color: var(--soft, #73777d); }
.texts section { margin: 0; min-width: 0; }
.texts h3 { margin: 0 0 8px; font-size: 0.9rem; }
.texts section p { margin: 8px 0 2px; font-size: 0.84rem; color: var(--soft, #73777d); }
.texts pre { margin: 0; padding: 0; border: 0; background: none; color: inherit; overflow: visible; line-height: 1.7; }
.texts pre { font: 0.84rem/1.7 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; }
.texts pre { overflow-wrap: anywhere; word-break: break-all; unicode-bidi: isolate; }
.texts mark { color: inherit; background: #e69f0050; border-bottom: 2px solid #d98200; }
.texts mark.lost { background: #0072b240; border-bottom: 2px dotted #2f8fd0; }
.texts mark:empty { padding: 0; border: 0; border-left: 3px dotted #2f8fd0; }
</style>"""
LEGEND = (
    '<mark>Solid</mark>: not in the original. <mark class="lost">Dotted</mark>: in the original alone; a bar where '
    "nothing stands for it. In marks white space is visible."
)

Piece = tuple[str, bool]  # a part of a text, and whether the other text has something else there


def show_text(rows: Sequence[Sequence[Tensor]], text_of: TextOf, names: Sequence[str] | None = None) -> str:
    """Rows of texts as HTML: each sample's original, under it the same sample of the other rows.

    With two rows what differs is marked in both; with more, in the reconstructions.

    Args:
        rows: lists of samples, ids int64 (1, T), as many in each: originals first (no input of a degradation: ids have
            none).
        text_of: the text of a sample.
        names: of the rows; without any "original" and "reconstruction", with a number where there are several.

    Returns:
        HTML in plain ASCII, to be put into a page or opened as it is. Where a page has the CSS variable `--soft` it is
        used for small print.

    Raises:
        UserError: rows of different lengths, or another number of names.
    """
    numbered = [f"reconstruction {n}" if len(rows) > 2 else "reconstruction" for n in range(1, len(rows))]
    names = named_rows(rows, names, ["original", *numbered] if numbered else ["text"] * len(rows))
    columns = [[text_of(sample) for sample in column] for column in zip(*rows, strict=True)]
    shown = "".join(_sample(number, column, names) for number, column in enumerate(columns, 1))
    said = ("" if len(rows) < 2 else f"<p>{LEGEND}</p>\n") if columns else "<p>No samples.</p>\n"
    return f'{STYLE}\n<div class="texts">\n{said}{shown}</div>\n'.encode("ascii", "xmlcharrefreplace").decode()


def _sample(number: int, column: Sequence[str], names: Sequence[str]) -> str:
    """One sample, as it is in every row."""
    original, *others = column
    compared = [differences(original, other) for other in others]
    lines = [compared[0][0] if len(compared) == 1 else [(original, False)], *(theirs for _, theirs in compared)]
    cells: list[str] = []
    for name, text, pieces in zip(names, column, lines, strict=True):
        marked = "".join(_html(part, differs, of_original=not cells) for part, differs in _first(pieces, LONGEST))
        # a line end right after the tag is dropped: this one, and not the text's own
        cells.append(f"<p>{escape(name)}, {_length(text)}</p>\n<pre>\n{marked}</pre>\n")
    return f"<section><h3>sample {number}</h3>\n{''.join(cells)}</section>\n"


def differences(original: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, as far as they are shown and a little further; those of a best guess that differ.

    Where the other lacks something with nothing in its place it has an empty piece that differs.
    """
    reference, two = original[: LONGEST + SPARE], other[: LONGEST + SPARE]
    opcodes = SequenceMatcher(None, reference, two, autojunk=False).get_opcodes()
    ours = [(reference[a:b], kind != "equal") for kind, a, b, _, _ in opcodes if a < b]
    return ours, [(two[a:b], kind != "equal") for kind, _, _, a, b in opcodes]


def _first(pieces: Sequence[Piece], most: int) -> Iterator[Piece]:
    """So many characters of the pieces."""
    for part, differs in pieces:
        if most <= 0:
            return
        yield part[:most], differs
        most -= len(part)


def _html(part: str, differs: bool, of_original: bool) -> str:
    """Escaped, and marked where it differs. What has no shape has one: controls always, white space in a mark."""
    if differs:
        part = "".join(VISIBLE.get(character, character) for character in part)
    shown = escape(UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", part))
    kind = ' class="lost"' if of_original or not part else ""
    return f"<mark{kind}>{shown}</mark>" if differs else shown


def _length(text: str) -> str:
    many = f"{len(text):,} character{'' if len(text) == 1 else 's'}"
    return f"the first {LONGEST} of {many}" if len(text) > LONGEST else many
