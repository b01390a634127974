"""Every verb once, as typed, on pictures and on sound: the oldest set of versions is tried with it as well."""

import numpy as np
import pytest

from tests.cli.runner import TINY_CODES
from vqmm.cli import app

pytestmark = pytest.mark.oldest

SMALL = ("--set", "prior.width=16", "--set", "prior.depth=1", "--set", "train.batch_size=4")
SOUND = ("modality.sample_rate_hz=8000", "modality.stride=80", "modality.seconds=0.2", "modality.width=16")
SOUND += ("modality.blocks=1", "quantizer.stages=2", "quantizer.codebook_size=8", "quantizer.dim=8")
ELSEWHERE = {"demo", "coherence"}  # tests/commands/test_demo.py, and as it is installed by CI; test_coherence_verb.py


def test_every_verb(vqmm, pages, pictures, tmp_path, monkeypatch):
    typed = set()

    def runs(*words):
        typed.add(words[0])
        finished = vqmm(*words)
        assert finished.code == 0, (words, finished.err)
        return finished.out

    monkeypatch.setattr("vqmm.cli.bench.QUICK_SECONDS", 1.0)
    run, tokens, one = tmp_path / "run", tmp_path / "tokens", pictures / "00.png"
    runs("train", "image", "--data", pictures, "--out", run, "--steps", 2, *TINY_CODES)
    assert "psnr_db" in runs("eval", run, "--data", pictures)
    runs("encode", run, pictures, "--out", tokens)
    runs("decode", run, tokens, "--out", tmp_path / "decoded")
    runs("compress", run, one, "--out", tmp_path / "one.vqmm")
    runs("decompress", run, tmp_path / "one.vqmm", "--out", tmp_path / "again")
    runs("reconstruct", run, one, "--out", tmp_path / "reconstructed")
    same = ("decoded/00.png", "again.png", "reconstructed/00.png")
    assert len({(tmp_path / name).read_bytes() for name in same}) == 1
    assert "<svg" in (run / "report.html").read_text()
    assert runs("report", run).strip() == str(run / "report.html")
    runs("prior", run, "--tokens", tokens, "--out", tmp_path / "prior", "--steps", 2, *SMALL)
    runs("generate", tmp_path / "prior", "--want", "image", "--count", 2, "--out", tmp_path / "made")
    assert (tmp_path / "made" / "1.png").is_file()
    compared = ("--recipes", "vqvae-ema", "--no-baselines", "--steps", 1, *TINY_CODES)
    assert "vqvae-ema" in runs("compare", "image", "--data", pictures, "--out", tmp_path / "compared", *compared)
    priors = ("--tokens", tokens, "--priors", "transformer", "--steps", 1, *SMALL)
    assert "bits_per_code" in runs("compare-priors", run, *priors, "--out", tmp_path / "compared priors")
    assert "cpu-vqvae" in runs("bench", "cpu-vqvae", "--quick")
    assert "vqvae-ema" in runs("recipes")
    assert "modality audio" in runs("plugins")
    runs("new-plugin", "sensors", "--out", tmp_path / "plugin")
    assert typed | ELSEWHERE == {each.callback.__name__.replace("_", "-") for each in app.registered_commands}


def test_every_verb_of_sound(vqmm, tmp_path):
    """Trained, judged by what torchaudio and others measure, and back to files."""
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path / "tones"
    folder.mkdir()
    for i in range(24):
        soundfile.write(folder / f"{i}.wav", 0.5 * np.sin(np.arange(2400) * (0.2 + 0.03 * i)), 8000)
    settings = [word for setting in (*SOUND, "train.batch_size=4") for word in ("--set", setting)]
    run, tokens = tmp_path / "run", tmp_path / "tokens"
    trained = vqmm("train", "audio", "--data", folder, "--recipe", "rvq", "--steps", 2, "--out", run, *settings)
    assert trained.code == 0, trained.err
    metrics = vqmm("eval", run, "--data", folder, "--json").json["metrics"]
    assert {"stoi", "si_sdr_db", "mel_distance", "stft_distance"} <= metrics.keys()
    assert vqmm("encode", run, folder, "--out", tokens).code == 0
    assert vqmm("decode", run, tokens, "--out", tmp_path / "back").code == 0
    assert soundfile.info(tmp_path / "back" / "3.wav").frames == 2400
