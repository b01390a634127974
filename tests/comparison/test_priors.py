"""Several priors in one table: where the figures come from, going on, and mistakes."""

import json
import re
import shutil

import pytest
from PIL import Image

import vqmm
from vqmm.cli import main
from vqmm.comparison import priors as module
from vqmm.comparison.priors import compare_priors
from vqmm.generation.generator import Generator
from vqmm.tokens.token_set import TokenSet
from vqmm.utils.errors import UserError

SMALL = [
    "prior.width=8",
    "train.batch_size=8",
    "train.evaluate_samples=8",
    "train.evaluate_every=2",
    "train.patience=null",
]
SHAPE = ["modality.size=8", "modality.channels=1", "modality.stride=4", "modality.blocks=0", "modality.width=8"]
PRIORS = "pixelcnn,lstm"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tokenizer of small pictures in two classes, and its tokens."""
    home = tmp_path_factory.mktemp("priors")
    for i in range(30):
        folder = home / "pictures" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(90 * (i % 4)).resize((8, 8)).save(folder / f"{i:02}.png")
    codes = ["quantizer.codebook_size=8", "quantizer.dim=4"]
    vqmm.train("image", home / "pictures", home / "run", steps=8, settings=[*SHAPE, *codes], quiet=True)
    vqmm.encode(home / "run", home / "pictures", home / "tokens")
    return home


def call(home, out, priors=PRIORS, **options):
    given = {"steps": 4, "seeds": "0,1", "settings": SMALL, "condition": "label", "quiet": True, **options}
    return compare_priors(home / "run", home / "tokens", priors, out, **given)


@pytest.fixture(scope="module")
def made(home, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    return out, call(home, out)


def test_the_figures_are_those_of_the_runs(home, made):
    out, result = made
    assert [row["recipe"] for row in result["rows"]] == ["pixelcnn", "lstm", "frequencies"]
    assert result == json.loads((out / "compare.json").read_text())
    for row in result["rows"][:2]:
        assert row["seeds"] == [0, 1] and row["error"] is None and not row["baseline"]
        for run in row["runs"]:
            looks = [json.loads(line) for line in (out / run["run"] / "metrics.jsonl").read_text().splitlines()]
            held_out = [look["metrics"]["bits_per_code"] for look in looks if look["kind"] == "held-out"]
            assert run["bits_per_code"] == min(held_out) and run["bits_per_sample"] == 4 * run["bits_per_code"]
            assert run["draw_seconds"] > 0 and run["train_seconds"] > 0
            assert Generator.load(out / run["run"]).prior.name == row["recipe"]
        mean = sum(run["bits_per_code"] for run in row["runs"]) / 2
        assert row["bits_per_code"] == pytest.approx(mean)
        assert row["spread"]["bits_per_code"] == sorted(run["bits_per_code"] for run in row["runs"])
    known = result["rows"][2]
    assert known["baseline"] and known["bits_per_code"] == result["rows"][0]["bits_per_code_unigram"]
    assert known["weights"] is None and "nothing else" in known["rules"]["bits_per_code"]
    assert set(result["rules"]) <= set(result["rows"][0])
    assert result["count"] == len(TokenSet(home / "tokens", "held-out"))


def test_the_page_says_it_all(made):
    out, result = made
    page = (out / "compare.html").read_text()
    assert "2 image priors compared" in page and "frequencies" in page and "distortion" not in page
    assert all(rule in page for rule in result["rules"].values())


def test_it_goes_on_where_it_was(home, made, tmp_path, monkeypatch):
    out = tmp_path / "again"
    shutil.copytree(made[0], out)
    (out / "runs" / "lstm-seed-1" / "evaluation.json").unlink()
    trained, real = [], module.train_prior

    def counted(run, folder, **options):
        trained.append((folder.name, options["resume"]))
        return real(run, folder, **options)

    monkeypatch.setattr(module, "train_prior", counted)
    result = call(home, out)
    assert trained == [("lstm-seed-1", True)]
    assert result["rows"][0] == made[1]["rows"][0]
    assert result["rows"][1]["bits_per_code"] == pytest.approx(made[1]["rows"][1]["bits_per_code"])
    with pytest.raises(UserError, match=r"begun with other arguments: steps was 4 and is 5: repeat those, or choose"):
        call(home, out, steps=5)


def test_a_prior_that_does_not_serve_the_codes_is_an_error_in_its_row(home, tmp_path, capsys):
    result = call(home, tmp_path / "out", "wavenet,lstm", seeds=[3])
    bad, good, _ = result["rows"]
    assert "prior 'wavenet' over grids of 'image' with 2 axes" in bad["error"] and bad["bits_per_code"] is None
    assert good["error"] is None and "wavenet failed" in (tmp_path / "out" / "compare.html").read_text()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"priors": "pixelcnn,pixelcnn"}, "--priors: pixelcnn is there more than once"),
        ({"priors": "pixelcnn,"}, "--priors 'pixelcnn,' lacks a name: write them as pixelcnn,transformer"),
        ({"priors": "pixelcn"}, "prior pixelcn: "),
        ({"seeds": "0,x"}, "--seeds: 'x' is not a whole number"),
        ({"settings": ["prior.name=lstm"]}, "compare sets prior.name itself: use --priors"),
        ({"settings": ["train.seed=1"]}, "compare sets train.seed itself: use --seeds"),
        ({"settings": ["prior.kernel=5"]}, "prior lstm: "),
        ({"condition": "lable"}, "condition"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(home, tmp_path, changed, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        call(home, tmp_path / "out", **changed)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_tokens_of_another_tokenizer(home, tmp_path):
    codes = ["quantizer.codebook_size=9", "quantizer.dim=4"]
    vqmm.train("image", home / "pictures", tmp_path / "run", steps=2, settings=[*SHAPE, *codes], quiet=True)
    with pytest.raises(UserError, match=r"tokens was encoded by the tokenizer \w+, and \S+run is \w+: give the run"):
        compare_priors(tmp_path / "run", home / "tokens", "lstm", tmp_path / "out")


def verb(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in arguments])
    return left.value.code, *capsys.readouterr()


def test_the_verb(home, made, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    sets = [part for each in SMALL for part in ("--set", each)]
    told = ("compare-priors", home / "run", "--tokens", home / "tokens", "--priors", PRIORS, "--out", out)
    code, said, _ = verb(capsys, *told, "--condition", "label", "--steps", 4, "--seeds", "0,1", *sets)
    assert code == 0 and "pixelcnn" in said and "bits_per_sample" in said and "frequencies" in said
    for arguments, line in (
        (("compare-priors", home / "run", "--tokens", home / "tokens", "--out", out), "Missing option '--priors'"),
        ((*told, "--data", "x"), "No such option: --data"),
    ):
        code, said, wrong = verb(capsys, *arguments)
        assert (code, said) == (2, "") and line in wrong
