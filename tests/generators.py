"""A small generator of pictures, sounds and words, untrained, whose distributions are far from uniform."""

from collections.abc import Sequence
from functools import cache

import torch

import vqmm
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.generation.generator import Generator
from vqmm.generation.prompts import LABEL
from vqmm.plugins.priors.transformer import Transformer
from vqmm.registry import Registry

REGISTRY = Registry.discover()
WORDS = ("zero", "one", "two")
LABELS = ("0", "1", "2")

PICTURE = {
    "modality": {"name": "image", "size": 8, "channels": 1, "stride": 2, "width": 8, "blocks": 0},
    "quantizer": {"name": "vector", "dim": 4, "codebook_size": 8},
    "decoder": {"name": "direct"},
}
SOUND = {
    "modality": {"name": "audio", "sample_rate_hz": 8000, "stride": 80, "width": 8, "blocks": 1},
    "quantizer": {"name": "residual", "dim": 4, "codebook_size": 6, "stages": 2},
    "decoder": {"name": "direct"},
}
TEXT = {"modality": {"name": "text"}, "quantizer": {"name": "identity"}, "decoder": {"name": "identity"}}


def tokenizer(config: dict, conditional: bool = False, **changed: dict) -> vqmm.Tokenizer:
    """An untrained one; `changed` are options of its parts."""
    told = {part: {**options, **changed.get(part, {})} for part, options in config.items()}
    found, options = REGISTRY.part("modality", told["modality"])
    modality = found(options)
    if modality.name == "text":
        modality.front().fit(iter(torch.tensor([[*word.encode()]], dtype=torch.uint8) for word in WORDS))
    torch.manual_seed(3)
    return vqmm.Tokenizer.build(told, modality, REGISTRY, LABELS if conditional else (), conditional, None)


def speaking(*tokenizers: vqmm.Tokenizer, label: bool = True, longest: int = 6, context: int = 80) -> Generator:
    """Pictures of 8 x 8, sounds and texts of at most `longest` codes, and class numbers."""
    vocabulary = Vocabulary()
    if label:
        vocabulary = vocabulary.add(LABEL, [[len(LABELS)]], grids=[[1]])
    for each in tokenizers:
        sizes = each.quantizer.sizes
        grids = [(2, 2), (4, 4)][-len(sizes) :]
        shape = {"longest": longest} if each.modality.rank == 1 else {"grids": grids}
        vocabulary = vocabulary.add(each.modality.name, sizes, **shape, fingerprint=each.code_fingerprint())
    torch.manual_seed(5)
    prior = Transformer(vocabulary, context, Transformer.Options(width=16, depth=1, heads=2))
    with torch.no_grad():
        for weight in prior.parameters():
            weight.mul_(4 if weight is not prior.ids.weight else 40)
    return Generator(prior, {each.modality.name: each for each in tokenizers}, LABELS if label else ())


@cache
def everything() -> Generator:
    """One that must not be changed."""
    return speaking(tokenizer(PICTURE), tokenizer(SOUND), tokenizer(TEXT))


def equal(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return len(ones) == len(others) and all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))
