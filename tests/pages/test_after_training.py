"""The page that training ends with: made of what the run knows, and the same as one that looks again."""

import json
import re
from pathlib import Path

import pytest
import torch

import vqmm
from tests.pages.conftest import TINY
from vqmm.contracts.batch import Batch
from vqmm.pages import report
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.loop import Loop

pytestmark = pytest.mark.usefixtures("pages")

SETTINGS = [*TINY, "train.checkpoint_every=5", "train.evaluate_every=10"]
CRITIC = ["adversary.width=4", "adversary.layers=2", "adversary.start=0", "adversary.warm=0"]
RUNS = {
    "labels": ("vqvae-ema", [*SETTINGS, "condition=label", "train.average=0.9"]),
    "stages": ("rvq", [each for each in SETTINGS if "codebook_size" not in each]),
    "critic and noise": ("vqgan", [*SETTINGS, *CRITIC, "train.degrade=noise"]),
}


def train(out: Path, recipe: str, settings: list[str], **options: object) -> str:
    told = vqmm.train("image", "builtin:digits", out, recipe, steps=20, settings=settings, quiet=True, **options)
    assert told["report"] == str(out / "report.html") and told["shown"] == str(out / "reconstructions.png")
    return Path(told["report"]).read_text()


def without_clock(page: str) -> str:
    """What stands on a page, but for what was measured with a clock."""
    page = re.sub(r"<tr><td class=\"name\">samples_per_second</td>.*?</tr>", "", page)
    return re.sub(r"<h3>Times</h3>.*?</table>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("name", RUNS)
def test_it_is_the_page_that_a_second_evaluation_gives(name, tmp_path):
    page = train(tmp_path / "run", *RUNS[name])
    assert "Use of the codebook" in page and "reconstructions" in page and "data:image/png" in page
    again = Path(report(tmp_path / "run")["report"]).read_text()
    assert without_clock(page) == without_clock(again)


def test_nothing_is_read_or_reconstructed_for_it(tmp_path, monkeypatch):
    """Every forward pass belongs to an evaluation that the log has."""
    counted = []
    evaluation_outputs, encode = Tokenizer.evaluation_outputs, Tokenizer.encode

    def given_for(self: Tokenizer, batch: Batch, *given: object, **options: object) -> object:
        counted.append(len(batch))
        return evaluation_outputs(self, batch, *given, **options)

    def encoded(self: Tokenizer, batch: Batch, *given: object) -> object:
        counted.append(len(batch))
        return encode(self, batch, *given)

    monkeypatch.setattr(Tokenizer, "evaluation_outputs", given_for)
    monkeypatch.setattr(Tokenizer, "encode", encoded)
    page = train(tmp_path / "run", *RUNS["labels"])
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert sum(counted) == sum(line["count"] for line in lines if line["kind"] == "held-out") == 2 * 64
    assert "64 of 176 samples; the held-out tenth; centre crop of at most 8 x 8 pixels" in page


@pytest.mark.parametrize("step", [3, 17, 20])
def test_the_page_of_a_resumed_run_has_all_that_an_undisturbed_one_has(step, tmp_path, monkeypatch):
    undisturbed = train(tmp_path / "whole" / "run", *RUNS["critic and noise"])
    train_step = Loop.train_step

    def killed(self: Loop, stop: int = 0) -> int:
        if self.step == step:
            raise KeyboardInterrupt
        return train_step(self, stop)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "train_step", killed)
        if step < 20:
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / "run", *RUNS["critic and noise"])
        else:  # all was done, and only the page is made anew
            train(tmp_path / "run", *RUNS["critic and noise"])
            (tmp_path / "run" / "report.html").unlink()
    torch.manual_seed(step)  # whatever happened in between
    resumed = train(tmp_path / "run", *RUNS["critic and noise"], resume=True)
    for ours, theirs in zip(*(without_clock(page).split("<h2>") for page in (resumed, undisturbed)), strict=True):
        if theirs.startswith("Training"):  # the first means after a stop are of fewer steps
            ours, theirs = (re.findall("<h3>(.*)</h3>", part) for part in (ours, theirs))
        assert ours == theirs


def test_held_out_samples_that_cannot_be_read_are_said(tmp_path):
    image = vqmm.Registry.discover().modality("image")()
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
    for i in range(6):
        image.write(torch.rand(3, 8, 8) * 2 - 1, tmp_path / "data" / "train" / str(i))
    (tmp_path / "data" / "test" / "bad.png").write_bytes(b"nothing")
    settings = [setting for setting in SETTINGS if "channels" not in setting]
    told = vqmm.train("image", tmp_path / "data", tmp_path / "run", steps=2, settings=settings, quiet=True)
    page = Path(told["report"]).read_text()
    assert told["shown"] is None and told["count"] == 0 and "Originals over" not in page
    for each in (page, Path(report(tmp_path / "run")["report"]).read_text()):
        (note,) = re.findall(r'<p class="note">(.*)</p>', each)
        assert "the held-out data cannot be read: none of the samples can be read; the first: " in note
