"""What a comparison prints and the page it writes."""

import json
import re

import pytest
import torch

from tests.cli.runner import Vqmm
from tests.comparison.comparisons import RECIPES, call, typed
from vqmm.comparison.page import draw, number, write_page


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A comparison that is done: its folder and what was returned."""
    out = tmp_path_factory.mktemp("compare") / "done"
    return out, call(out, steps=2)


def test_the_command_line_prints_the_object_or_a_table(made, capsys):
    line = Vqmm(capsys)
    told = line(*typed(made[0], "ae,vqvae-ema", "--steps", 2, "--seeds", "0,1", "--json"))
    assert told.json == made[1] == json.loads((made[0] / "compare.json").read_text()) and "finished before" in told.err
    told = line(*typed(made[0], "ae,vqvae-ema", "--steps", 2, "--seeds", "0,1"))
    assert told.code == 0 and "psnr_db" in told.out and "vqvae-ema" in told.out and "compare.html" in told.out


def test_the_page_needs_nothing_else_and_shows_every_recipe(made):
    page = (made[0] / "compare.html").read_text()
    links = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"https?:|@import|<script|<link|url\((?!#)", page)
    table, names = page[page.index("<table>") : page.index("</table>")], re.findall(r"<span>(.*?)</span>", page)
    assert names == ["original", *RECIPES]
    legend = re.findall(r"<text[^>]*>(.*?)</text>", page)
    for recipe in RECIPES:
        assert f"{recipe}</th>" in table and recipe in legend
    for rule in made[1]["rules"].values():
        assert rule.replace("'", "&#39;") in page
    assert "NaN" not in page and "None" not in page
    row = made[1]["rows"][1]
    assert f">{number(row['psnr_db'])}<" in table and number(row["spread"]["psnr_db"][0], 3) in table


def test_names_cannot_break_the_page(made, tmp_path):
    result = made[1] | {"data": "<script>alert(1)</script>"}
    write_page(tmp_path / "page.html", result, (None, {}))
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page and "Reconstructions" not in page


def test_the_drawing_takes_the_colours_of_the_page(made):
    drawing = draw(made[1])
    assert drawing.startswith("<svg") and "currentColor" in drawing and "var(--line)" in drawing
    assert "#010203" not in drawing and "xmlns" not in drawing


@pytest.mark.parametrize(("value", "said"), [(None, "-"), (12.0, "12.00"), (1234.5, "1,234"), (81920, "81,920")])
def test_numbers(value, said):
    assert number(value) == said


def test_players_have_the_names_of_their_recipes():
    pytest.importorskip("torchaudio", reason="torchaudio is not installed")
    from vqmm.comparison.page import _samples
    from vqmm.plugins.audio import Audio

    sounds = [torch.zeros(1, 800)]
    told = _samples((Audio(), {"original": sounds, "rvq at 3 kbit/s": sounds, "opus": sounds}))
    assert all(name in told["html"] for name in ("original", "rvq at 3 kbit/s", "opus"))
    assert "row 2" not in told["html"]
