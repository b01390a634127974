"""What a picture becomes on its way into a batch, to a metric and to a file."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm.contracts.decoder import cut
from vqmm.evaluation.evaluate import alike
from vqmm.plugins.image import Image
from vqmm.plugins.image.files import to_bytes
from vqmm.plugins.image.metrics import picture_metrics
from vqmm.testing import check_modality
from vqmm.utils.errors import UserError


def image(**options):
    return Image(Image.Options(width=16, **options))


def numbered(height, width, channels=3):
    """A picture whose every value is another."""
    return torch.arange(channels * height * width).reshape(channels, height, width)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("stride", [4, (2, 8)])
def test_every_promise_of_a_modality(channels, stride):
    torch.manual_seed(0)
    check_modality(image(channels=channels, stride=stride))


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 30}, r"modality\.size: a height of 30 pixels is not a multiple of the stride 4: take 28 or 32$"),
        ({"size": (32, 30), "stride": 8}, r"a width of 30 pixels is not a multiple of the stride 8: take 24 or 32$"),
        ({"size": (32, 36), "stride": (4, 8)}, "a width of 36 pixels .* stride 8: take 32 or 40$"),
        ({"size": 2}, "a height of 2 pixels .* take 4$"),
        ({"size": 0}, "a height of 0 pixels .* take 4$"),
        ({"size": -6}, "a height of -6 pixels .* take 4$"),
    ],
)
def test_a_size_that_does_not_fit_names_those_that_do(options, said):
    with pytest.raises(UserError, match=said):
        image(**options)
    assert image(size=(32, 64), stride=8).size == (32, 64)


# Crops


def test_crops_are_a_function_of_the_generator():
    modality, picture = image(size=(8, 4), flip=True), numbered(20, 30)
    views = [modality.crop(picture, generator(seed)) for seed in range(200)]
    assert all(map(torch.equal, views, [modality.crop(picture, generator(seed)) for seed in range(200)]))
    places = set()
    for view in views:
        assert view.shape == (3, 8, 4)
        mirrored = bool(view[0, 0, 0] > view[0, 0, 1])
        top, left = divmod(int((view.flip(-1) if mirrored else view)[0, 0, 0]), 30)
        whole = picture[:, top : top + 8, left : left + 4]
        assert torch.equal(view, whole.flip(-1) if mirrored else whole)
        places.add((top, left, mirrored))
    assert len(places) > 150 and 70 < sum(mirrored for *_, mirrored in places) / len(places) * 200 < 130
    assert {min(t for t, *_ in places), max(t for t, *_ in places)} == {0, 12}  # every place is possible
    assert {min(left for _, left, _ in places), max(left for _, left, _ in places)} == {0, 26}


def test_moved_pictures_repeat_their_borders():
    modality, picture = image(size=8, flip=False, shift=2), numbered(5, 6, channels=1)
    seen = set()
    for seed in range(200):
        found = modality.augment(picture, generator(seed))
        rows, columns = found[0, :, 0] // 6, found[0, 0] % 6
        down, right = int(rows[2]) - 2, int(columns[2]) - 2
        seen.add((down, right))
        assert rows.tolist() == [min(max(row + down, 0), 4) for row in range(5)]
        assert columns.tolist() == [min(max(column + right, 0), 5) for column in range(6)]
        assert torch.equal(found, modality.augment(picture, generator(seed)))
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    assert torch.equal(modality.crop(picture, None), picture)


def test_affine_maps_reach_as_far_as_the_option_says_and_no_farther():
    modality, side = image(size=64, flip=False, affine=0.1), 64
    ramps = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).float()
    middle, near = side // 2, slice(side // 4, -side // 4)  # where no border is
    reached = []
    for seed in range(200):
        came = modality.augment(ramps, generator(seed))  # where each pixel comes from
        assert torch.equal(came, modality.augment(ramps, generator(seed)))
        slopes = [came[:, near, near].diff(dim=axis).mean(dim=(1, 2)) - torch.eye(2)[axis - 1] for axis in (1, 2)]
        moved = came[:, middle - 1 : middle + 1, middle - 1 : middle + 1].mean(dim=(1, 2)) - (side - 1) / 2
        reached.append(torch.cat([moved / (side / 2), *slopes]))
    all_six = torch.stack(reached)
    assert all_six.abs().max() < 0.105 and (all_six.abs().amax(dim=0) > 0.09).all()
    assert (all_six.mean(dim=0).abs() < 0.02).all()
    assert torch.equal(modality.crop(ramps, None), ramps)


def test_what_comes_in_under_an_affine_map_repeats_the_border():
    modality, picture = image(size=8, flip=False, affine=0.1), torch.full((1, 9, 9), 255, dtype=torch.uint8)
    picture[:, 4, 4] = 0  # too far from the corners to come there
    for seed in range(20):
        assert (modality.augment(picture, generator(seed))[:, ::8, ::8] == 255).all()


def test_affine_maps_keep_type_shape_and_range():
    modality = image(size=8, flip=False, affine=0.3)
    edge = torch.zeros(3, 5, 7, dtype=torch.uint8)
    edge[:, :, 3:] = 200  # a bicubic curve would run beyond both
    for seed in range(20):
        found = modality.augment(edge, generator(seed))
        assert found.dtype == torch.uint8 and found.shape == edge.shape and found.max() <= 200
        assert not torch.equal(found, edge)
        assert torch.equal(found, modality.augment(edge.float(), generator(seed)).round().to(torch.uint8))
    flat = torch.full((1, 4, 4), 7, dtype=torch.uint8)
    assert torch.equal(modality.augment(flat, generator()), flat)
    assert modality.augment(flat.double(), generator()).dtype == torch.float64
    nothing = torch.zeros(3, 0, 4, dtype=torch.uint8)
    assert torch.equal(modality.augment(nothing, generator()), nothing)


def test_pictures_vary_as_their_options_say():
    assert image(flip=True).augments and image(flip=False, shift=1).augments and not image(flip=False).augments
    assert image(flip=False, affine=0.1).augments
    picture = numbered(4, 4)
    found = [image(flip=True).augment(picture, generator(seed)) for seed in range(20)]
    mirrored = sum(torch.equal(each, picture.flip(-1)) for each in found)
    assert 0 < mirrored < 20 and sum(torch.equal(each, picture) for each in found) == 20 - mirrored


def test_without_flip_nothing_is_mirrored():
    modality, picture = image(size=8, flip=False), numbered(9, 9)
    assert all((modality.crop(picture, generator(seed)).diff(dim=-1) == 1).all() for seed in range(50))


def test_evaluation_looks_at_the_centre():
    modality, picture = image(size=(8, 4)), numbered(20, 9)
    assert torch.equal(modality.crop(picture, None), picture[:, 6:14, 2:6])
    assert modality.evaluation().view == "centre crop of at most 8 x 4 pixels"


def test_smaller_pictures_are_kept_whole():
    modality, picture = image(size=16, flip=False), numbered(5, 40)
    assert torch.equal(modality.crop(picture, None), picture[:, :, 12:28])
    assert modality.crop(picture, generator()).shape == (3, 5, 16)


# Batches


def test_collate_pads_to_a_multiple_of_the_stride():
    sizes = [(5, 7), (4, 9), (6, 2)]
    pictures = [torch.randint(1, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    batch = image().collate(pictures, ["a", "b", "c"], [2, 0, 1])
    assert batch.x.shape == (3, 3, 8, 12) and batch.size.tolist() == [list(size) for size in sizes]
    assert batch.label.tolist() == [2, 0, 1] and batch.key == ("a", "b", "c")
    for x, mask, picture, (height, width) in zip(batch.x, batch.mask, pictures, sizes, strict=True):
        assert torch.equal(x[:, :height, :width], picture.float() / 127.5 - 1)
        assert mask[:height, :width].all() and mask.sum() == height * width
        assert (x[:, ~mask] == 0).all()
    fitting = image().collate([torch.zeros(3, 8, 4, dtype=torch.uint8)] * 2, ["a", "b"])
    assert fitting.mask is None and fitting.x.unique().tolist() == [-1] and fitting.label is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=5), st.sampled_from([1, 3, 4]))
def test_a_batch_cut_to_sizes_is_what_went_in(sizes, channels):
    modality = image(channels=channels, stride=(4, 2))
    pictures = [torch.randint(0, 256, (channels, *size), dtype=torch.uint8) for size in sizes]
    batch = modality.collate(pictures, [str(i) for i in range(len(sizes))])
    assert batch.x.shape[2] % 4 == 0 and batch.x.shape[3] % 2 == 0
    assert all(map(torch.equal, map(to_bytes, cut(batch.x, batch.size)), pictures))


# Files


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_as_written_is_what_is_read_back(channels, tmp_path):
    modality = image(channels=channels)
    sample = modality.postprocess(torch.randn(1, channels, 9, 14))[0]
    file = modality.write(sample, tmp_path / "v1.0")
    assert file == tmp_path / "v1.0.png"
    (found,) = modality.samples(file)
    (again,) = modality.collate([found.read()], ["a"]).x
    assert torch.equal(again[:, :9, :14], modality.as_written(sample))
    assert (modality.as_written(sample) - sample).abs().max() <= 1 / 255 + 1e-6


def test_bytes_are_rounded_to_the_nearest():
    assert to_bytes(torch.tensor([-1.0, 1.0, -2.0, 3.0, 1.4 / 127.5 - 1, 1.6 / 127.5 - 1])).tolist() == [
        0,
        255,
        0,
        255,
        1,
        2,
    ]


# Judges


def numpy_ssim(x, y):
    """SSIM of one picture (C, H, W) in [0, 1], by its definition: a weighted window around every pixel."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    longer = [(0, 0), *((0, max(6 - side, 0)) for side in x.shape[1:])]
    x, y = (np.pad(np.pad(p, longer, "edge"), [(0, 0), (5, 5), (5, 5)], "reflect") for p in (x, y))
    scores = []
    for a, b in zip(x, y, strict=True):
        for i, j in np.ndindex(a.shape[0] - 10, a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            scores.append((2 * mp * mq + 1e-4) * (2 * both + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(scores)


def judged(originals, outputs):
    metrics = image().evaluation().metrics()
    for some in alike(outputs, originals):
        for metric in metrics.values():
            metric.update(*some)
    return {name: float(metric.accumulator.compute()) for name, metric in metrics.items()}


def pair(*shape, noise=0.2):
    original = torch.rand(shape) * 2 - 1
    return original, (original + noise * torch.randn(shape)).clamp(-1, 1)


def test_judges_follow_their_formulas():
    torch.manual_seed(0)
    pairs = [pair(3, 16, 13), pair(3, 12, 20, noise=0.01), pair(3, 16, 13, noise=0.5)]  # of different sizes
    found = judged(*map(list, zip(*pairs, strict=True)))
    units = [[(p.double().numpy() + 1) / 2 for p in both] for both in pairs]  # the range [0, 1] that the rules state
    errors = [((x - y) ** 2).mean() for x, y in units]
    everything = np.concatenate([x.ravel() for x, _ in units])
    all_errors = np.concatenate([((x - y) ** 2).ravel() for x, y in units])
    assert found["mse"] == pytest.approx(all_errors.mean(), rel=1e-5)
    assert found["nmse"] == pytest.approx(all_errors.mean() / everything.var(), rel=1e-5)
    assert found["psnr_db"] == pytest.approx(np.mean([10 * np.log10(1 / e) for e in errors]), rel=1e-5)
    assert found["ssim"] == pytest.approx(np.mean([numpy_ssim(x, y) for x, y in units]), rel=1e-4)


@pytest.mark.parametrize("size", [(10, 10), (8, 8), (6, 5), (2, 30), (1, 1)])
def test_ssim_of_pictures_smaller_than_its_window(size):
    torch.manual_seed(0)
    original, output = pair(3, *size)
    expected = numpy_ssim(*((p.double().numpy() + 1) / 2 for p in (original, output)))
    assert judged([original], [output])["ssim"] == pytest.approx(expected, rel=1e-3)


def test_perfect_pictures_have_finite_scores():
    flat, noisy = torch.zeros(3, 12, 12), torch.rand(3, 12, 12)
    found = judged([flat, noisy], [flat.clone(), noisy.clone()])
    assert found == pytest.approx({"mse": 0, "nmse": 0, "psnr_db": 100, "ssim": 1}, abs=1e-6)


def test_rules_state_range_and_window():
    metrics = image().evaluation().metrics()
    assert all("[0, 1]" in metrics[name].rule for name in ("mse", "psnr_db", "ssim"))
    assert "11 pixels" in metrics["ssim"].rule and "100" in metrics["psnr_db"].rule
    assert [name for name, metric in metrics.items() if metric.higher_is_better] == ["psnr_db", "ssim"]


def test_films_are_scored_by_their_frames():
    """`picture_metrics` for a plugin: (n, C, T, H, W) in [-1, 1]."""
    torch.manual_seed(0)
    frames = [pair(3, 16, 13, noise=noise) for noise in (0.1, 0.2, 0.5)]
    metrics = picture_metrics(lambda films: (films.movedim(2, 1).flatten(0, 1) + 1) / 2)
    original, output = (torch.stack(each, dim=1)[None] for each in zip(*frames, strict=True))
    expected = judged(*map(list, zip(*frames, strict=True)))
    for name, metric in metrics.items():
        metric.update(output, original)
        assert float(metric.accumulator.compute()) == pytest.approx(expected[name], rel=1e-5)


# Showing


def test_show_enlarges_small_pictures_and_shrinks_large_ones():
    evaluation = image(channels=1).evaluation()
    white, black = torch.ones(1, 8, 10), -torch.ones(1, 8, 10)
    sheet = evaluation.show([white, black], [black, white])
    assert sheet.size == (2 * 120 + 2, 2 * 96 + 2)  # twelve times larger, two pixels apart
    colours = np.asarray(sheet)
    assert (colours[:96, :120] == 255).all() and (colours[:96, 122:] == 0).all() and (colours[98:, :120] == 0).all()
    assert (colours[96:98] == 255).all()
    assert evaluation.show([torch.zeros(1, 200, 3000)]).size == (1024, 68)


def test_show_takes_different_sizes_transparency_and_nothing():
    assert image().evaluation().show([torch.zeros(3, 100, 120), torch.zeros(3, 150, 96)]).size == (218, 150)
    clear = torch.full((4, 96, 96), -1.0)  # black, and wholly transparent
    assert (np.asarray(image(channels=4).evaluation().show([clear])) == 255).all()
    assert image().evaluation().show([], []).size == (1, 2)


class Restless(Image):
    """Alters a sample with torch's own numbers, whatever generator it is given."""

    def augment(self, sample, generator):
        return sample.roll(int(torch.randint(1, 8, ())), dims=-1)


class Idle(Image):
    """Says that it alters samples, and does not."""

    def augment(self, sample, generator):
        return sample


@pytest.mark.parametrize(
    ("kind", "said"), [(Restless, "two samples for one seed"), (Idle, "augments is True, and augment")]
)
def test_a_modality_that_augments_otherwise_than_it_says_breaks_its_promises(kind, said):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=said):
        check_modality(kind(kind.Options(width=16)))
