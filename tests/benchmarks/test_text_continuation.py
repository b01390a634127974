"""Bits per character of a prior, in windows: every id counts once."""

import math

import pytest
import torch

import vqmm
from vqmm.benchmarks.text_continuation import bits_per_char, continued, evaluated, longest_run
from vqmm.generation.generator import Generator
from vqmm.generation.sampling import Draw

TEXT = "".join(f"line {i} of a text that goes on\n" for i in range(40))


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """Knows nothing: every id is as likely as any other."""
    folder = tmp_path_factory.mktemp("continuation")
    (folder / "a.txt").write_text(TEXT)
    settings = ["modality.unit=blocks", "modality.block=500", "modality.tail=0.3"]
    vqmm.train("text", folder / "a.txt", folder / "text", "identity", settings=settings, quiet=True)
    vqmm.encode(folder / "text", folder / "a.txt", folder / "tokens")
    small = ["prior.width=8", "prior.depth=1", "prior.heads=1", "cut=windows", "longest=16"]
    with pytest.warns(vqmm.utils.errors.Remark):
        vqmm.train_prior(
            folder / "text", folder / "prior", tokens=folder / "tokens", steps=1, settings=small, quiet=True
        )
    made = Generator.load(folder / "prior")
    with torch.no_grad():
        made.prior.head.weight.zero_()
    return made


@pytest.mark.parametrize("length", [16, 17, 31, 100])
@pytest.mark.parametrize("known", [0, 8, 15])
def test_every_id_counts_once_however_windows_overlap(generator, length, known):
    codes = generator.vocabulary["text"].sizes[0][0]
    assert bits_per_char(generator, [TEXT[:length]], 16, known) == pytest.approx(math.log2(codes), rel=1e-5)


def test_continuations_stand_where_the_text_went_on(generator):
    parts = continued(generator, [TEXT[:64], TEXT[100:150]], 16, 4, Draw())
    assert [part["prompt"] + part["original"] for part in parts][:2] == [TEXT[:16], TEXT[100:116]]
    assert parts[2]["prompt"] == TEXT[16:20] and all(part["drawn"] for part in parts)


def test_diversity_and_copying_are_counted():
    parts = [{"drawn": "to be or to be", "original": "to be or not"}, {"drawn": "to be", "original": "that is all"}]
    told = evaluated(parts, "or not to be: that is")
    assert told["distinct_1"] == 3 / 7 and told["distinct_2"] == 3 / 5
    assert told["distinct_1_original"] == 1 and told["length_ratio"] == 19 / 23
    assert (
        told["copied"] == (len(" to be") + len("to be")) / 2
        and told["copied_original"] == (len("or not") + len("that is")) / 2
    )
    assert longest_run("", "x") == 0 and longest_run("abc", "xabcx") == 3
