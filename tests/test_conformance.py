"""Everything registered, and every fake, keeps its promises. The fakes prove the contracts before they have tenants."""

import itertools

import pytest
import torch

import vqmm
from tests import fakes
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.registry import Registry
from vqmm.testing import check_decoder, check_modality, check_prior, check_quantizer

FOUND = Registry.discover()
FOUND.add(fakes, "fakes")
assert not FOUND.failed, FOUND.failed  # a plugin that did not load must not slip past the suite

MODALITIES = FOUND.offers["modality"]
# what passes ids through has neither latents nor vectors: tests/quantizers/test_identity.py
QUANTIZERS = {name: each for name, each in FOUND.offers["quantizer"].items() if not each.discrete_input}
DECODERS = {name: each for name, each in FOUND.offers["decoder"].items() if not each.discrete_input}


@pytest.mark.parametrize("name", MODALITIES)
def test_modality(name):
    check_modality(MODALITIES[name])


@pytest.mark.parametrize(("name", "rank"), [*itertools.product(QUANTIZERS, (1, 2, 3))])
def test_quantizer(name, rank):
    check_quantizer(QUANTIZERS[name], rank=rank)


@pytest.mark.parametrize(
    "options",
    [
        {"update": "gradient"},
        {"metric": "cosine"},
        {"metric": "cosine", "update": "gradient"},
        {"project": 3},
        {"project": 3, "metric": "cosine", "update": "gradient"},
        {"start": "random"},
        {"codebook_size": 1},
    ],
    ids=str,
)
def test_options_of_the_vector_quantizer(options):
    quantizer = QUANTIZERS["vector"]
    check_quantizer(quantizer, quantizer.Options(**{"dim": 8, "codebook_size": 11, **options}))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lfq", {"assign": "nearest"}),
        ("lfq", {"assign": "nearest", "degree": 1, "entropy": 0.1}),
        ("lfq", {"assign": "nearest", "degree": 12, "refinement": 0.2}),
        ("bsq", {"assign": "nearest", "radius": 0.5}),
        ("simvq", {"width": 20, "falloff": 0.5}),
        ("simvq", {"width": 3}),
        ("simvq", {"matrix": "hadamard", "width": 20, "falloff": 0.5}),
    ],
    ids=str,
)
def test_options_of_codebooks_that_are_mapped(name, options, rank):
    quantizer = QUANTIZERS[name]
    check_quantizer(quantizer, quantizer.Options(**{"dim": 8, "codebook_size": 16, **options}), rank=rank)


CLASSES = Vocabulary().add("label", [[3]], grids=[[1]])
SERVED = {  # of those that do not serve several modalities
    "pixelcnn": CLASSES.add("picture", [[3], [4, 4]], grids=[[2, 2], [3, 4]]),
    "pixelsnail": CLASSES.add("picture", [[3], [4, 4]], grids=[[2, 2], [3, 4]]),
    "wavenet": CLASSES.add("sound", [[6, 7]], longest=5),
}


@pytest.mark.parametrize("name", FOUND.offers["prior"])
def test_prior(name):
    prior = FOUND.offers["prior"][name]
    check_prior(prior, prior.Options(width=32), SERVED.get(name))


PAIRS = [  # a density is of real values: the flow refuses ids
    pair for pair in itertools.product(DECODERS, MODALITIES) if pair[0] != "flow" or MODALITIES[pair[1]].ids is None
]


SMALL = {"wavenet": {"blocks": 2}}


@pytest.mark.parametrize(("decoder", "modality"), PAIRS)
def test_decoder(decoder, modality):
    made = DECODERS[decoder]
    check_decoder(made, MODALITIES[modality](), made.Options(**SMALL.get(decoder, {})))


@pytest.mark.parametrize(
    ("modality", "quantizer", "decoder", "conditional"),
    [
        # each modality and each quantizer with labels and without, by turns
        *((m, q, "direct", (i + j) % 2 == 0) for i, m in enumerate(MODALITIES) for j, q in enumerate(QUANTIZERS)),
        *((modality, "vector", decoder, True) for decoder, modality in PAIRS if decoder != "direct"),
    ],
)
def test_every_combination_makes_a_tokenizer(modality, quantizer, decoder, conditional, tmp_path):
    """One forward with gradients to all three parts, a step, the way there and back, and a copy through a folder."""
    torch.manual_seed(0)
    made = MODALITIES[modality]()
    config = {"quantizer": {"name": quantizer, "dim": 8}, "decoder": {"name": decoder, **SMALL.get(decoder, {})}}
    tokenizer = vqmm.Tokenizer.build(config, made, FOUND, ["a", "b"], conditional)
    samples = list(made.example(2))
    batch = made.collate([samples[0], samples[1][..., :-1]], ["one", "two"], [0, 1])

    output = tokenizer.train()(batch)
    output.loss.backward()
    for part in ("encoder", "decoder"):
        pulls = [p.grad for p in getattr(tokenizer, part).parameters() if p.grad is not None]
        assert sum(float(pull.abs().sum()) for pull in pulls) > 0, f"no gradient reaches the {part}"
    tokenizer.quantizer.after_step(lambda value: value, 0.0)

    samples, codes = tokenizer.reconstruct(batch)
    assert [list(sample.shape[1:]) for sample in samples] == batch.size.tolist()
    assert (codes is None) == (tokenizer.quantizer.stages == 0)
    tokenizer.save(tmp_path / "tokenizer")
    again = vqmm.Tokenizer.load(tmp_path / "tokenizer", FOUND)
    assert again.fingerprint() == tokenizer.fingerprint()
    others, _ = again.reconstruct(batch)
    assert all(map(torch.equal, samples, others))
    if codes is not None:
        encoded = tokenizer.encode(batch)
        assert all(map(torch.equal, encoded.maps, codes.maps))
        assert all(map(torch.equal, tokenizer.decode(encoded), samples))
