"""The benchmarks of compressed files and of features, on the smallest things that they can be run on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import vqmm
from vqmm.benchmarks import compression, features
from vqmm.utils.errors import UserError

TINY = ("modality.size=16", "modality.stride=4", "modality.width=16", "quantizer.dim=8", "quantizer.codebook_size=16")


def test_a_codec_gets_the_largest_file_that_is_not_larger():
    torch.manual_seed(0)
    picture = (torch.rand(3, 5, 6).repeat_interleave(8, 1).repeat_interleave(8, 2) * 255).to(torch.uint8)
    for codec, (_, qualities, _) in compression.CODECS.items():
        rungs = compression.ladder(picture, codec)
        assert [quality for _, quality in rungs] == list(qualities)
        smallest, largest = min(rungs)[0], max(rungs)[0]
        assert compression.at_most(picture, codec, rungs, smallest - 1) is None
        best = compression.at_most(picture, codec, rungs, 10**6)
        assert best["bytes"] == largest == len(compression.written(picture, codec, best["quality"]))
        limit = (smallest + largest) // 2
        middle = compression.at_most(picture, codec, rungs, limit)
        assert middle["bytes"] == max(size for size, _ in rungs if size <= limit)
        assert middle["psnr_db"] < best["psnr_db"]


def test_means_are_over_the_pictures_that_a_codec_can_make_small_enough():
    one = {"bytes": 100, "nominal_bytes": 120, "pixels": 800, "psnr_db": 20.0}
    fits = {"quality": 1, "bytes": 90, "psnr_db": 30.0}
    other = one | {"psnr_db": 26.0, "jpeg": None, "webp": None}
    told = compression.summary([one | {"jpeg": fits, "webp": None}, other])
    assert told["bits_per_pixel"] == 1 and told["nominal_bits_per_pixel"] == 1.2 and told["psnr_db"] == 23
    assert told["jpeg"] == {"pictures": 1, "bits_per_pixel": 0.9, "psnr_db": 30, "vqmm_psnr_db": 20}
    assert told["webp"] == {"pictures": 0}


def test_it_measures_real_files_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for i in range(12):
        picture = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "data" / ("deep" if i % 2 else ".") / f"{i}.png")
    settings = [*TINY, "quantizer.stages=2", "train.batch_size=4"]
    call = (tmp_path / "data", "noise", tmp_path / "run", 2, settings, tmp_path / "out")
    file = compression.bench(*call)
    told = json.loads(file.read_text())
    assert [row["stages"] for row in told["rows"]] == [1, 2] and file.with_suffix(".png").stat().st_size > 5000
    assert told["rows"][0]["bits_per_pixel"] < told["rows"][1]["bits_per_pixel"]
    assert told["training_pictures"] + len(told["test"]) == 12
    assert str(tmp_path) not in file.read_text()
    for row in told["rows"]:
        (found, *_) = row["pictures"].values()
        assert found["pixels"] == 40 * 48 and found["nominal_bytes"] == 120 * 4 / 8 * row["stages"]
    file.write_text(json.dumps({**told, "rows": told["rows"][:1]}))
    measured = []
    real = compression.measure
    monkeypatch.setattr(compression, "measure", lambda *given: measured.append(given[2]) or real(*given))
    again = json.loads(compression.bench(*call).read_text())
    assert set(measured) == {2} and again["rows"][1]["psnr_db"] == told["rows"][1]["psnr_db"]


def test_features_of_digits(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) * 15).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", x_train=x[:900], y_train=y[:900], x_test=x[900:1200], y_test=y[900:1200])
    settings = ["modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "quantizer.dim=8"]
    settings += ["modality.flip=false", "quantizer.codebook_size=32"]
    data, run, tokens = tmp_path / "digits.npz", tmp_path / "run", tmp_path / "tokens"
    vqmm.train("image", data, run, steps=60, settings=settings, quiet=True)
    vqmm.encode(run, data, tokens, vectors=True)
    told = []
    rows = features.bench(tokens, data, 600, 300, told.append)
    assert rows == told and {(row["train"], row["test"]) for row in rows} == {(600, 300)}
    found = {row["features_of"]: row for row in rows}
    assert [row["features"] for row in rows] == [64, 32, 8, 40, 16 * 8]
    assert found["raw pixels"]["accuracy"] > 0.85 and found["vectors in their places"]["accuracy"] > 0.8
    assert found["histogram of codes"]["accuracy"] > 0.2  # of ten classes

    vqmm.encode(run, data, tmp_path / "bare")
    with pytest.raises(UserError, match="--vectors"):
        features.bench(tmp_path / "bare", data, 600, 300, told.append)
    np.savez(tmp_path / "none.npz", x=x[:9])
    with pytest.raises(UserError, match="share no labelled sample of the train split"):
        features.bench(tokens, tmp_path / "none.npz", 600, 300, told.append)
