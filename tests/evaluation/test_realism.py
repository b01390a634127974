"""What sees realism: features of a classifier of the data at hand, distances of sets."""

import pytest
import torch

import vqmm
from vqmm.data.source import Source
from vqmm.evaluation.realism import features_of, inception_distances, realism
from vqmm.plugins.image.evaluation import ImageEvaluation
from vqmm.plugins.image.label_classifier import PictureFeatures
from vqmm.tokenizer.loading import load_model

TINY = ["modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=8", "modality.blocks=1"]
TINY += ["train.batch_size=32", "train.evaluate_samples=16"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("realism")
    for name, recipe, steps in (("ae", "ae", 40), ("poor", "ae", 1), ("gan", "gan", 1)):
        vqmm.train("image", "builtin:digits", folder / name, recipe, steps=steps, settings=TINY, quiet=True)
    made = {name: load_model(folder / name) for name in ("ae", "poor", "gan")}
    source = Source(made["ae"].modality, "builtin:digits")
    with pytest.MonkeyPatch.context() as patch:  # digits of 8 x 8 pixels are soon learnt
        patch.setattr(ImageEvaluation, "features", lambda self: PictureFeatures(steps=60))
        return made, source, features_of(made["ae"], source)


def test_a_better_tokenizer_is_nearer(trained):
    made, source, features = trained
    good, poor, gan = (realism(made[name], source, features=features, count=120) for name in ("ae", "poor", "gan"))
    assert good["metrics"]["frechet_distance"] < 0.8 * poor["metrics"]["frechet_distance"]
    assert all(0 <= good["metrics"][name] <= 1 for name in ("precision", "recall"))
    assert gan["metrics"]["recall"] < 0.5 and "new samples" in gan["rules"]["frechet_distance"]
    rule = good["rules"]["frechet_distance"]
    assert "120 held-out originals and reconstructions" in rule and "of the held-out originals rightly" in rule


def test_the_classifier_states_how_good_it_is(trained):
    _, _, features = trained
    assert 0.7 < features.accuracy <= 1 and "at 16 x 16 pixels" in features.rule
    assert features.features([torch.zeros(1, 8, 8), torch.rand(1, 9, 20)]).shape == (2, 128)


def test_the_same_seed_gives_the_same_features_and_leaves_torchs_state_alone():
    torch.manual_seed(3)
    samples, labels = list(torch.rand(64, 1, 8, 8) * 2 - 1), [0, 1] * 32
    state, found = torch.get_rng_state(), []
    for _ in range(2):
        features = PictureFeatures(steps=5)
        features.fit(samples, labels)
        found.append(features.features(samples))
    assert torch.equal(*found) and torch.equal(state, torch.get_rng_state())


def test_a_modality_may_bring_its_own_features(trained, monkeypatch):
    made, source, _ = trained

    class Means:
        rule = "features: the mean"

        def features(self, samples):
            return torch.stack([sample.mean().reshape(1) for sample in samples])

    monkeypatch.setattr(ImageEvaluation, "features", lambda self: Means())
    assert realism(made["ae"], source, count=20)["rules"]["frechet_distance"].endswith("features: the mean")


def test_what_cannot_be_compared_is_refused(trained, tmp_path, monkeypatch):
    made, source, features = trained
    with pytest.raises(vqmm.UserError, match="takes 10"):
        realism(made["ae"], source, features=features, count=4)
    plain = vqmm.Registry.discover().modality("image")(made["ae"].modality.options)
    for i in range(3):
        plain.write(torch.rand(1, 8, 8), tmp_path / str(i))
    with pytest.raises(vqmm.UserError, match="has 0 labels"):
        realism(made["ae"], Source(plain, tmp_path))
    monkeypatch.setattr(ImageEvaluation, "features", lambda self: None)
    with pytest.raises(vqmm.UserError, match="offers no features"):
        features_of(made["ae"], source)


def test_inception_needs_a_file_and_its_package(tmp_path, monkeypatch):
    with pytest.raises(vqmm.UserError, match="no Inception weights at"):
        inception_distances([], [], tmp_path / "none.pth")
    (tmp_path / "weights.pth").touch()

    class Missing:
        def __init__(self, **told):
            raise ModuleNotFoundError("torch-fidelity")

    import torchmetrics.image.fid
    import torchmetrics.image.kid

    monkeypatch.setattr(torchmetrics.image.fid, "FrechetInceptionDistance", Missing)
    with pytest.raises(vqmm.UserError, match="pip install torch-fidelity"):
        inception_distances([], [], tmp_path / "weights.pth")
    seen = []

    class Distance:
        def __init__(self, **told):
            assert told["feature_extractor_weights_path"] == str(tmp_path / "weights.pth")

        def update(self, picture, real):
            seen.append((tuple(picture.shape), real, float(picture.max())))

        def compute(self):
            return torch.tensor([4.0, 0.1])

    monkeypatch.setattr(
        torchmetrics.image.fid, "FrechetInceptionDistance", type("F", (Distance,), {"compute": lambda s: 7.0})
    )
    monkeypatch.setattr(torchmetrics.image.kid, "KernelInceptionDistance", Distance)
    found = inception_distances([torch.ones(1, 4, 4)], [torch.zeros(4, 4, 4)], tmp_path / "weights.pth")
    assert found == {"fid": 7.0, "kid": 4.0}
    assert seen == [((1, 3, 4, 4), True, 1.0)] * 2 + [((1, 3, 4, 4), False, 0.5)] * 2
