"""`vqmm prior`: what it prints, and what a person can get wrong: one line, exit code 2, and no run folder."""

import json

import pytest

from tests.cli.runner import TINY
from vqmm.commands.train import train
from vqmm.generation.generator import Generator

SMALL = ("--set", "prior.width=16", "--set", "prior.depth=1", "--set", "train.evaluate_every=2")
SMALL += ("--set", "train.batch_size=4")


@pytest.fixture(scope="module")
def without_codes(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "plain"
    train("image", pictures, out, "ae", steps=1, settings=TINY[1::2], quiet=True)
    return out


def test_a_prior_of_one_run(vqmm, run, tokens, tmp_path):
    typed = ("prior", run, "--tokens", tokens, "--out", tmp_path / "prior", "--steps", 4, *SMALL)
    finished = vqmm(*typed)
    assert finished.code == 0, finished.err
    assert "image" in finished.out and "unigram" in finished.out and "vqmm generate" in finished.out
    said = [line for line in finished.err.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in said] == ["step 2 of 4", "step 4 of 4"]
    assert "held-out: image" in said[0] and "bits per code: image" in said[1] and "samples/s" in said[1]
    assert Generator.load(tmp_path / "prior").has_modality("image")


def test_the_result_as_json_and_going_on_when_there_is_nothing_left(vqmm, run, tokens, tmp_path):
    typed = ("prior", run, "--tokens", tokens, "--out", tmp_path / "prior", "--steps", 2, *SMALL, "--json")
    told = vqmm(*typed).json
    assert told["steps"] == 2 and set(told["modalities"]["image"]) == {
        "bits_per_code",
        "bits_per_code_unconditional",
        "bits_per_code_unigram",
        "bits_per_code_train",
        "bits_per_code_gap",
    }
    assert vqmm(*typed, "--resume").json == told
    assert "the run folder" in vqmm.refuses(*typed) and json.loads((tmp_path / "prior" / "run.json").read_text())


# what is typed after `vqmm prior RUN --out OUT`, with TOKENS for a folder of tokens, and what the line must say
WRONG = {
    "neither tokens nor pairs": ([], ["0 folders of tokens", "--tokens", "--pairs"]),
    "tokens and pairs": (["TOKENS", "--pairs", "a.csv"], ["1 folders of tokens", "a.csv"]),
    "no tokens there": (["--tokens", "no"], ["there is nothing at", "/no: give a folder of tokens"]),
    "no tokens in there": (["--tokens", __file__], [__file__, "holds no token shards"]),
    "no pairs there": (["--pairs", "no.csv"], ["there is nothing at no.csv: give a CSV of pairs"]),
    "pairs of one run": (["--pairs", __file__], [__file__, "1 run was given (image)", "two or more"]),
    "an unknown part": (["TOKENS", "--set", "trian.steps=1"], ["'trian'", "Did you mean 'train'?"]),
    "an unknown option": (["TOKENS", "--set", "train.stepz=1"], ["train.stepz", "Did you mean 'steps'?"]),
    "several devices": (["TOKENS", "--set", "train.devices=2"], ["train.devices", "no such option", "device"]),
    "an unknown prior": (["TOKENS", "--set", "prior.name=transfomer"], ["Did you mean 'transformer'?"]),
    "an unknown option of the prior": (["TOKENS", "--set", "prior.widht=1"], ["prior.widht", "Did you mean 'width'?"]),
    "a name for a part": (["TOKENS", "--set", "prior=transformer"], ["'transformer'", "prior.OPTION=VALUE"]),
    "heads that do not divide": (["TOKENS", "--set", "prior.width=18"], ["width 18 with 4 heads"]),
    "not YAML": (["TOKENS", "--set", "train.steps=[1"], ["'[1'", "not a YAML value"]),
    "no equals sign": (["TOKENS", "--set", "train.steps"], ["'train.steps'", "part.option=value"]),
    "a switch for a number": (["TOKENS", "--set", "train.steps=yes"], ["train.steps", "True", "switches"]),
    "too few steps": (["TOKENS", "--steps", "0"], ["train.steps", "0", "greater than or equal to 1"]),
    "not one of the choices": (["TOKENS", "--condition", "labels"], ["condition", "'labels'", "'label'"]),
    "labels that are not there": (["TOKENS", "--condition", "label"], ["label for every sample", "lack one"]),
    "a context that is too short": (["TOKENS", "--set", "context=9"], ["context: 9 ids", "18 (image 18)", "longest"]),
    "windows of pictures": (["TOKENS", "--set", "cut=windows"], ["windows", "longest is None"]),
    "tokens twice": (["TOKENS", "TOKENS"], ["are tokens of one tokenizer"]),
    "one run twice": (["RUN", "TOKENS"], ["given twice"]),
    "a run that is not there": (["no-run", "TOKENS"], ["there is nothing at", "/no-run: give the folder of a run"]),
    "a run that is none": ([__file__, "TOKENS"], [__file__, "holds no tokenizer: give the folder of a run"]),
    "a run without codes": (["PLAIN", "TOKENS"], ["has no codes", "'none'", "vqvae-ema"]),
    "nothing to resume": (["TOKENS", "--resume"], ["no run to resume"]),
}


@pytest.mark.parametrize(("typed", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_answered_before_anything_is_made(vqmm, run, tokens, without_codes, tmp_path, typed, said):
    stand_for = {"TOKENS": ["--tokens", tokens], "RUN": [run], "PLAIN": [without_codes]}
    words = [word for each in typed for word in stand_for.get(each, [each])]
    line = vqmm.refuses("prior", run, "--out", tmp_path / "out", *SMALL, *words)
    assert all(part in line for part in said), line
    assert not any(tmp_path.iterdir())


def test_tokens_of_another_tokenizer_are_refused_with_both_fingerprints(vqmm, run, tokens, pictures, tmp_path):
    train("image", pictures, tmp_path / "other", steps=1, settings=[*TINY[1::2], "train.seed=5"], quiet=True)
    line = vqmm.refuses("prior", tmp_path / "other", "--tokens", tokens, "--out", tmp_path / "out")
    prints = [
        json.loads((path / "tokenizer" / "config.json").read_text())["code_fingerprint"]
        for path in (run, tmp_path / "other")
    ]
    assert all(fingerprint in line for fingerprint in prints) and "encode anew" in line
    assert not (tmp_path / "out").exists()
