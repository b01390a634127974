"""Several recipes in one table: where the figures come from, and going on with an unfinished comparison."""

import json
import shutil
from pathlib import Path

import pytest

import vqmm
from tests.comparison.comparisons import RECIPES, TINY, call
from vqmm.comparison import compare as module
from vqmm.comparison.timing import train_seconds
from vqmm.recipe import Train
from vqmm.training.loop import Loop
from vqmm.utils.errors import Stopped, UserError

TIMED = ("samples_per_second", "encode_samples_per_second", "decode_samples_per_second", "train_seconds")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A comparison that is done: its folder and what was returned."""
    out = tmp_path_factory.mktemp("compare") / "done"
    return out, call(out)


@pytest.fixture
def copied(made, tmp_path):
    """The same folder, to be changed."""
    return Path(shutil.copytree(made[0], tmp_path / "copied"))


@pytest.fixture
def trained(monkeypatch):
    """The (run, resume) pairs that are trained during a test."""
    calls, real = [], module.train

    def counted(modality, data, out, recipe, **options):
        calls.append((out.name, options["resume"]))
        return real(modality, data, out, recipe, **options)

    monkeypatch.setattr(module, "train", counted)
    return calls


# The figures


def test_recipes_need_not_have_the_same_figures(tmp_path, monkeypatch):
    from vqmm.decoders.flow import FlowDecoder

    monkeypatch.setattr(FlowDecoder, "evaluation_limit", 32)
    result = call(tmp_path / "both", ["vqvae-ema", "vqvae-flow"], seeds=[0])
    plain, flow = result["rows"]
    assert plain["bits_per_dim"] is None and flow["bits_per_dim"] > 0
    assert not plain["rules"] and flow["rules"]["mse"].endswith("of the first 32 samples")
    assert "bits_per_dim" in result["rules"] and "of the first 32" in (tmp_path / "both" / "compare.html").read_text()


def test_the_figures_are_those_of_eval(made):
    out, result = made
    assert [row["recipe"] for row in result["rows"]] == RECIPES
    for row in result["rows"]:
        for run in row["runs"]:
            found = vqmm.eval(out / run["run"], "builtin:digits")
            assert {n: run[n] for n in found["metrics"] if n not in TIMED} == {
                n: value for n, value in found["metrics"].items() if n not in TIMED
            }
            assert (found["split"], found["view"], found["count"]) == tuple(
                result[name] for name in ("split", "view", "count")
            )


def test_means_and_spread_over_the_seeds(made):
    for row in made[1]["rows"]:
        assert row["seeds"] == [run["seed"] for run in row["runs"]] == [0, 1] and row["error"] is None
        for name in ("psnr_db", "mse", *(("codebook_usage", *TIMED) if row["recipe"] != "ae" else ())):
            first, second = (run[name] for run in row["runs"])
            assert row[name] == pytest.approx((first + second) / 2)
            assert row["spread"][name] == sorted([first, second])
        assert row["runs"][0]["mse"] != row["runs"][1]["mse"], "seeds change the run"
        assert (row["steps"], row["calibration"]) == (4, None)


def test_a_seed_is_that_of_train(made):
    for seed in (0, 1):
        assert f"seed: {seed}\n" in (made[0] / "runs" / f"ae-seed-{seed}" / "recipe.yaml").read_text()


def test_without_codes_rate_use_and_the_speeds_of_codes_are_null(made):
    ae, vqvae = made[1]["rows"]
    for name in ("bits_per_pixel", "codebook_usage", "codebook_perplexity", *TIMED[1:3]):
        assert ae[name] is None and vqvae[name] > 0 and name not in ae["spread"]
    assert ae["samples_per_second"] > 0 and "samples_per_second" in made[1]["rules"]["encode_samples_per_second"]
    assert vqvae["bits_per_pixel"] == 9 / 4


def test_the_object_has_a_rule_for_every_figure_and_says_what_was_looked_at(made):
    out, result = made
    assert json.loads((out / "compare.json").read_text()) == result
    assert {"data": "builtin:digits", "split": "the held-out tenth", "modality": "image"}.items() <= result.items()
    assert result["view"] == "centre crop of at most 8 x 8 pixels" and result["machine"]["threads"] >= 1
    plain = {"recipe", "baseline", "family", "seeds", "error", "rules", "spread", "calibration", "runs"}
    for row in result["rows"]:
        assert row.keys() - plain == result["rules"].keys()
        for run in row["runs"]:
            assert run.keys() - {"seed", "run", "error", "machine"} == result["rules"].keys()
    assert {"psnr_db", "weights", "train_seconds", "steps"} < result["rules"].keys()


def test_a_figure_that_one_seed_lacks_has_no_mean(copied, monkeypatch):
    (copied / "runs" / "ae-seed-1" / "evaluation.json").unlink()
    real = module.evaluate_run

    def infinite(*arguments, **options):
        found = real(*arguments, **options)
        return found | {"metrics": found["metrics"] | {"mse": float("inf")}}

    monkeypatch.setattr(module, "evaluate_run", infinite)
    row = call(copied)["rows"][0]
    assert [run["mse"] is None for run in row["runs"]] == [False, True], "JSON has no infinity"
    assert row["mse"] is None and "mse" not in row["spread"] and row["psnr_db"] > 0


def test_training_time_is_read_from_the_log(tmp_path):
    lines = [
        {"kind": "train", "step": 20, "samples_per_second": 80.0},
        {"kind": "held-out", "step": 20},
        {"kind": "train", "step": 30, "samples_per_second": 160.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert train_seconds(tmp_path, Train(batch_size=8, accumulate=2)) == 20 * 16 / 80 + 10 * 16 / 160


# Going on


def test_finished_runs_are_kept(copied, made, trained):
    (copied / "compare.json").unlink()
    assert call(copied) == made[1] and trained == []
    assert json.loads((copied / "compare.json").read_text()) == made[1]


def test_an_unfinished_run_is_resumed_and_ends_the_same(made, trained, tmp_path, monkeypatch):
    out = tmp_path / "cut"
    train_step = Loop.train_step

    def killed(loop, stop=0):
        if loop.plan.seed == 1 and loop.step == 3:
            raise KeyboardInterrupt
        return train_step(loop, stop)

    monkeypatch.setattr(Loop, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        call(out)
    monkeypatch.setattr(Loop, "train_step", train_step)
    result = call(out)
    assert trained[:3] == [("ae-seed-0", False), ("ae-seed-1", False), ("ae-seed-1", True)]
    assert trained[3:] == [("vqvae-ema-seed-0", False), ("vqvae-ema-seed-1", False)]
    for row, whole in zip(result["rows"], made[1]["rows"], strict=True):
        assert {n: row[n] for n in result["rules"] if n not in TIMED} == {
            n: whole[n] for n in result["rules"] if n not in TIMED
        }


def test_a_stop_says_how_to_go_on(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise Stopped(3, 15)

    monkeypatch.setattr(module, "train", stopped)
    with pytest.raises(Stopped, match="stopped in run 1 of 4: ae, seed 0: repeat the same call") as left:
        call(tmp_path / "out")
    assert left.value.code == 143


DIFFERENT = {
    "steps": ({"steps": 5}, "steps was 4 and is 5"),
    "seeds": ({"seeds": "0"}, r"seeds was \[0, 1\] and is \[0\]"),
    "recipes": ({"recipes": "ae"}, r"recipes was \['ae', 'vqvae-ema'\] and is \['ae'\]"),
    "settings": ({"settings": [*TINY, "train.clip=2"]}, r"settings was \[\] and is \['train.clip=2'\]"),
    "budget": ({"steps": None, "seconds": 2.0}, "steps was 4 and is None, seconds was None and is 2.0"),
}


@pytest.mark.parametrize(("changes", "said"), DIFFERENT.values(), ids=DIFFERENT)
def test_other_arguments_are_refused_by_name(made, trained, changes, said):
    with pytest.raises(UserError, match=f"was begun with other arguments: {said}: repeat"):
        call(made[0], **changes)
    assert trained == []


def test_other_data_and_a_changed_recipe_are_refused(made, tmp_path, trained):
    data = tmp_path / "other"
    data.mkdir()
    for name in "abcdefgh":
        (data / f"{name}.png").write_bytes((made[0] / "runs" / "ae-seed-0" / "reconstructions.png").read_bytes())
    with pytest.raises(UserError, match=r"data was 'builtin:digits' and is .*other', data_fingerprint was"):
        call(made[0], data=data)
    out, own = tmp_path / "out", tmp_path / "own.yaml"
    own.write_text("quantizer: {name: none}")
    call(out, [str(own)], seeds=[0], steps=2)
    own.write_text("quantizer: {name: none}\ntrain: {clip: 3}")
    with pytest.raises(UserError, match=r"another recipe: train.clip was 1.0 and is 3"):
        call(out, [str(own)], seeds=[0], steps=2)
    assert len(trained) == 1


# Seconds


def test_a_budget_of_seconds_becomes_steps_that_are_measured_once(tmp_path, trained, monkeypatch):
    measured, real = [], module.calibrate

    def few(*arguments):
        found = real(*arguments)
        measured.append(found)
        assert found["steps"] == max(int(arguments[-1] / found["seconds_per_step"]), 1) and found["timed_steps"] == 20
        return found | {"steps": min(found["steps"], 6)}  # on a fast machine many more would fit

    monkeypatch.setattr(module, "calibrate", few)
    told = {"recipes": "vqvae-ema", "steps": None, "seconds": 0.05}
    first = call(tmp_path / "out", **told)
    (row,) = first["rows"]
    assert row["calibration"]["steps"] == row["steps"] == row["runs"][1]["steps"] and first["seconds"] == 0.05
    assert (
        "0.05 s" in first["rules"]["steps"] and f"{row['steps']} steps" in (tmp_path / "out/compare.html").read_text()
    )
    (tmp_path / "out" / "runs" / "vqvae-ema-seed-1" / "evaluation.json").unlink()
    assert call(tmp_path / "out", **told)["rows"][0]["steps"] == row["steps"]
    assert len(measured) == 1 and trained[2:] == [("vqvae-ema-seed-1", True)]
