"""Everything registered, and every fake, keeps its promises. The fakes prove the contracts before they have tenants."""

import itertools
from inspect import get_annotations

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


def test_options_are_typed():
    """`options` of each built-in part is annotated with the part's own `Options`, not with those of its base."""
    parts = [
        part for kind, offers in Registry.discover().offers.items() if kind != "recipe" for part in offers.values()
    ]
    for part in parts:
        said = [annotations["options"] for base in part.__mro__ if "options" in (annotations := get_annotations(base))]
        assert said[0] is part.Options, part


@pytest.mark.parametrize("name", MODALITIES)
def test_modality(name):
    check_modality(MODALITIES[name])


class Pattern(vqmm.Modality):
    """One number a line, with everything that a modality may be besides."""

    name, rank, channels = "pattern", 1, 1

    def samples(self, path):
        return vqmm.file_samples(path, (".txt",), self.read)

    def read(self, file):
        return torch.tensor([[float(line) for line in file.read_text().split()]])

    def write(self, sample, path):
        file = path.with_name(path.name + ".txt")
        file.write_text("\n".join(map(str, sample[0].tolist())))
        return file


class Forgetful(vqmm.Front):
    """Learns a number, and saves nothing."""

    def __init__(self):
        self.learnt = torch.rand(())

    def fit(self, samples):
        self.learnt = next(samples).mean()

    def save(self, folder):
        pass

    def load(self, folder):
        pass

    def state_bytes(self):
        return str(float(self.learnt)).encode()


class FrontThatForgets(Pattern):
    def __init__(self, options=None):
        super().__init__(options)
        self._front = Forgetful()

    def front(self):
        return self._front


class NewFronts(Pattern):
    def front(self):
        return Forgetful()


class Unmeasured(vqmm.Evaluation):
    def size_in_units(self, sample):
        return 0.0


class NoSize(Pattern):
    def evaluation(self):
        return Unmeasured()


class NoEvaluation(Pattern):
    def evaluation(self):
        return {}


class Unshaped(vqmm.Strings, Pattern):
    def ids_of(self, text):
        return torch.zeros(len(text))


class Elsewhere(vqmm.ManyPerFile, Pattern):
    def file_of(self, key):
        return "elsewhere"

    def join(self, samples):
        return torch.cat([*samples], dim=1)


class Unjoined(Elsewhere):
    def join(self, samples):
        return torch.stack([*samples])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (FrontThatForgets, "the front that was loaded is another"),
        (NewFronts, "gave two objects for one modality"),
        (NoSize, "size_in_units gave 0.0 samples"),
        (NoEvaluation, "evaluation\\(\\) gave {}"),
        (Unshaped, "ids_of gave \\(5,\\), which is no sample"),
        (Elsewhere, "file_of\\('one.txt'\\) gave 'elsewhere', not 'one.txt'"),
        (Unjoined, r"join gave \(2, 1, \d+\), which is no sample"),
    ],
)
def test_an_object_of_a_modality_that_breaks_its_promises_is_named(kind, said):
    check_modality(Pattern)
    with pytest.raises(AssertionError, match=said):
        check_modality(kind)


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
