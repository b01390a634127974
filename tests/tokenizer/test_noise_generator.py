"""NoiseGenerator: new samples from noise, the folder it lives in, and that no other class takes it for its own."""

import json

import pytest
import torch

import vqmm
from tests.tokenizer.test_tokenizer import REGISTRY, make
from vqmm.tokenizer.loading import load_model


def generator(quantizer: str = "gaussian") -> vqmm.NoiseGenerator:
    modality, options = REGISTRY.part("modality", {"name": "image", "width": 8, "blocks": 1, "size": 16, "channels": 1})
    torch.manual_seed(0)
    config = {"quantizer": {"name": quantizer, "dim": 8}, "decoder": {"name": "direct", "bounded": True}}
    return vqmm.NoiseGenerator.build(config, modality(options), REGISTRY, ["a", "b"], True, [16, 16])


@pytest.fixture
def batch():
    x = torch.rand(3, 1, 16, 16) * 2 - 1
    return vqmm.Batch(x, ["a/0", "b/1", "a/2"], label=torch.tensor([0, 1, 0]))


def test_the_folder_says_its_class_and_gives_it_back(tmp_path):
    made = generator()
    made.save(tmp_path / "t")
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    assert config["class"] == "NoiseGenerator" and "code_fingerprint" not in config
    again = load_model(tmp_path / "t", REGISTRY)
    assert type(again) is vqmm.NoiseGenerator and again.fingerprint() == made.fingerprint()
    assert all(map(torch.equal, again.sample(2, label=1, seed=3), made.sample(2, label=1, seed=3)))


@pytest.mark.parametrize(
    ("made", "other", "said"),
    [
        (generator, vqmm.Tokenizer, r"t holds a generator from noise .* vqmm eval, vqmm report, vqmm train --resume"),
        (make, vqmm.NoiseGenerator, r"t holds a tokenizer: vqmm.Tokenizer.load reads it"),
    ],
)
def test_another_class_is_refused_in_one_line(made, other, said, tmp_path):
    made().save(tmp_path / "t")
    with pytest.raises(vqmm.UserError, match=said) as refused:
        other.load(tmp_path / "t", REGISTRY)
    assert "\n" not in str(refused.value)


def test_what_stands_beside_a_sample_is_made_from_its_key(batch):
    """And from no pixel of it, whatever batch it comes in."""
    made = generator().eval()
    outputs, codes = made.evaluation_outputs(batch)
    assert codes is None and [output.shape for output in outputs] == [sample.shape for sample in batch.x]
    later = vqmm.Batch(-batch.x[1:], batch.key[1:], label=batch.label[1:])
    for output, again in zip(outputs[1:], made.evaluation_outputs(later)[0], strict=True):
        torch.testing.assert_close(output, again)
    assert not torch.equal(outputs[0], outputs[2]), "of one label, with noise of their own"


def test_it_answers_what_training_and_evaluation_ask(batch):
    """The answers of a tokenizer are the other ones."""
    made, tokenizer = generator().eval(), make().eval()
    metrics = made.modality.evaluation().metrics()
    assert made.reference_metrics(metrics) == {} and tokenizer.reference_metrics(metrics) == metrics
    assert made.coder is None and tokenizer.coder is not None
    assert made.shuffled_losses(batch) is None and len(tokenizer.shuffled_losses(batch)) == 2
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.start_from_data(iter([batch]))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    tokenizer.check_critic(None)
    with pytest.raises(vqmm.UserError, match="learns from an adversary alone, and there is none"):
        made.check_critic(None)


def test_it_takes_a_quantizer_that_has_a_prior():
    with pytest.raises(vqmm.UserError, match="'vector' has none: take gaussian"):
        generator("vector")
