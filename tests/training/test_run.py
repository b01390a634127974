"""Training, from Python: what a run leaves, and that it learns."""

import itertools
import json
import socket
from pathlib import Path

import pytest
import torch
import yaml

import vqmm
from vqmm.tokenizer.tokenizer import join_latents
from vqmm.training.base_loop import parameter_groups
from vqmm.utils.schedule import warmup_cosine

TINY = [
    "modality.size=8",
    "modality.channels=1",
    "modality.stride=2",
    "modality.width=16",
    "quantizer.codebook_size=32",
]
SMALL = [*TINY, "train.batch_size=16", "train.evaluate_every=20", "train.evaluate_samples=64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, pages):
    out = tmp_path_factory.mktemp("runs") / "digits"
    settings = [*SMALL, "train.learning_rate=4e-3", "train.evaluate_every=50"]
    return vqmm.train("image", "builtin:digits", out, steps=100, settings=settings, quiet=True)


def test_a_run_leaves_a_recipe_metrics_a_picture_and_a_tokenizer(run):
    out = Path(run["run"])
    assert sorted(file.name for file in out.iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "recipe.yaml",
        "reconstructions.png",
        "report.html",
        "run.json",
        "tokenizer",
    ]
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert recipe["data"] == "builtin:digits" and recipe["train"]["steps"] == 100 and recipe["modality"]["size"] == 8
    assert recipe["quantizer"]["commitment"] == 0.25, "defaults are written out"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [20, 40, 60, 80, 100]
    assert [line["step"] for line in lines if line["kind"] == "held-out"] == [50, 100]
    assert lines[-1]["metrics"]["psnr_db"] == run["metrics"]["psnr_db"]
    assert {"reconstruction", "commitment"} == lines[0]["losses"].keys()


def test_it_learns(run):
    lines = [json.loads(line) for line in (Path(run["run"]) / "metrics.jsonl").read_text().splitlines()]
    held_out = [line["metrics"] for line in lines if line["kind"] == "held-out"]
    assert held_out[1]["nmse"] < held_out[0]["nmse"] < 1 and held_out[1]["codebook_usage"] > 0.5


def test_eval_says_what_it_looked_at(run, tmp_path):
    found = vqmm.eval(run["run"], "builtin:digits", show=tmp_path / "shown")
    assert found["split"] == "the held-out tenth" and found["view"] == "centre crop of at most 8 x 8 pixels"
    assert 100 < found["count"] < 260 and (tmp_path / "shown.png").is_file()
    assert found["metrics"]["mse"] == pytest.approx(run["metrics"]["mse"], rel=0.2)


def test_encode_then_decode_gives_what_eval_whole_judged(run, tmp_path):
    """The pictures in the folder are the ones that the stated PSNR is of."""
    from vqmm.data.source import Source

    tokens = vqmm.encode(run["run"], ["builtin:digits"], tmp_path / "tokens")
    assert tokens["samples"] == 1797 and tokens["codes"] == 1797 * 16 and tokens["bits"] == 1797 * 16 * 5
    vqmm.decode(run["run"], tmp_path / "tokens", tmp_path / "pictures")
    modality = vqmm.Tokenizer.load(run["run"]).modality
    whole = vqmm.eval(run["run"], "builtin:digits", whole=True)
    psnr = []
    decoded = {sample.key: sample for sample in Source(modality, tmp_path / "pictures").samples}
    for sample in Source(modality, "builtin:digits").held_out():
        error = (decoded[f"{sample.key}.png"].read().double() - sample.read().double()) / 255
        psnr.append(-10 * torch.log10(error.square().mean()))
    assert torch.stack(psnr).mean().item() == pytest.approx(whole["metrics"]["psnr_db"], abs=1e-3)


def test_the_page_can_be_left_for_later(tmp_path):
    told = vqmm.train("image", "builtin:digits", tmp_path / "run", steps=1, settings=TINY, quiet=True, report=False)
    assert told["report"] is None and told["shown"] is None and not (tmp_path / "run" / "report.html").exists()


def test_the_same_seed_gives_the_same_weights(tmp_path):
    prints = []
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        settings = [*SMALL, f"train.seed={seed}"]
        vqmm.train(
            "image", "builtin:digits", tmp_path / out, "vae", steps=3, settings=settings[:4] + settings[5:], quiet=True
        )
        prints.append(vqmm.Tokenizer.load(tmp_path / out).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    found = []
    for out, batch_size, accumulate in (("one", 16, 1), ("many", 4, 4)):
        settings = [*TINY, f"train.batch_size={batch_size}", f"train.accumulate={accumulate}", "modality.flip=false"]
        settings.append("quantizer.start=random")  # a start from data takes its latents batch by batch
        vqmm.train("image", "builtin:digits", tmp_path / out, steps=3, settings=settings, quiet=True)
        found.append(vqmm.Tokenizer.load(tmp_path / out).state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(
            tensor, found[1][name], atol=2e-4, rtol=1e-3, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_bfloat16_and_labels_train(tmp_path):
    settings = [*TINY, "train.precision=bfloat16", "condition=label"]
    told = vqmm.train("image", "builtin:digits", tmp_path / "run", steps=3, settings=settings, quiet=True)
    tokenizer = vqmm.Tokenizer.load(tmp_path / "run")
    assert tokenizer.labels == tuple("0123456789") and tokenizer.label_embedding is not None
    assert all(p.dtype == torch.float32 for p in tokenizer.parameters()) and told["metrics"]["nmse"] < 10


def test_a_loss_that_explodes_stops_the_run_and_keeps_what_was_saved(tmp_path):
    settings = [*SMALL, "train.evaluate_every=1", "train.learning_rate=1e30", "train.clip=1e30"]
    with pytest.raises(vqmm.UserError, match="is not finite: lower"):
        vqmm.train("image", "builtin:digits", tmp_path / "run", steps=30, settings=settings, quiet=True)
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "health" and last["event"] == "not_finite" and "samples of that step: " in last["said"]


def test_the_rate_rises_then_falls():
    factors = [warmup_cosine(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1.0) and factors[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:])) and 0.01 <= factors[-1] < 0.02
    assert warmup_cosine(0, 1, 0.0) == 1.0


def test_weights_decay_and_codebooks_and_biases_do_not():
    module = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 2)})
    module.codebook = torch.nn.Parameter(torch.zeros(3, 2))
    decayed, kept = parameter_groups(module, 0.1)
    assert [p.shape for p in decayed["params"]] == [(2, 2)] and decayed["weight_decay"] == 0.1
    assert {tuple(p.shape) for p in kept["params"]} == {(2,), (3, 2)} and kept["weight_decay"] == 0.0


def test_latents_of_different_grids_join_under_a_mask():
    parts = [(torch.ones(1, 2, 3), None), (torch.ones(2, 2, 5), torch.tensor([[True] * 5, [True] * 2 + [False] * 3]))]
    z, mask = join_latents(parts)
    assert z.shape == (3, 2, 5) and mask.sum(dim=1).tolist() == [3, 5, 2]
    assert join_latents([(torch.ones(1, 2, 3), None)] * 2)[1] is None


def test_the_first_run_needs_no_network(tmp_path, monkeypatch):
    """Promise 11: whatever opens a connection fails."""

    def refused(*_: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    told = vqmm.train("image", "builtin:digits", tmp_path / "run", steps=2, settings=TINY, quiet=True)
    assert vqmm.encode(told["run"], "builtin:digits", tmp_path / "tokens")["samples"] == 1797
