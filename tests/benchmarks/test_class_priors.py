"""Priors by class over one tokenizer's codes, from a folder of data to the table."""

import json
import sys

import pytest

from vqmm.benchmarks import class_priors
from vqmm.evaluation import classifier, coherence

DIGITS = ["modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=8", "modality.blocks=0"]
CODES = ["quantizer.codebook_size=8", "quantizer.dim=4", "train.evaluate_samples=16"]
SMALL = ["prior.width=8", "train.batch_size=8", "train.evaluate_every=2"]


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Runs the benchmark once more in its folder, and reads its result."""
    monkeypatch.setattr(class_priors, "AS_FILES", 3)
    monkeypatch.setattr(classifier, "EPOCHS", 8)  # a classifier good enough, and one for all four tables
    classifiers, fit = {}, coherence.classifier_of

    def classifier_of(modality, items):
        if len(items) not in classifiers:
            classifiers[len(items)] = fit(modality, items)
        return classifiers[len(items)]

    monkeypatch.setattr(coherence, "classifier_of", classifier_of)
    words = ["class_priors", "image", "builtin:digits", "--name", "digits", "--run", str(tmp_path), "--steps", "5"]
    for setting in [*DIGITS, *CODES]:
        words += ["--set", setting]
    for setting in SMALL:
        words += ["--set-prior", setting]
    words += ["--priors", "pixelcnn,lstm", "--prior-steps", "2", "--seeds", "0,1", "--count", "30", "--bytes"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "results")])

    def run():
        class_priors.main()
        return json.loads((tmp_path / "results" / "class_priors-digits.json").read_text())

    return run


def checkpoints(folder):
    files = [file for one in folder.glob("**/checkpoints") for file in one.glob("**/*") if file.is_file()]
    return {file: file.stat().st_mtime_ns for file in files}


def test_a_rate_stands_beside_the_error_behind_it_and_a_second_call_trains_nothing(told, tmp_path):
    found = told()
    assert found["tokenizer"]["bits_per_pixel"] * 64 == pytest.approx(16 * 3)
    assert 0 < found["tokenizer"]["psnr_db_of_mean_error"] <= found["tokenizer"]["psnr_db"]
    assert [row["recipe"] for row in found["rows"]] == ["pixelcnn", "lstm", "frequencies"]
    for row in found["rows"][:2]:
        assert row["seeds"] == [0, 1] and 0 < row["bits_per_sample"] < 16 * 8
        assert 0 <= row["samples"]["interval"][0] <= row["samples"]["agreement"] <= row["samples"]["interval"][1] <= 1
        assert row["samples"]["classifier"] > 0.9, "on real pictures"
        sizes = row["bytes_of_files"]
        assert sizes["pictures"] == 3 and sizes["codes"] == 16 * 3 / 8
        assert min(sizes["png"], sizes["webp"]) > sizes["vqmm"] > sizes["codes"]
        assert sizes["vqmm_prior"] > sizes["vqmm_prior_codes"] >= sizes["prior_rate"] > 0
        assert (tmp_path / "results" / f"class_priors-digits-{row['recipe']}.png").exists()
    made = checkpoints(tmp_path)
    again = told()
    assert len(made) >= 5 and checkpoints(tmp_path) == made
    assert [row["bits_per_sample"] for row in again["rows"]] == [row["bits_per_sample"] for row in found["rows"]]
