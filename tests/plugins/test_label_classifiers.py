"""Label classifiers of pictures and sounds: they learn, repeat themselves, and take samples of any extent."""

import math
import warnings

import pytest
import torch

from vqmm.evaluation.classifier import PlaneClassifier
from vqmm.plugins.audio import Audio
from vqmm.plugins.audio.label_classifier import SoundLabelClassifier
from vqmm.plugins.image import Image
from vqmm.plugins.image.label_classifier import PictureLabelClassifier
from vqmm.utils.errors import UserError

RATE = 8000


def pictures(count, seed=0, channels=1, side=12):
    """Noise with a bright bar, lying or standing: labels 3 and 5."""
    generator = torch.Generator().manual_seed(seed)
    found, labels = [], []
    for place in range(count):
        picture = torch.rand(channels, side, side, generator=generator) - 1
        at = int(torch.randint(2, side - 2, (), generator=generator))
        line = picture[:, at] if place % 2 else picture[:, :, at]
        line += 1.2
        found.append(picture.clamp(-1, 1))
        labels.append(3 if place % 2 else 5)
    return found, labels


def sounds(count, seed=0, seconds=0.3):
    """Tones that rise or fall, of any level and length: labels 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for place in range(count):
        length, level = (float(torch.rand((), generator=generator)) for _ in range(2))
        t = torch.arange(round(RATE * seconds * (0.7 + length))) / RATE
        slope = (1500 if place % 2 else -1500) / float(t[-1])
        start = 500 if place % 2 else 2000
        wave = torch.sin(2 * math.pi * (start * t + slope * t * t / 2))
        found.append((wave + 0.01 * torch.randn(t.shape, generator=generator))[None] * (0.02 + 0.9 * level))
    return found, [place % 2 for place in range(count)]


def accuracy(classifier, samples, labels):
    return sum(one == other for one, other in zip(classifier.predict(samples), labels, strict=True)) / len(labels)


def test_bars_are_told_apart_and_the_rule_names_the_size():
    classifier = PictureLabelClassifier(steps=60)
    classifier.fit(*pictures(120))
    assert accuracy(classifier, *pictures(40, seed=1)) >= 0.95
    assert "brought to 16 x 16 pixels" in classifier.rule and set(classifier.predict(pictures(9)[0])) <= {3, 5}


def test_pictures_of_any_size_and_of_colours():
    classifier = PictureLabelClassifier(steps=60)
    classifier.fit(*pictures(120, channels=3, side=20))
    made, labels = pictures(20, seed=2, channels=3, side=20)
    larger = [picture.repeat_interleave(2, dim=1).repeat_interleave(3, dim=2) for picture in made]
    assert accuracy(classifier, larger, labels) >= 0.9 and "20 x 20" in classifier.rule
    odd = [torch.zeros(3, 1, 1), torch.zeros(3, 5, 90), torch.zeros(3, 0, 4), torch.full((3, 8, 8), math.nan)]
    assert len(classifier.predict(odd)) == 4 and classifier.predict([]) == []
    large = PictureLabelClassifier(steps=1)
    large.fit(*pictures(4, side=100))
    assert "48 x 48" in large.rule


def test_rising_and_falling_tones_are_told_apart_whatever_their_level_length_and_silence():
    classifier = SoundLabelClassifier(RATE, steps=60)
    classifier.fit(*sounds(80))
    heard, labels = sounds(30, seed=1)
    assert accuracy(classifier, heard, labels) >= 0.95
    silence = torch.zeros(1, RATE // 4)
    assert accuracy(classifier, [torch.cat([silence, sound, silence], dim=1) for sound in heard], labels) >= 0.95
    assert accuracy(classifier, [sound / 50 for sound in heard], labels) >= 0.95
    assert accuracy(classifier, [sound.repeat(2, 1) for sound in heard], labels) >= 0.95, "two channels"
    assert accuracy(classifier, sounds(20, seed=2, seconds=0.8)[0], sounds(20)[1]) >= 0.9


def test_level_and_silence_around_a_sound_are_left_out():
    classifier = SoundLabelClassifier(RATE)
    (sound,), _ = sounds(1)
    seen = classifier._plane(sound[0])
    torch.testing.assert_close(classifier._plane(sound[0] / 50), seen, atol=1e-3, rtol=0)
    assert seen.min() >= 0 and seen.max() > 0.9
    short, long = (torch.zeros(hops * classifier._hop) for hops in (5, 100))
    within = [classifier._plane(torch.cat([silence, sound[0], silence])) for silence in (short, long)]
    torch.testing.assert_close(*within, atol=1e-4, rtol=0)


def test_sounds_that_are_hardly_any():
    classifier = SoundLabelClassifier(RATE, steps=2)
    classifier.fit(*sounds(6))
    odd = [torch.zeros(1, 0), torch.zeros(1, 500), torch.ones(1, 1), torch.full((1, 400), math.nan)]
    assert len(classifier.predict(odd)) == 4 and classifier.predict([]) == []


@pytest.mark.parametrize("rate", [1000, 8000, 44_100, 192_000])
def test_every_sample_rate_has_its_bands(rate):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = SoundLabelClassifier(rate, steps=1)
    classifier.fit([torch.randn(1, rate // 10), torch.zeros(1, rate)], [0, 1])


def test_the_same_samples_give_the_same_judge_and_leave_random_numbers_alone():
    made, labels = pictures(40)
    weights = []
    for salt in (1, 2):
        torch.manual_seed(salt)
        before = torch.random.get_rng_state()
        classifier = PictureLabelClassifier(steps=10)
        with torch.no_grad():
            classifier.fit(made, labels)
        assert torch.equal(torch.random.get_rng_state(), before)
        weights.append(torch.cat([weight.flatten() for weight in classifier._classifier._network.parameters()]))
    assert torch.equal(*weights)


def test_a_plane_is_named_alone_as_among_others():
    made, labels = pictures(40)
    classifier = PictureLabelClassifier(steps=20)
    classifier.fit(made, labels)
    assert [classifier.predict([picture])[0] for picture in made] == classifier.predict(made)


@pytest.mark.parametrize("classifier", [PictureLabelClassifier(), SoundLabelClassifier(RATE), PlaneClassifier()])
def test_one_label_or_none_is_refused(classifier):
    sample = torch.zeros(1, 1, 8, 8) if isinstance(classifier, PlaneClassifier) else torch.zeros(1, 8, 8)
    sample = torch.zeros(1, 400) if isinstance(classifier, SoundLabelClassifier) else sample
    for samples, labels in (([sample, sample], [1, 1]), ([], [])):
        with pytest.raises(UserError, match="a classifier needs two labels or more"):
            classifier.fit(
                torch.cat(samples) if isinstance(classifier, PlaneClassifier) and samples else samples, labels
            )


def test_pictures_of_two_kinds_of_channels():
    with pytest.raises(UserError, match="pictures of 1, 3 channels: must all have as many"):
        PictureLabelClassifier().fit([torch.zeros(1, 8, 8), torch.zeros(3, 8, 8)], [0, 1])


def test_modalities_bring_them():
    assert isinstance(Image().evaluation().label_classifier(), PictureLabelClassifier)
    assert isinstance(Audio().evaluation().label_classifier(), SoundLabelClassifier)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_run_channels_last_on_gray_planes_too(channels):
    """Twice as fast on a CPU; a plane of one channel is of either format, and the weights decide."""
    classifier = PlaneClassifier(steps=1)
    classifier.fit(torch.rand(8, channels, 8, 12), [0, 1] * 4)
    found = classifier._network[0](classifier._scaled(torch.rand(2, channels, 8, 12)))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_noise_in_training_lets_a_classifier_see_past_roughness():
    """Bars that lie, stand or slant, learnt clean and named rough."""
    random = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    phase = torch.randint(8, (240,), generator=random)[:, None, None]
    labels = [i % 3 for i in range(240)]
    along = torch.stack([row, column, row + column])[labels]
    clean = ((along + phase) % 8 < 3).float()[:, None]
    rough = clean[120:] + 0.5 * torch.randn(120, 1, 16, 16, generator=random)

    def right(noise):
        classifier = PlaneClassifier(steps=150, noise=noise)
        classifier.fit(clean[:120], labels[:120])
        assert classifier.predict(clean[120:]) == labels[120:]
        return sum(a == b for a, b in zip(classifier.predict(rough), labels[120:], strict=True)) / 120

    assert right(0.8) > right(0.0) + 0.3
