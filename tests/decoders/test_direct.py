"""The direct decoder: the modality's network, and where asked for its output in the range of samples."""

import pytest
import torch

import vqmm
from vqmm.decoders.direct import DirectDecoder
from vqmm.recipe import read_recipe

REGISTRY = vqmm.Registry.discover()


def decoder(name, **options):
    torch.manual_seed(0)
    return DirectDecoder(REGISTRY.modality(name)(), 8, DirectDecoder.Options(**options))


@pytest.mark.parametrize("name", ["image", "audio"])
def test_bounded_outputs_are_samples_and_keep_a_gradient(name):
    """Without a bound a generator's outputs leave the range, where `postprocess` cuts them off, and never come back."""
    plain, bounded = decoder(name), decoder(name, bounded=True)
    modality = plain.modality
    x = modality.example(2)
    batch = modality.collate([*x], ["a", "b"])
    vectors = (100 * torch.randn(2, 8, *(n // s for n, s in zip(x.shape[2:], modality.strides, strict=True)))).detach()
    free, held = (each.loss(vectors, batch)[1] for each in (plain, bounded))
    assert free.abs().max() > 1 and held.abs().max() <= 1
    assert torch.allclose(held, free.tanh(), atol=1e-6)
    assert torch.autograd.grad(held.sum(), bounded.last_layer())[0].abs().sum() > 0
    sampled = bounded.sample(vectors, batch.size, 0)
    assert torch.allclose(torch.stack(sampled), held.detach(), atol=1e-5)


def test_a_gan_is_bounded_and_older_tokenizers_are_named_as_before():
    assert read_recipe("gan", REGISTRY, "image").decoder.bounded is True
    assert DirectDecoder.Options().to_config() == {} and DirectDecoder.Options(bounded=True).to_config() == {
        "bounded": True
    }
