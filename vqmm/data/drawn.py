"""Digits drawn in the fonts that come with matplotlib: colour pictures of 32 x 32 pixels, as many as are wanted.

A font is in one part alone, together with its slanted partner, which a random affine map makes nearly the same: a
picture of the part "test" shows a shape that was never trained on, not a new view of one.
"""

from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FONTS = {  # file names without .ttf, by part
    "train": (
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        *("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
        *("STIXGeneral", "STIXGeneralItalic", "cmb10", "cmmi10", "cmti10", "cmtt10"),
    ),
    "validation": ("DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique", "cmr10"),
    "test": ("DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneralBol", "STIXGeneralBolIta", "cmss10"),
}
SIDE = 32  # pixels
ZOOM = 3  # drawn so much larger, then averaged: smooth edges
LONG = 23  # pixels of the longer side of a digit, before its map
PAPER = np.array((0.06, 0.07, 0.13), np.float32)  # the colour behind a digit
INKS = np.array(((1, 0.36, 0.3), (1, 0.9, 0.68), (0.3, 0.75, 1)), np.float32)  # coral, cream, sky
STROKES = (0, 2, 4)  # how much bolder a digit is drawn, in pixels of the large picture


def draw_digits(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` of a part, digits in turn: uint8 (count, 32, 32, 3), and which digits, uint8 (count,)."""
    digits = (np.arange(count) % 10).astype(np.uint8)
    pictures = np.stack([_picture(part, int(digit), Random(f"{part} {i}")) for i, digit in enumerate(digits)])
    return pictures, digits


def _picture(part: str, digit: int, random: Random) -> np.ndarray:
    """uint8 (32, 32, 3): a digit in a random font, weight, colour and place, turned and slanted a little."""
    from PIL import Image

    glyph = _glyph(random.choice(FONTS[part]), digit, random.choice(STROKES))
    side, middle = SIDE * ZOOM, SIDE * ZOOM / 2
    scale = random.uniform(0.95, 1.05) * LONG * ZOOM / max(glyph.size)
    turn, slant, wide = random.uniform(-0.06, 0.06), random.uniform(-0.08, 0.08), random.uniform(0.95, 1.06)
    cos, sin = np.cos(turn), np.sin(turn)
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.array([[wide, slant], [0, 1]]) * scale
    (a, b), (d, e) = np.linalg.inv(forward)  # from a place in the picture to one in the glyph
    x, y = (middle + random.uniform(-0.6, 0.6) * ZOOM for _ in range(2))
    c, f = glyph.width / 2 - a * x - b * y, glyph.height / 2 - d * x - e * y
    drawn = glyph.transform((side, side), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
    share = np.asarray(drawn.reduce(ZOOM), np.float32)[..., None] / 255
    return np.rint(255 * (PAPER + share * (random.choice(INKS) - PAPER))).astype(np.uint8)


@cache
def _glyph(font: str, digit: int, stroke: int) -> "Image.Image":
    """A digit as a mask, mode "L", with a margin of black around it."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    face = ImageFont.truetype(str(file), 6 * LONG)
    canvas = Image.new("L", (10 * LONG, 10 * LONG))
    ImageDraw.Draw(canvas).text((2 * LONG, LONG), str(digit), font=face, fill=255, stroke_width=stroke)
    left, top, right, bottom = canvas.getbbox() or (2, 2, 2, 2)
    return canvas.crop((left - 2, top - 2, right + 2, bottom + 2))
