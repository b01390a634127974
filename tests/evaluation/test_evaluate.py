"""One pass over held-out data."""

import json
import math

import numpy as np
import pytest
import torch

from tests.tokenizer.test_tokenizer import make
from vqmm.contracts.batch import Codes
from vqmm.contracts.metric import NormalizedMSE
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.contracts.show import heatmaps
from vqmm.data.loader import Views, evaluation_batches
from vqmm.evaluation.evaluate import alike, evaluate
from vqmm.evaluation.usage import CodeUsage


def broken():
    raise Unreadable("b.png: cut short")


def views(modality, count=5, **options):
    torch.manual_seed(2)
    pictures = torch.randint(256, (count, 1, 16, 16), dtype=torch.uint8)
    samples = [Sample(f"{i}.png", lambda i=i: pictures[i]) for i in range(count)]
    return Views(modality, [*samples, Sample("b.png", broken)], {}, **options), pictures


def test_every_metric_has_a_rule_and_the_values_of_the_formula():
    tokenizer = make(codebook_size=16).eval()
    some, pictures = views(tokenizer.modality)
    found = evaluate(tokenizer, evaluation_batches(some, 2))
    assert found.count == 5 and found.unreadable == ["b.png: cut short"]
    assert found.rules.keys() == found.metrics.keys()
    x = pictures.float() / 127.5 - 1
    batch = tokenizer.modality.collate(list(pictures), [str(i) for i in range(5)])
    outputs = torch.stack(tokenizer.reconstruct(batch)[0])
    mse = ((outputs - x) / 2).square().mean().item()
    variance = (x / 2).double().var(correction=0).item()
    assert found.metrics["mse"] == pytest.approx(mse, rel=1e-4)
    assert found.metrics["nmse"] == pytest.approx(mse / variance, rel=1e-4)
    assert found.metrics["bits_per_pixel"] == pytest.approx(16 * math.log2(16) / 256)
    used, counts = tokenizer.encode(batch).maps[0].unique(return_counts=True)
    assert found.metrics["codebook_usage"] == pytest.approx(len(used) / 16)
    share = counts.double() / counts.sum()
    entropy = float(-(share * share.log2()).sum())
    assert found.metrics["entropy_bits_per_pixel"] == pytest.approx(16 * entropy / 256)
    (stage,) = found.as_dict()["stages"]
    assert stage == {
        "map": 0,
        "stage": 0,
        "size": 16,
        "use": found.metrics["codebook_usage"],
        "perplexity": found.metrics["codebook_perplexity"],
    }


def test_what_a_file_would_hold_is_rounded_to_eight_bits():
    tokenizer = make()
    some, _ = views(tokenizer.modality, whole=True)
    found = evaluate(tokenizer, evaluation_batches(some, 1), as_written=True, show=3)
    assert len(found.shown[0]) == len(found.shown[1]) == 3
    for output in found.shown[1]:
        levels = (output + 1) * 127.5
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_without_codes_the_rate_is_null():
    tokenizer = make("none")
    found = evaluate(tokenizer, evaluation_batches(views(tokenizer.modality)[0], 4))
    for name in ("bits_per_pixel", "entropy_bits_per_pixel", "codebook_usage", "codebook_perplexity"):
        assert found.metrics[name] is None, name
    assert found.as_dict()["stages"] == []


def test_what_a_bottleneck_measures_is_the_mean_over_all_positions():
    """The KL divergence of a VAE by hand, whatever the batches."""
    tokenizer = make("gaussian").eval()
    some, pictures = views(tokenizer.modality)
    found = evaluate(tokenizer, evaluation_batches(some, 2))
    batch = tokenizer.modality.collate(list(pictures), [str(i) for i in range(5)])
    with torch.no_grad():
        z, _ = tokenizer.latents(batch)
        mean, log_variance = tokenizer.quantizer.moments(z.movedim(1, -1)).chunk(2, dim=-1)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    assert found.metrics["kl_per_dim"] == pytest.approx(float(kl.mean()), rel=1e-4)
    assert "nats per latent dimension" in found.rules["kl_per_dim"]


def test_a_figure_that_is_no_number_is_null_and_its_rule_says_so(monkeypatch):
    tokenizer = make()
    monkeypatch.setattr(tokenizer.modality, "postprocess", lambda output: output * math.nan)
    told = evaluate(tokenizer, evaluation_batches(views(tokenizer.modality)[0], 4)).as_dict()
    assert told["metrics"]["mse"] is None and told["rules"]["mse"].endswith("; null: nan came out")
    assert "null" not in told["rules"]["codebook_usage"]
    json.dumps(told, allow_nan=False)


def test_nothing_to_look_at_is_an_empty_evaluation():
    tokenizer = make()
    told = evaluate(tokenizer, iter([(None, ["b.png: cut short"])])).as_dict()
    assert told == {"count": 0, "metrics": {}, "rules": {}, "stages": [], "unreadable": ["b.png: cut short"]}


def test_a_limit_spreads_over_the_whole_source():
    tokenizer = make()
    some, _ = views(tokenizer.modality, count=10)
    keys = [key for batch, _ in evaluation_batches(some, 2, limit=4) if batch for key in batch.key]
    assert keys == ["0.png", "2.png", "5.png", "8.png"]


def test_use_and_perplexity_by_hand_over_maps_stages_and_mask():
    usage = CodeUsage(((2,), (4, 4)))
    mask = torch.tensor([[True, True, True, False]])
    codes = Codes((torch.tensor([[[0, 0]]]), torch.tensor([[[0, 1, 2, 3], [3, 3, 3, 0]]])), torch.tensor([[7]]), mask)
    usage.update(codes)
    assert usage.use() == pytest.approx((1 / 2 + 3 / 4 + 1 / 4) / 3)
    assert usage.perplexity() == pytest.approx((1 + 3 + 1) / 3)
    assert usage.bits == pytest.approx(2 * 1 + 3 * 2 + 3 * 2)
    assert usage.entropy_bits() == pytest.approx(2 * 0 + 3 * math.log2(3) + 3 * 0)
    assert [(one["map"], one["stage"], one["size"]) for one in usage.stages()] == [(0, 0, 2), (1, 0, 4), (1, 1, 4)]
    assert [one["use"] for one in usage.stages()] == [1 / 2, 3 / 4, 1 / 4]
    assert [one["perplexity"] for one in usage.stages()] == pytest.approx([1, 3, 1])


def test_an_even_use_takes_all_the_nominal_bits_and_no_code_takes_none():
    usage = CodeUsage(((8,),))
    assert usage.entropy_bits() == 0 and usage.stages()[0]["use"] == 0
    usage.update(Codes((torch.arange(8).reshape(1, 1, 8),), torch.tensor([[8]])))
    assert usage.entropy_bits() == pytest.approx(usage.bits) == 24
    usage.update(Codes((torch.zeros(1, 1, 8, dtype=torch.int64),), torch.tensor([[8]])))
    assert 0 < usage.entropy_bits() < usage.bits == 48


def test_pairs_are_stacked_with_their_neighbours_and_in_their_order():
    samples = [torch.full((1, n), float(i)) for i, n in enumerate((3, 3, 5, 3))]
    stacks = list(alike([sample + 10 for sample in samples], samples))
    assert [originals.shape for _, originals in stacks] == [(2, 1, 3), (1, 1, 5), (1, 1, 3)]
    assert [originals[:, 0, 0].tolist() for _, originals in stacks] == [[0, 1], [2], [3]]
    assert all(torch.equal(outputs, originals + 10) for outputs, originals in stacks)
    assert list(alike([], [])) == []


def test_the_normalised_error_is_one_for_the_mean_alone_in_any_split_of_the_data():
    data = torch.rand(6, 1, 5) * 3 + 10
    metric = NormalizedMSE()
    for part in data.split([1, 3, 2]):
        metric.update(torch.full_like(part, data.mean()), part)
    assert float(metric.compute()) == pytest.approx(1.0, rel=1e-5)


def test_heat_maps_show_any_rank():
    for extent in ((20,), (6, 7), (3, 6, 7)):
        row = [torch.randn(2, *extent), torch.randn(2, *extent)]
        picture = heatmaps([row, row])
        assert picture.mode == "L" and picture.width > 2 * extent[-1] and len(np.unique(np.asarray(picture))) > 4
