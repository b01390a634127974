"""What needs no network, beside the recipes: same samples, same metrics, one table."""

import json
import re

import pytest

from tests.cli.runner import Vqmm
from tests.clicks import RATE_HZ, SHOWN, Clicks, Rounded
from vqmm.comparison import baselines as module
from vqmm.comparison.compare import compare, failures
from vqmm.comparison.page import draw, number, own_rules, write_page
from vqmm.data.source import Source
from vqmm.utils.errors import UserError

OPTIONS = ["modality.width=16", "modality.stride=4", "quantizer.dim=8", "train.batch_size=4"]
LENGTHS = [3, 64, 20, 33, 32]  # shorter than a view, just one, longer
COUNT = 40


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Forty lines of numbers of many lengths, one of them damaged."""
    folder = tmp_path_factory.mktemp("clicks")
    for i in range(COUNT):
        length = LENGTHS[i % len(LENGTHS)]
        (folder / f"{i:02}.txt").write_text(" ".join(str((i * 7 + t * 3) % 11 / 11 - 0.5) for t in range(length)))
    (folder / "damaged.txt").write_text("0.5 one")
    return folder


def call(out, lines, recipes="vqvae-ema", **changes):
    told = {"steps": 2, "settings": OPTIONS, "plugins": ["tests.clicks"], "quiet": True} | changes
    return compare("clicks", recipes, lines, out, **told)


def known(names):
    return [*OPTIONS, f"modality.known={names}"]


def typed(out, lines, settings):
    """What is typed for the same call."""
    sets = [part for setting in settings for part in ("--set", setting)]
    call = ("compare", "clicks", "--recipes", "vqvae-ema", "--data", lines, "--out", out, "--steps", 2)
    return (*call, "--plugin", "tests.clicks", *sets)


@pytest.fixture(scope="module")
def made(lines, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "done"
    Rounded.fitted.clear()
    Rounded.given.clear()
    return out, call(out, lines, seeds=[0, 1]), [*Rounded.fitted], [*Rounded.given]


def test_a_baseline_is_a_row_after_the_recipes(made):
    out, result, *_ = made
    recipe, one, two = result["rows"]
    assert [row["baseline"] for row in result["rows"]] == [False, True, True]
    assert (recipe["family"], one["family"], two["family"]) == (None, "rounded", "rounded")
    assert json.loads((out / "compare.json").read_text()) == result
    for row in (one, two):
        assert row["seeds"] == [] and row["error"] is None and row["spread"] == {} and row["calibration"] is None
        assert row["runs"][0]["seed"] is None
        nulls = ("weights", "steps", "codebook_usage", "codebook_perplexity", "encode_samples_per_second")
        assert [row[name] for name in nulls] == [None] * len(nulls) and row["train_seconds"] >= 0
        assert row["samples_per_second"] > 0 and "4 bits for every decimal" in row["rules"]["bits_per_second"]
    assert two["mse"] < one["mse"] < 1 / 400 and one["recipe"] == f"rounded, {one['bits_per_second']:g} bits"


def test_it_is_judged_on_the_views_of_the_recipes_and_learns_from_their_training_data(made, lines):
    _, result, fitted, given = made
    assert [name for name, _ in fitted] == [name for name, _ in given] == ["rounded to 1", "rounded to 2"]
    held_out, whole = given[0][1], [sample.read().shape[1] for sample in Source(Clicks(), lines).held_out()]
    assert max(whole) > SHOWN > min(whole), "else this test says nothing"
    assert held_out == [min(length, SHOWN) for length in whole] and len(held_out) == result["count"]
    assert len(fitted[0][1]) + len(held_out) == COUNT and max(fitted[0][1]) == 64, "whole, and none that is held out"
    one, two = result["rows"][1:]
    seconds = sum(held_out) / RATE_HZ
    assert one["bits_per_second"] == pytest.approx((8 + 4 * sum(held_out)) / seconds)
    assert two["bits_per_second"] == pytest.approx((8 + 8 * sum(held_out)) / seconds)


def test_its_metrics_are_those_of_the_judges(made, lines):
    values = [x for sample in Source(Clicks(), lines).held_out() for x in sample.read()[0, :SHOWN].tolist()]
    for row, decimals in zip(made[1]["rows"][1:], (1, 2), strict=True):
        errors = [(round(x, decimals) - x) ** 2 for x in values]
        assert row["mse"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_done_ones_are_skipped_and_may_be_left_out(made, lines, monkeypatch):
    out, result, *_ = made
    monkeypatch.setattr(Rounded, "reconstruct", lambda *_: pytest.fail("done before"))
    monkeypatch.setattr(Rounded, "fit", lambda *_: pytest.fail("done before"))
    assert call(out, lines, seeds=[0, 1]) == result
    without = call(out, lines, seeds=[0, 1], baselines=False)
    assert [row["recipe"] for row in without["rows"]] == ["vqvae-ema"]
    page = (out / "compare.html").read_text()
    assert "rounded" not in page and "baseline" not in page and "1 clicks recipes compared" in page
    assert call(out, lines, seeds=[0, 1]) == result


def test_one_that_cannot_run_does_not_hide_the_others(lines, tmp_path, capsys):
    out = tmp_path / "out"
    result = call(out, lines, settings=known("missing rounded:1"))
    recipe, missing, rounded = result["rows"]
    assert missing["error"] == "this baseline needs a library that is not installed" and missing["baseline"]
    assert missing["recipe"] == missing["family"] == "missing" and missing["mse"] is None
    assert recipe["mse"] > 0 and rounded["mse"] > 0
    assert failures(result) == ["missing: this baseline needs a library that is not installed"]
    page = (out / "compare.html").read_text()
    assert "missing failed." in page and "no finished run" in page
    told = Vqmm(capsys)(*typed(out, lines, known("missing rounded:1")))
    assert told.code == 2 and told.err.splitlines()[-1].startswith("vqmm: 1 of the runs failed: missing: this baseline")
    assert "baseline 1 of 2: missing failed" in told.err and "baseline 2 of 2: rounded to 1: finished" in told.err


def test_when_no_recipe_finishes_the_baselines_are_there(lines, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("quantizer: {name: none}\ntrain: {learning_rate: 1.0e+30}\n")
    settings = [each for each in OPTIONS if not each.startswith("quantizer")]
    result = call(tmp_path / "out", lines, str(broken), steps=3, settings=settings)
    bad, one, _ = result["rows"]
    assert bad["error"] and bad["mse"] is None and one["mse"] > 0
    assert result["count"] == len(Source(Clicks(), lines).held_out()) and result["machine"]["threads"] >= 1
    assert one["rules"].keys() == set() and "of a baseline" in result["rules"]["bits_per_second"]


def test_two_of_one_name_are_refused(lines, tmp_path):
    with pytest.raises(UserError, match="two baselines called 'rounded-to-1'"):
        call(tmp_path / "out", lines, settings=known("rounded:1 rounded:1"))


def test_one_that_changes_the_extent_is_its_authors_fault(lines, tmp_path):
    with pytest.raises(ValueError, match="'rounded to 1' gave samples of other shapes than it was given"):
        call(tmp_path / "out", lines, settings=known("cropping:1"))


def test_many_samples_come_in_pieces_and_give_the_same_figures(made, lines, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 1)
    monkeypatch.setattr(module, "AT_ONCE", 40)
    Rounded.given.clear()
    result = call(tmp_path / "out", lines, seeds=[0, 1])
    pieces = [lengths for name, lengths in Rounded.given if name == "rounded to 1"]
    assert len(pieces) > 1 and [length for piece in pieces for length in piece] == made[3][0][1]
    few, whole = result["rows"][1], made[1]["rows"][1]
    assert few["mse"] == pytest.approx(whole["mse"]) and few["nmse"] == pytest.approx(whole["nmse"])
    assert few["bits_per_second"] > whole["bits_per_second"], "each piece has a header of its own"


def test_it_learns_from_so_many_samples_spread_over_all(lines, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIT_SAMPLES", 5)
    Rounded.fitted.clear()
    result = call(tmp_path / "out", lines)
    assert len(Rounded.fitted[0][1]) == 5 and len(set(Rounded.fitted[0][1])) > 1
    assert "fit it on 5 training samples" in result["rows"][1]["rules"]["train_seconds"]


def test_where_inputs_are_degraded_there_are_none(lines, tmp_path, capsys):
    result = call(tmp_path / "out", lines, settings=[*OPTIONS, "train.degrade=noise"], quiet=False)
    assert [row["baseline"] for row in result["rows"]] == [False]
    assert "no baselines: vqvae-ema is given degraded samples" in capsys.readouterr().err


# The page and the command line


def test_the_page_marks_them_and_joins_a_family(made):
    out, result, *_ = made
    page = (out / "compare.html").read_text()
    assert "1 clicks recipes compared" in page and "In gray: baselines" in page and "A gray dot: a baseline" in page
    assert re.search(r"<title>vqmm compare: clicks, vqvae-ema</title>", page)
    for row in result["rows"]:
        assert f"{row['recipe']}</th>" in page
    drawing = draw(result)
    legend = re.findall(r"<text[^>]*>(.*?)</text>", drawing)
    assert legend.count("rounded") == 1 and "vqvae-ema" in legend
    assert "#7b828c" in drawing and "#7b828c" not in draw(result | {"rows": result["rows"][:1]})
    assert "<dt>bits_per_second, rounded</dt>" in page, "a rule of its own, once for both"
    assert page.count("of a baseline, measured: 4 bits") == 1


def test_the_best_of_a_column_is_the_best_recipe(made, tmp_path):
    recipe, one, two = made[1]["rows"]
    better = recipe | {"recipe": "better", "mse": recipe["mse"] / 2, "spread": {}}
    write_page(tmp_path / "page.html", made[1] | {"rows": [recipe, better, one, two | {"mse": 0.0}]}, (None, {}))
    rows = re.findall(r'<th scope="row">.*?</tr>', (tmp_path / "page.html").read_text(), flags=re.DOTALL)
    best = [re.findall(r'<td class="best">([^<]*)', row) for row in rows]
    assert best == [[], [number(better["mse"])], [], []]
    assert "Bold: the best recipe of a column" in (tmp_path / "page.html").read_text()


def test_a_rule_of_some_of_a_family_names_them(made):
    one, two = made[1]["rows"][1:]
    told = own_rules([one, two | {"rules": {"mse": "another"}}])
    assert ("mse", "another", [two["recipe"]]) in told
    assert [labels for name, _, labels in told if name == "bits_per_second"] == [[one["recipe"]]]
    assert [labels for _, _, labels in own_rules([one, two | {"rules": {}, "error": "x"}])] == [["rounded"]] * 3


def test_two_families_are_two_lines(made):
    recipe, one, two = made[1]["rows"]
    drawing = draw(made[1] | {"rows": [recipe, one, two, one | {"family": "other", "nmse": 2 * one["nmse"]}]})
    legend = re.findall(r"<text[^>]*>(.*?)</text>", drawing)
    assert legend.count("rounded") == legend.count("other") == 1
    dotted = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke-dasharray: 1,', drawing)  # the legend's have no clip
    assert sorted(path.count("L") for path in dotted) == [0, 1], "one joins its two rates, none the other family"


def test_one_without_the_headline_is_not_drawn(made):
    result = made[1]
    rows = [row | {"nmse": None} if row["baseline"] else row for row in result["rows"]]
    assert "#7b828c" not in draw(result | {"rows": rows})


def test_the_command_line_prints_them_below(made, lines, capsys):
    out = made[0]
    line = (*typed(out, lines, OPTIONS), "--seeds", "0,1")
    told = Vqmm(capsys)(*line)
    above, below = told.out.split("without a network")
    assert told.code == 0 and "codebook_usage" in above and "rounded" not in above
    assert "codebook_usage" not in below and "nmse" in below
    assert "\nrounded, bits_per_second: of a baseline, measured: 4 bits" in below
    assert below.count("of a baseline, measured: 4 bits") == 1
    told = Vqmm(capsys)(*line, "--no-baselines", "--json").json
    assert [row["recipe"] for row in told["rows"]] == ["vqvae-ema"]
    assert len(Vqmm(capsys)(*line, "--json").json["rows"]) == 3
