"""The flow decoder: exact likelihoods, the way back, padding, seeds."""

import math

import pytest
import torch

import vqmm
from tests.fakes import Moving, Notes
from vqmm.decoders.flow import FlowDecoder
from vqmm.plugins.image import Image
from vqmm.registry import Registry
from vqmm.testing import check_decoder
from vqmm.utils.errors import UserError

DIM = 4
GRID = (3, 2, 2)


class Toy(vqmm.Modality):
    """Real values of any rank, two channels unless told otherwise."""

    name = "toy"
    rank = 1
    channels = 2


def toy(rank, stride=2, channels=2, **attributes):
    kind = type("Toy", (Toy,), {"rank": rank, "channels": channels, **attributes})
    return kind(kind.Options(stride=stride))


def make(modality, stir=0.05, **options):
    torch.manual_seed(0)
    decoder = FlowDecoder(modality, DIM, FlowDecoder.Options(**{"width": 8, "depth": 2, **options}))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += stir * torch.randn_like(parameter)
    return decoder.eval()


def draw(modality, count=2):
    """x, vectors and sizes without padding."""
    grid = GRID[: modality.rank]
    extent = [n * s for n, s in zip(grid, modality.strides, strict=True)]
    x = torch.rand(count, modality.channels, *extent) * 2 - 1
    return x, torch.randn(count, DIM, *grid), torch.tensor([extent] * count).reshape(count, modality.rank)


def batch_of(x, mask=None):
    return vqmm.Batch(x, tuple(map(str, range(len(x)))), mask)


# The likelihood is exact


@pytest.mark.parametrize(("rank", "stride"), [(1, 4), (1, 1), (2, 2), (2, (1, 4)), (3, (1, 2, 1))])
def test_log_density_is_that_of_the_full_jacobian(rank, stride):
    modality = toy(rank, stride)
    decoder = make(modality).double()
    x, vectors, size = draw(modality, count=1)
    x, vectors = x.double(), vectors.double()

    def latents(row):
        return torch.cat([each.flatten() for each in decoder.normalise(row.reshape(x.shape), vectors, size)[0]])

    log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(latents, x.flatten()))[1]
    torch.testing.assert_close(decoder.normalise(x, vectors, size)[1][0], log_det)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(latents(x.flatten())).sum()
    torch.testing.assert_close(decoder.log_density(x, vectors, size)[0], normal + log_det)


def test_the_density_of_one_number_integrates_to_one():
    decoder = make(toy(1, 1, channels=1), stir=0.3)
    x = torch.linspace(-40, 40, 40_001)
    with torch.no_grad():
        density = decoder.log_density(
            x.reshape(-1, 1, 1), torch.ones(len(x), DIM, 1), torch.ones(len(x), 1).long()
        ).exp()
    assert abs(float(torch.trapezoid(density, x)) - 1) < 1e-3


def test_the_density_of_two_numbers_integrates_to_one():
    """Here couplings, mixing and wavelets all take part."""
    decoder = make(toy(1, 2, channels=1), stir=0.1)
    line = torch.linspace(-15, 15, 601)
    x = torch.cartesian_prod(line, line).reshape(-1, 1, 2)
    with torch.no_grad():
        density = decoder.log_density(x, torch.ones(len(x), DIM, 1), torch.full((len(x), 1), 2)).exp()
    density = density.reshape(len(line), -1)
    assert density[[0, -1]].max() < 1e-6 and density[:, [0, -1]].max() < 1e-6  # the window holds it all
    assert abs(float(torch.trapezoid(torch.trapezoid(density, line), line)) - 1) < 1e-3


def test_bits_per_dimension_by_hand():
    """Noise as wide as the space between two of 256 levels; the same in every evaluation."""
    modality = toy(2, 2)
    decoder = make(modality)
    x, vectors, size = draw(modality)
    noise = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0))
    nats = decoder.log_density(x + (noise - 0.5) * (2 / 255), vectors, size)
    bits = -(nats / math.log(2)).mean() / x[0].numel() - math.log2(2 / 255)
    loss, output = decoder.loss(vectors, batch_of(x))
    torch.testing.assert_close(loss, bits)
    assert output is None
    assert torch.equal(loss, decoder.loss(vectors, batch_of(x))[0])
    decoder.train()
    assert decoder.loss(vectors, batch_of(x))[0] != decoder.loss(vectors, batch_of(x))[0]


def test_finer_levels_cost_as_many_bits_more():
    losses = []
    for levels in (1 << 12, 1 << 16):
        modality = toy(1, 4, levels=levels)
        x, vectors, _ = draw(modality)
        torch.manual_seed(1)
        losses.append(float(make(modality).loss(vectors, batch_of(torch.zeros_like(x)))[0].detach()))
    assert abs(losses[1] - losses[0] - 4) < 0.5


def test_the_target_is_what_is_told():
    modality = toy(1, 4)
    decoder = make(modality)
    x, vectors, _ = draw(modality)
    clean = vqmm.Batch(torch.zeros_like(x), ("0", "1"), target=x)
    assert torch.equal(decoder.loss(vectors, clean)[0], decoder.loss(vectors, batch_of(x))[0])


# There and back


@pytest.mark.parametrize(("rank", "stride", "scales"), [(1, 16, None), (2, 4, None), (2, 4, 1), (3, (2, 4, 4), None)])
def test_there_and_back_in_float32(rank, stride, scales):
    modality = toy(rank, stride, channels=3)
    decoder = make(modality, depth=6, width=16, scales=scales)
    x, vectors, size = draw(modality)
    with torch.no_grad():
        latents, _ = decoder.normalise(x, vectors, size)
        assert sum(each.numel() for each in latents) == x.numel()
        torch.testing.assert_close(decoder.generate(latents, vectors, size), x, atol=1e-4, rtol=0)
        latents = [torch.randn_like(each) for each in latents]
        again, _ = decoder.normalise(decoder.generate(latents, vectors, size), vectors, size)
    for one, other in zip(again, latents, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


# Padding


@pytest.mark.parametrize("scales", [None, 1])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_sample_is_the_same_alone_and_beside_a_longer_one(rank, scales):
    modality = toy(rank, 4)
    decoder = make(modality, scales=scales)
    short, long = (torch.rand(2, *(n,) * rank) * 2 - 1 for n in (5, 9))
    both = modality.collate([short, long], ["short", "long"])
    alone = modality.collate([short], ["short"])
    noisy = torch.where(both.mask.unsqueeze(1), both.x, float("nan"))
    vectors = torch.randn(2, DIM, *(3,) * rank)
    own = vectors[(slice(0, 1), slice(None), *(slice(0, 2),) * rank)]
    grid = torch.zeros(2, *(3,) * rank, dtype=torch.bool)
    grid[(0, *(slice(0, 2),) * rank)] = grid[1] = True
    vectors = torch.where(grid.unsqueeze(1), vectors, float("nan"))
    with torch.no_grad():
        bits, _ = decoder.loss(vectors, vqmm.Batch(noisy, both.key, both.mask))
        bits_short, _ = decoder.loss(own, alone)
        bits_long, _ = decoder.loss(vectors[1:], modality.collate([long], ["long"]))
        samples = decoder.sample(vectors, both.size, 3, grid)
        (sample,) = decoder.sample(own, alone.size, 3)
    total = bits_short * short.numel() + bits_long * long.numel()
    torch.testing.assert_close(bits * (short.numel() + long.numel()), total, atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(samples[0], sample, atol=1e-4, rtol=1e-4)
    assert [each.shape for each in samples] == [short.shape, long.shape]


def test_a_block_that_is_partly_padding_counts_whole():
    """Its padding is told as zeros, and the signal pays for it."""
    modality = toy(1, 4, channels=1)
    decoder = make(modality)
    x = modality.collate([torch.rand(1, 5) * 2 - 1], ["0"])
    vectors = torch.randn(1, DIM, 2)
    bits, whole = decoder.loss(vectors, x)[0], decoder.loss(vectors, batch_of(x.x))[0]
    torch.testing.assert_close(bits * 5, whole * 8)


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_of_none_and_of_one(count):
    modality = toy(2, 4)
    decoder = make(modality).train()
    x, vectors, size = draw(modality, count)
    loss, _ = decoder.loss(vectors, batch_of(x))
    loss.backward()
    assert loss.isfinite() and (count or loss == 0)
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())
    assert len(decoder.sample(vectors, size, 0)) == count


# Learning


def test_the_gradient_reaches_the_vectors_and_every_weight_from_the_first_step_on():
    modality = toy(2, 4)
    decoder = make(modality, stir=0).train()
    x, vectors, _ = draw(modality)
    vectors.requires_grad_()
    decoder.loss(vectors, batch_of(x))[0].backward()
    assert vectors.grad.flatten(1).abs().sum(1).min() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_codes_that_tell_the_signal_matter():
    """Signals that are told by their vector up to noise: with another's vector, at least 0.3 bits more."""
    modality = toy(1, 4, channels=1)
    decoder = make(modality, stir=0, width=16).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(120):
        x, vectors = told(16)
        loss, _ = decoder.loss(vectors, batch_of(x))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    decoder.eval()
    x, vectors = told(64)
    right, wrong = (float(decoder.loss(each, batch_of(x))[0].detach()) for each in (vectors, vectors.roll(1, 0)))
    assert wrong - right > 0.3
    decoder.options = FlowDecoder.Options(temperature=0)
    centre = torch.stack(decoder.sample(vectors, torch.full((64, 1), 16), 0))
    assert (centre - x).square().mean() < 0.2 * x.square().mean()


def told(count):
    """A wave for each sample, its height given by its vector."""
    vectors = torch.randn(count, DIM, 4)
    wave = torch.tensor([0.2, -0.2, 0.1, 0.4]).repeat(4)
    x = (vectors[:, :1].repeat_interleave(4, dim=2) * wave).clamp(-1, 1)
    return x + 0.02 * torch.randn_like(x), vectors


# Samples


def test_temperature_and_seed():
    modality = toy(2, 4)
    _, vectors, size = draw(modality, 3)
    decoder = make(modality)
    one, again, other = (decoder.sample(vectors, size, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))
    (alone,) = decoder.sample(vectors[1:2], size[1:2], 1)
    torch.testing.assert_close(alone, one[1], atol=1e-4, rtol=1e-4)
    decoder.options = FlowDecoder.Options(temperature=0)
    assert all(map(torch.equal, decoder.sample(vectors, size, 1), decoder.sample(vectors, size, 2)))


def test_samples_are_finished_and_cut():
    modality = Image(Image.Options(width=8))
    decoder = make(modality, stir=0.3, temperature=5.0)
    samples = decoder.sample(torch.randn(2, DIM, 2, 3), torch.tensor([[8, 12], [5, 1]]), 0)
    assert [each.shape for each in samples] == [(3, 8, 12), (3, 5, 1)]
    assert all(each.abs().max() <= 1 for each in samples)


# State


def test_the_state_dict_holds_everything_and_evaluation_changes_nothing():
    modality = toy(2, 4)
    decoder, other = make(modality), FlowDecoder(modality, DIM, FlowDecoder.Options(width=8, depth=2)).eval()
    x, vectors, size = draw(modality)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    loss, _ = decoder.loss(vectors, batch_of(x))
    samples = decoder.sample(vectors, size, 0)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    other.load_state_dict(before)
    assert torch.equal(other.loss(vectors, batch_of(x))[0], loss)
    assert all(map(torch.equal, other.sample(vectors, size, 0), samples))


def test_float32_whatever_autocast_says():
    modality = toy(2, 4)
    decoder = make(modality)
    x, vectors, _ = draw(modality)
    vectors = vectors.bfloat16()
    expected, _ = decoder.loss(vectors.float(), batch_of(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = decoder.loss(vectors, batch_of(x))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("modality", [Image(Image.Options(width=8)), Moving(), toy(1, 8)], ids=lambda m: m.name)
def test_promises_of_a_decoder(modality):
    check_decoder(FlowDecoder, modality)


# Mistakes


def test_ids_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^decoder.name: 'flow' .* 'notes' .* \(12 ids\): take 'wavenet'.*$"):
        FlowDecoder(Notes(), DIM)


def test_more_scales_than_the_stride_has_halvings_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^decoder.scales: 4 .* spans 4 x 2 samples divides into 2 scales at most$"):
        make(toy(2, (4, 2)), scales=4)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"width": 4}, {"depth": -1}, {"scales": 0}, {"scales": True}, {"heat": 1}], ids=str
)
def test_a_wrong_option_gets_one_line(wrong):
    class Plugin:
        @staticmethod
        @vqmm.hookimpl
        def register_decoders(register):
            register(FlowDecoder)

    registry = Registry()
    registry.add(Plugin, "flow")
    with pytest.raises(UserError, match=rf"^decoder\.{next(iter(wrong))}: .*$") as caught:
        registry.part("decoder", {"name": "flow", **wrong})
    assert "\n" not in str(caught.value)
