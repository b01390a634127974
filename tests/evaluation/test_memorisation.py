"""Memorisation: distances in code space by hand, and what copies, new data and short lines give."""

import numpy as np
import pytest
import torch

from vqmm.evaluation.memorisation import distances, memorisation, memorisation_of
from vqmm.tokens.shards import Header, Row, ShardWriter
from vqmm.utils.errors import UserError


def sample(*codes):
    """One map of one stage."""
    return (torch.tensor([codes]),)


TRAINING = [sample(0, 0, 0, 0), sample(1, 1, 1, 1)]


def test_distances_are_shares_of_places_that_differ():
    made = [sample(0, 0, 0, 1), sample(1, 1, 0, 0)]
    found = memorisation_of(made, TRAINING, [sample(2, 2, 0, 0), sample(1, 1, 2, 2), sample(0, 0, 0, 0)])
    assert found["nearest_training"] == (0.25 + 0.5) / 2
    assert found["nearest_training_held_out"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert found["memorisation_ratio"] == pytest.approx(0.375 / (1 / 3))
    assert found["copies"] == 0 and found["copies_held_out"] == pytest.approx(1 / 3)
    assert found["distinct"] == 1 and found["pairwise"] == 0.75
    assert found["pairwise_held_out"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["counts"] == {"samples": 2, "training": 2, "held_out": 3}
    assert set(found["rules"]) == set(found) - {"rules", "counts"}


def test_who_recites_is_seen():
    found = memorisation_of([*TRAINING, TRAINING[0]], TRAINING, [sample(2, 2, 2, 0)])
    assert (found["nearest_training"], found["memorisation_ratio"], found["copies"]) == (0, 0, 1)
    assert found["distinct"] == 2 / 3 and found["pairwise"] == pytest.approx(2 / 3)
    assert found["pairwise_held_out"] is None


def test_where_held_out_data_are_training_data_there_is_no_ratio():
    assert memorisation_of([sample(2, 2, 2, 2)] * 2, TRAINING, TRAINING)["memorisation_ratio"] is None


def test_lines_of_other_lengths_differ_in_what_is_beyond():
    found = memorisation_of([sample(0, 0), sample(0, 0, 0, 0, 0, 0)], [sample(0, 0, 0, 0)], [sample(0, 1, 0, 0)])
    assert found["nearest_training"] == pytest.approx((0.5 + 1 / 3) / 2)
    assert found["pairwise"] == pytest.approx(4 / 6)


def test_maps_and_stages_count_alike():
    one = (torch.tensor([[[1]], [[2]]]), torch.tensor([[[0, 1], [2, 3]]]))
    other = (np.array([[[1]], [[0]]]), np.array([[[0, 1], [2, 4]]]))
    assert memorisation_of([one, one], [other], [other])["nearest_training"] == pytest.approx(2 / 6)


def test_in_parts_it_is_the_same(monkeypatch):
    torch.manual_seed(0)
    ones, others = torch.randint(3, (7, 5)), torch.randint(3, (11, 5))
    found = distances(ones, others)
    assert torch.allclose(found, (ones[:, None] != others).double().mean(dim=2))
    monkeypatch.setattr("vqmm.evaluation.memorisation.AT_ONCE", 60)
    assert torch.equal(distances(ones, others), found)


def write(folder, splits):
    folder.mkdir()
    header = Header("0" * 16, "image", ((4,),), None, "by hand")
    with ShardWriter(folder, header, 0, lambda row, again: None) as writer:
        for place, split in enumerate(splits):
            maps = (np.full((1, 2, 2), place % 4),)
            writer.add(Row(str(place), None, (4, 4), maps, np.zeros((2, 2, 1), np.float32), split))
    return folder


def test_of_token_shards(tmp_path):
    folder = write(tmp_path / "tokens", ["train", "train", "held-out", "train"])
    made = [(torch.zeros(1, 2, 2).long(),), (torch.tensor([[[2, 2], [0, 0]]]),)]
    found = memorisation(made, folder)
    assert found["counts"] == {"samples": 2, "training": 3, "held_out": 1}
    assert found["nearest_training"] == 0.25 and found["memorisation_ratio"] == 0.25
    with pytest.raises(UserError, match="holds no held-out rows"):
        memorisation(made, write(tmp_path / "all", ["train"]))


@pytest.mark.parametrize(
    "parts", [([sample(0)], TRAINING, TRAINING), (TRAINING, [], TRAINING), (TRAINING, TRAINING, [])]
)
def test_too_little_to_compare(parts):
    with pytest.raises(UserError, match="memorisation takes two samples and one of each other kind"):
        memorisation_of(*parts)
