"""Ids that pass through: the quantizer, its decoder, and a tokenizer without a weight."""

import pytest
import torch

import vqmm
from tests import fakes
from vqmm.quantizers.identity import IdentityQuantizer
from vqmm.utils.errors import UserError

REGISTRY = vqmm.Registry.discover()
REGISTRY.add(fakes, "fakes")


def built(modality: str, quantizer: str = "identity", decoder: str = "identity", conditional: bool = False):
    kind, options = REGISTRY.part("modality", {"name": modality})
    config = {"quantizer": {"name": quantizer}, "decoder": {"name": decoder}}
    return vqmm.Tokenizer.build(config, kind(options), REGISTRY, ["a"] if conditional else (), conditional)


def test_samples_are_their_own_codes_and_come_back():
    tokenizer = built("notes")
    assert tokenizer.quantizer.sizes == ((12,),) and tokenizer.quantizer.stages == 1
    batch = tokenizer.modality.collate([torch.tensor([[3, 0, 11]]), torch.tensor([[5, 7, 9, 1, 2]])], ["a", "b"])
    codes = tokenizer.encode(batch)
    assert torch.equal(codes.maps[0], batch.x) and codes.size.tolist() == [[3], [5]]
    assert [each.tolist() for each in tokenizer.decode(codes)] == [[[3, 0, 11]], [[5, 7, 9, 1, 2]]]
    again, _ = tokenizer.reconstruct(batch)
    assert [each.tolist() for each in again] == [[[3, 0, 11]], [[5, 7, 9, 1, 2]]]


def test_the_loss_is_the_share_of_wrong_ids_where_there_is_signal():
    tokenizer = built("notes")
    batch = tokenizer.modality.collate([torch.tensor([[3, 1]]), torch.tensor([[5, 7, 9, 1]])], ["a", "b"])
    assert float(tokenizer(batch).loss) == 0
    wrong = batch.x.clone()
    wrong[0, 0, 0] += 1  # signal
    wrong[0, 0, 3] += 1  # padding
    assert float(tokenizer.decoder.loss(wrong, batch)[0]) == pytest.approx(1 / 6)


def test_a_tokenizer_without_weights_is_saved_loaded_and_on_the_cpu(tmp_path):
    tokenizer = built("notes")
    assert tokenizer.device.type == "cpu"
    tokenizer.save(tmp_path / "t")
    again = vqmm.Tokenizer.load(tmp_path / "t", REGISTRY)
    assert again.fingerprint() == tokenizer.fingerprint() and again.quantizer.sizes == ((12,),)


def test_before_it_has_met_a_modality_it_has_no_codes():
    assert IdentityQuantizer().sizes == ()


@pytest.mark.parametrize(
    ("modality", "parts", "said"),
    [
        ("moving", {}, "samples of 'moving' are none: take a quantizer that makes codes of latents, such as vector"),
        ("notes", {"decoder": "direct"}, "decoder.name: 'direct' does not fit the quantizer 'identity'"),
        ("notes", {"quantizer": "vector"}, "decoder.name: 'identity' does not fit the quantizer 'vector'"),
        ("notes", {"conditional": True}, "condition: the decoder 'identity' gives ids back as they are"),
    ],
)
def test_what_it_does_not_go_with_gets_one_line(modality, parts, said):
    with pytest.raises(UserError, match=said) as caught:
        built(modality, **parts)
    assert "\n" not in str(caught.value)


def test_a_hierarchy_over_it_is_refused():
    with pytest.raises(UserError, match="'identity' has no codes; take one that has, such as vector"):
        built_hierarchy()


def built_hierarchy():
    kind, options = REGISTRY.part("quantizer", {"name": "hierarchical", "inner": {"name": "identity"}})
    return kind.build(options, 1, REGISTRY)
