"""Decoders with a likelihood are judged in bits, and drawn from only as often as they say."""

import pytest
import torch

import vqmm
from tests import fakes
from tests.evaluation.test_evaluate import views
from vqmm.data.loader import evaluation_batches
from vqmm.evaluation.evaluate import evaluate, shuffled_loss_ratio
from vqmm.registry import Registry

REGISTRY = Registry.discover()
REGISTRY.add(fakes, "fakes")


def make(decoder: str, **options) -> vqmm.Tokenizer:
    torch.manual_seed(0)
    modality_class, modality = REGISTRY.part("modality", {"name": "image", "channels": 1, "size": 16, "width": 16})
    config = {"quantizer": {"name": "vector", "dim": 8, "codebook_size": 16}, "decoder": {"name": decoder, **options}}
    return vqmm.Tokenizer.build(config, modality_class(modality), REGISTRY).eval()


def test_bits_are_the_mean_over_all_values_whatever_the_batches_are():
    tokenizer = make("flow")
    some, pictures = views(tokenizer.modality)
    whole = tokenizer.modality.collate(list(pictures), [f"{i}.png" for i in range(5)])
    with torch.no_grad():
        expected = float(tokenizer.decoder.loss(tokenizer.quantize(whole).vectors, whole)[0])
    found = evaluate(tokenizer, evaluation_batches(some, 2))
    assert found.metrics["bits_per_dim"] == pytest.approx(expected, rel=1e-2)
    assert found.metrics["bits_per_dim_shuffled"] is not None and "bits_per_dim_shuffled" in found.rules
    one_by_one = evaluate(tokenizer, evaluation_batches(some, 1))
    assert "bits_per_dim_shuffled" not in one_by_one.metrics, "a sample alone has nobody to exchange codes with"


def test_a_decoder_that_is_slow_to_sample_is_judged_on_the_first_few(monkeypatch):
    tokenizer = make("flow")
    monkeypatch.setattr(type(tokenizer.decoder), "evaluation_limit", 2)
    found = evaluate(tokenizer, evaluation_batches(views(tokenizer.modality)[0], 2))
    assert found.count == 5 and len(found.shown[0]) == 2
    assert found.rules["mse"].endswith("of the first 2 samples")
    assert found.metrics["bits_per_pixel"] == pytest.approx(16 * 4 / 256), "the rate is that of all samples"


def test_the_ratio_of_a_likelihood_is_one_where_codes_say_nothing():
    tokenizer = make("flow")
    batch = tokenizer.modality.collate(list(torch.rand(4, 1, 16, 16) * 2 - 1), list("abcd"))
    tokenizer.quantizer.codebook[:] = tokenizer.quantizer.codebook[:1]  # every code stands for one vector
    assert shuffled_loss_ratio(tokenizer, batch) == pytest.approx(1.0, rel=1e-4)


def test_a_decoder_without_one_has_no_bits():
    tokenizer = make("direct")
    assert "bits_per_dim" not in evaluate(tokenizer, evaluation_batches(views(tokenizer.modality)[0], 2)).metrics
