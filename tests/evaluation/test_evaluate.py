"""One pass over held-out data."""

import math

import numpy as np
import pytest
import torch

from tests.test_tokenizer import make
from vqmm.batch import Codes
from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.sample import Sample, Unreadable
from vqmm.evaluation.evaluate import evaluate
from vqmm.evaluation.metrics import NormalizedMSE
from vqmm.evaluation.show import heatmaps
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
    used = tokenizer.encode(batch).maps[0].unique().numel() / 16
    assert found.metrics["codebook_use"] == pytest.approx(used)


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
    assert found.metrics["bits_per_pixel"] is None and found.metrics["codebook_use"] is None


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
