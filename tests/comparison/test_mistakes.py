"""What a person can get wrong about a comparison, and recipes that fail."""

import json

import pytest

from tests.cli.runner import Vqmm
from tests.comparison.comparisons import NOT_FINITE, TINY, call, typed
from vqmm.comparison import compare as module
from vqmm.comparison.compare import failures
from vqmm.utils.errors import UserError

WRONG = {
    "a recipe that is not there": ({"recipes": "ae,vqvae-emma"}, "'vqvae-emma'.*Did you mean 'vqvae-ema'?"),
    "no such recipe file": ({"recipes": "ae,no.yaml"}, "there is no recipe file no.yaml"),
    "a recipe twice": ({"recipes": "ae,vae,ae"}, "--recipes: ae is there more than once"),
    "an empty recipe": ({"recipes": "ae,,vae"}, "--recipes 'ae,,vae' lacks a name"),
    "no recipe": ({"recipes": []}, "lacks a name"),
    "a seed twice": ({"seeds": "0,1,1"}, "--seeds: 1 is there more than once"),
    "a seed that is a word": ({"seeds": "0,one"}, "--seeds: 'one' is not a whole number"),
    "a seed that is a fraction": ({"seeds": [0.5]}, "--seeds: '0.5' is not a whole number"),
    "a seed below 0": ({"seeds": "-1"}, "--seeds: '-1' is not a whole number"),
    "no seed": ({"seeds": []}, "--seeds: an empty list"),
    "two budgets": ({"seconds": 3.0}, "--steps 4 and --seconds 3 are both given"),
    "no time": ({"steps": None, "seconds": 0.0}, "--seconds 0: give a number above 0"),
    "no number": ({"steps": None, "seconds": float("nan")}, "--seconds nan"),
    "no steps": ({"steps": 0}, "recipe ae: train.steps: 0 does not fit"),
    "a seed by --set": ({"settings": ["train.seed=3"]}, "train.seed=3: compare sets train.seed itself: use --seeds"),
    "steps by --set": ({"settings": ["train.steps=3"]}, "use --steps or --seconds"),
    "a setting that one recipe lacks": (
        {"settings": [*TINY, "quantizer.codebook_size=9"]},
        "recipe ae: quantizer.codebook_size: there is no such option",
    ),
    "data that is not there": ({"data": "builtin:digit"}, "Did you mean 'digits'?"),
}


@pytest.fixture
def broken(tmp_path):
    """A recipe file whose second step is not finite."""
    file = tmp_path / "broken.yaml"
    file.write_text(NOT_FINITE)
    return file


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(UserError, match=said) as error:
        call(tmp_path / "out", **changes)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_recipes_that_cannot_stand_in_one_table(tmp_path, broken):
    broken.write_text("quantizer: {name: none}\ntrain: {steps: 7}")
    with pytest.raises(UserError, match=r"different train.steps \(ae 3000, broken 7\): give one budget"):
        call(tmp_path / "out", ["ae", str(broken)], steps=None)
    broken.write_text("quantizer: {name: none}\nmodality: {name: image, size: 12, channels: 1}")
    with pytest.raises(UserError, match=r"in different ways \(ae .* 32 x 32 .*; broken .* 12 x 12 .*\): give them one"):
        call(tmp_path / "out", ["ae", str(broken)], settings=[])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_kind_is_left_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    with pytest.raises(UserError, match=r"the folder of the comparison .*run exists already"):
        call(run)
    file = tmp_path / "note.txt"
    file.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        call(file)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan.json is damaged"):
        call(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note.txt", "plan.json", "run"]


# A recipe that fails


def test_a_recipe_that_fails_does_not_hide_the_others(tmp_path, broken):
    result = call(tmp_path / "out", [str(broken), "vqvae-ema"], seeds=[0])
    bad, good = result["rows"]
    assert bad["error"].startswith("seed 0: the gradient at step") and bad["runs"][0]["error"] in bad["error"]
    assert bad["psnr_db"] is None and good["psnr_db"] > 0 and good["error"] is None
    (line,) = failures(result)
    assert line.startswith("broken, seed 0: the gradient")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "broken failed." in page and "no finished run" in page


def test_a_seed_that_fails_is_left_out_of_the_mean_and_named(tmp_path, monkeypatch):
    real = module.train

    def second_fails(*arguments, **options):
        if "train.seed=1" in options["settings"]:
            raise UserError("it is not my day")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "train", second_fails)
    (row,) = call(tmp_path / "out", "ae")["rows"]
    assert row["error"] == "seed 1: it is not my day" and row["psnr_db"] == row["runs"][0]["psnr_db"]
    assert row["spread"] == {}


def test_all_may_fail(tmp_path, broken):
    result = call(tmp_path / "out", [str(broken)], seeds=[0])
    assert (
        result["rules"] == {} and result["rows"][0]["error"] and "broken" in (tmp_path / "out/compare.html").read_text()
    )


def test_the_command_line_names_what_failed_after_the_result(tmp_path, broken, capsys):
    line = Vqmm(capsys)
    told = line(*typed(tmp_path / "out", f"{broken},ae", "--steps", 3, "--json"))
    assert told.code == 2 and [row["recipe"] for row in json.loads(told.out)["rows"]] == ["broken", "ae"]
    assert told.err.splitlines()[-1].startswith("vqmm: 1 of the runs failed: broken, seed 0: the gradient")
    assert "--seeds: 'x'" in line.refuses(*typed(tmp_path / "new", "ae", "--seeds", "x"))
