"""The autoregressive decoder: it never looks ahead, samples in one pass, and listens to the codes."""

import math

import pytest
import torch

import vqmm
from tests.fakes import Moving, Notes
from vqmm.decoders.wavenet import Condition, WaveNetDecoder, boxes, kept
from vqmm.nn import prime_factors
from vqmm.plugins.image import Image
from vqmm.testing import check_decoder
from vqmm.utils.errors import UserError

DIM = 4


class Wave(vqmm.Modality):
    """Two channels of a line of floats."""

    name = "wave"
    rank = 1
    channels = 2


class Rows(Notes):
    """Two ids at each position."""

    channels = 2


MODALITIES = {
    "image": lambda: Image(Image.Options(size=8, width=8)),
    "wave": lambda: Wave(Wave.Options(width=8, stride=2)),
    "law": lambda: Wave(Wave.Options(width=8, stride=4)),
    "notes": lambda: Notes(),
    "rows": lambda: Rows(),
    "moving": lambda: Moving(Moving.Options(width=8, stride=(1, 2, 2))),
}
SIZES = {1: [(9,), (4,)], 2: [(7, 5), (3, 8)], 3: [(3, 4, 3), (2, 1, 4)]}
EVERY = pytest.mark.parametrize("name", MODALITIES)


def build(name, **options):
    torch.manual_seed(0)
    modality = MODALITIES[name]()
    if name == "law":
        options["likelihood"] = "mu-law"
    decoder = WaveNetDecoder(modality, DIM, WaveNetDecoder.Options(**{"width": 8, "blocks": 3, **options})).eval()
    for parameter in decoder.parameters():
        parameter.data.mul_(1.5)  # far from the start, where most of what a layer says is nearly nothing
    return decoder


def make(decoder, sizes):
    """Random samples of the sizes, as a batch with vectors for it."""
    modality = decoder.modality
    samples = [
        torch.randint(modality.ids, (modality.channels, *size))
        if modality.ids
        else torch.rand(modality.channels, *size) * 2 - 1
        for size in sizes
    ]
    batch = modality.collate(samples, [*map(str, range(len(sizes)))])
    return batch, torch.randn(len(sizes), DIM, *grid_of(batch, modality))


def grid_of(batch, modality):
    return [n // s for n, s in zip(batch.x.shape[2:], modality.strides, strict=True)]


@EVERY
def test_it_keeps_the_promises_of_a_decoder(name):
    check_decoder(WaveNetDecoder, MODALITIES[name]())


@pytest.mark.parametrize("attention", [0, 2, None])
@EVERY
def test_what_is_said_of_a_position_depends_on_those_before_it_alone(name, attention):
    decoder = build(name, attention=attention)
    batch, vectors = make(decoder, SIZES[decoder.modality.rank][:1])
    condition = decoder.condition(vectors)
    levels = decoder.levels(batch.x)
    seen = decoder.distribution.embed(levels)
    seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1).detach().requires_grad_()
    said = decoder.network(seen, condition).flatten(2)
    count = said.shape[2]
    for position in {0, 1, count // 2, count - 1}:
        (pull,) = torch.autograd.grad(said[..., position].square().sum(), seen, retain_graph=True)
        reach = pull.flatten(2).abs().sum(dim=(0, 1))
        assert (reach[position:] == 0).all(), "it sees the present or what comes after"
        assert position == 0 or (reach[:position] > 0).any()
    # and so for the likelihood, whose channels see those before them
    position = count // 2
    other = levels.flatten(2).clone()
    other[:, -1, position] = (other[:, -1, position] + 1) % 2
    both = [
        decoder.distribution.bits(decoder.features(each, condition), each).flatten()
        for each in (levels, other.view_as(levels))
    ]
    assert torch.equal(both[0][:position], both[1][:position])
    assert (both[0][position:] != both[1][position:]).sum() > 1


@pytest.mark.parametrize("attention", [0, 2])
@EVERY
def test_sampling_in_one_pass_is_sampling_with_everything_computed_again(name, attention):
    decoder = build(name, attention=attention)
    batch, vectors = make(decoder, SIZES[decoder.modality.rank])
    found = decoder.sample(vectors, batch.size, 5, grid_mask(batch, vectors))
    extent = batch.x.shape[2:]
    with torch.no_grad():
        condition = decoder.condition(vectors, grid_mask(batch, vectors))
        noise = decoder._noise(boxes(batch.size, extent), 5)
        levels = torch.zeros_like(batch.x, dtype=torch.long).flatten(2)
        for position in range(levels.shape[2]):
            features = decoder.features(levels.unflatten(2, extent), condition, batch.mask).flatten(2)
            levels[:, :, position] = decoder.distribution.draw(features[..., position], noise[:, position], 1.0)
    expected = decoder.finish(levels.unflatten(2, extent), batch.size)
    assert [tuple(one.shape[1:]) for one in found] == SIZES[decoder.modality.rank]
    assert all(map(torch.equal, found, expected))


def grid_mask(batch, vectors):
    return None if batch.mask is None else vqmm.nn.masks.pool_mask(batch.mask, vectors.shape[2:])


@EVERY
def test_a_sample_is_the_same_alone_and_beside_another(name):
    """Its bits, and what is drawn for it; whatever lies in the padding."""
    decoder = build(name)
    sizes = SIZES[decoder.modality.rank]
    batch, vectors = make(decoder, sizes)
    if batch.x.is_floating_point():
        batch.x[~batch.mask.unsqueeze(1).expand_as(batch.x)] = float("nan")
    else:
        batch.x[~batch.mask.unsqueeze(1).expand_as(batch.x)] = -7
    vectors.requires_grad_()
    loss, output = decoder.loss(vectors, batch)
    assert output is None
    (pull,) = torch.autograd.grad(loss, vectors)
    assert pull.isfinite().all() and pull.abs().sum() > 0
    together = decoder.sample(vectors, batch.size, 3, grid_mask(batch, vectors))
    total = 0.0
    for i, size in enumerate(sizes):
        box = (slice(None), *(slice(0, n) for n in size))
        own = decoder.modality.collate([batch.x[i][box]], ["own"])
        grid = (slice(i, i + 1), slice(None), *(slice(0, n) for n in grid_of(own, decoder.modality)))
        alone, _ = decoder.loss(vectors[grid], own)
        total += float(alone.detach()) * math.prod(size)
        (sample,) = decoder.sample(vectors[grid], own.size, 3, grid_mask(own, vectors[grid]))
        assert torch.equal(sample, together[i])
    assert float(loss.detach()) == pytest.approx(total / sum(map(math.prod, sizes)), abs=1e-4)


@EVERY
def test_an_empty_batch_and_a_batch_of_one(name):
    decoder = build(name).train()
    for count in (0, 1):
        x = decoder.modality.example(count)
        batch = vqmm.Batch(x, tuple("a" * count))
        vectors = torch.randn(count, DIM, *grid_of(batch, decoder.modality), requires_grad=True)
        loss, _ = decoder.loss(vectors, batch)
        loss.backward()
        assert loss.isfinite()
        assert len(decoder.sample(vectors, batch.size, 0)) == count


def test_the_loss_is_bits_per_dimension():
    """A model that knows nothing needs all bits of a level for each of a sample's values."""
    for name, levels in (("notes", 12), ("rows", 12), ("law", 256)):
        decoder = build(name)
        for head in decoder.distribution.heads:
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
        batch, vectors = make(decoder, SIZES[1])
        assert float(decoder.loss(vectors, batch)[0].detach()) == pytest.approx(math.log2(levels), abs=1e-5)


def test_the_loss_is_of_the_goal():
    decoder = build("image")
    batch, vectors = make(decoder, [(8, 8)])
    clean = torch.rand_like(batch.x)
    repaired = vqmm.Batch(batch.x, batch.key, target=clean)
    assert torch.equal(decoder.loss(vectors, repaired)[0], decoder.loss(vectors, vqmm.Batch(clean, batch.key))[0])


def test_seed_and_temperature():
    decoder, cold = build("image"), build("image", temperature=0)
    batch, vectors = make(decoder, [(8, 8), (8, 8)])
    vectors[1] = vectors[0]
    one, two, other = (decoder.sample(vectors, batch.size, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, two)), "one seed gives two answers"
    assert torch.equal(one[0], one[1]), "the place in the batch makes a difference"
    assert not torch.equal(one[0], other[0])
    assert torch.equal(cold.sample(vectors, batch.size, 1)[0], cold.sample(vectors, batch.size, 2)[0])


def test_a_share_of_the_past_is_hidden_in_training():
    torch.manual_seed(0)
    there = kept(torch.zeros(2_000, 3, 4, 5), 0.3)
    assert there.shape == (2_000, 1, 4, 5)
    assert 1 - there.mean().item() == pytest.approx(0.3, abs=0.03)
    assert (there.flatten(1).sum(dim=1) == 0).float().mean().item() == pytest.approx(0.15, abs=0.03)
    assert kept(torch.zeros(9, 1, 4), 0).all() and not kept(torch.zeros(9, 1, 4), 1).any()
    decoder = build("image", forget=0.5)
    batch, vectors = make(decoder, [(8, 8)])
    assert decoder.loss(vectors, batch)[0] == decoder.loss(vectors, batch)[0]
    decoder.train()
    assert decoder.loss(vectors, batch)[0] != decoder.loss(vectors, batch)[0]


def test_codes_that_say_something_are_listened_to():
    """Pictures whose brightness only the vectors tell before the first pixel; then with the vectors exchanged."""
    torch.manual_seed(0)
    modality = Image(Image.Options(size=8, channels=1, width=8))
    decoder = WaveNetDecoder(modality, DIM, WaveNetDecoder.Options(width=16, blocks=2, attention=0)).train()
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)

    def draw(count):
        light = torch.rand(count, 1, 2, 2) * 1.6 - 0.8
        x = light.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3) + 0.2 * torch.randn(count, 1, 8, 8)
        return vqmm.Batch(x.clamp(-1, 1), ("",) * count), light.expand(-1, DIM, -1, -1)

    for _ in range(120):
        batch, vectors = draw(16)
        optimizer.zero_grad()
        decoder.loss(vectors, batch)[0].backward()
        optimizer.step()
    decoder.eval()
    batch, vectors = draw(64)
    with torch.no_grad():
        right, wrong = (float(decoder.loss(each, batch)[0]) for each in (vectors, vectors.roll(1, dims=0)))
    assert wrong - right > 0.3, f"{right:.2f} bits per dimension, {wrong:.2f} with the vectors of another"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("image", dict(kernel=4), "decoder.kernel: 4 is even: image has 2 axes"),
        ("image", dict(likelihood="mu-law"), "mu-law is for waveforms, and image has 2 axes"),
        ("notes", dict(likelihood="mu-law"), "mu-law is for waveforms, and notes has 12 ids"),
    ],
)
def test_options_that_do_not_fit_the_modality_get_one_line(name, options, said):
    with pytest.raises(UserError, match=said) as caught:
        WaveNetDecoder(MODALITIES[name](), DIM, WaveNetDecoder.Options(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [dict(width=1), dict(forget=2), dict(temperature=-1), dict(mixtures=0), dict(attention=-1), dict(blocks=0)]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WaveNetDecoder.Options(**wrong)


def test_what_a_plugin_may_get_wrong():
    decoder = build("wave")
    batch = vqmm.Batch(torch.zeros(1, 2, 8, dtype=torch.int64), ("a",))
    with pytest.raises(ValueError, match="set its attribute `ids`"):
        decoder.loss(torch.randn(1, DIM, 4), batch)
    with pytest.raises(ValueError, match="the extent divided by the strides"):
        decoder.loss(torch.randn(1, DIM, 4), vqmm.Batch(torch.zeros(1, 2, 10), ("a",)))


def test_vectors_reach_every_extent_that_strides_can_tell():
    assert prime_factors(1) == [] and prime_factors(320) == [2] * 6 + [5]
    assert Condition(2, 3, 8, (6, 1))(torch.randn(2, 3, 2, 5)).shape == (2, 8, 12, 5)
    assert Condition(1, 3, 8, (15,))(torch.randn(2, 3, 4)).shape == (2, 8, 60)
