"""A critic beside a tokenizer: its terms, its gradients, when it takes part, what it leaves alone."""

import json
from pathlib import Path

import pytest
import torch

import vqmm
from tests import fakes
from vqmm.data.loader import Views
from vqmm.data.source import Source
from vqmm.recipe import Train
from vqmm.training.adversarial import AdversarialTrainer
from vqmm.training.loop import Loop
from vqmm.training.setup import make_fabric

TINY = [
    *("modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=8", "modality.blocks=1"),
    *("train.batch_size=8", "train.evaluate_samples=16", "train.device=cpu"),
]
CRITIC = ["adversary.width=4", "adversary.layers=2"]
VECTOR = ["quantizer.codebook_size=16", "quantizer.dim=8"]
DIGITS = {"name": "image", "size": 8, "channels": 1, "stride": 2, "width": 8, "blocks": 1}
NOW = ["adversary.start=0", "adversary.warm=0"]


def run(out, recipe="vqgan", settings=(), steps=6, **options):
    plan = [*TINY, *(CRITIC if recipe in ("vqgan", "cvqgan", "vqgan-wgan-gp", "gan") else []), *settings]
    return vqmm.train("image", "builtin:digits", out, recipe, steps=steps, settings=plan, quiet=True, **options)


def lines(out, kind):
    told = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in told if line["kind"] == kind]


@pytest.fixture
def adversarial():
    """A loop and its contest over digits, made by hand; the critic counts from the first step."""

    def make(accumulate=1, told=DIGITS, data="builtin:digits", **options):
        registry = vqmm.Registry.discover()
        found, plain = registry.part("modality", told)
        modality = found(plain)
        samples = Source(modality, data).samples[:64]
        if modality.front() is not None:
            modality.front().fit(iter([sample.read() for sample in samples]))
        torch.manual_seed(0)
        config = {"quantizer": {"name": "vector", "codebook_size": 16, "dim": 8}, "decoder": {"name": "direct"}}
        tokenizer = vqmm.Tokenizer.build(config, modality, registry)
        wanted = {"width": 4, "layers": 2, "start": 0.0, "warm": 0.0, "memory": 0.0, **options}
        critic, critic_options = registry.part("adversary", {"name": "critic", **wanted})
        plan = Train(batch_size=4, accumulate=accumulate, device="cpu", steps=50)
        fabric = make_fabric(plan)
        made = AdversarialTrainer(critic(modality, critic_options), tokenizer, plan, fabric)
        return Loop(tokenizer, Views(modality, samples, {}), plan, fabric, made)

    return make


def batch_of(loop):
    modality = loop.model.modality
    return modality.collate(list(modality.example(3)), ["a", "b", "c"])


def measured(loop):
    """A contest that has measured once, so that its factors are not 0."""
    loop.adversarial.balance.update(2.0, dict.fromkeys(loop.adversarial.balance.weights, 1.0))
    return loop.adversarial


def test_the_critic_is_frozen_in_the_tokenizers_step_and_free_after_it(adversarial, monkeypatch):
    loop = adversarial()
    critic, seen = loop.adversarial.adversary, []
    real = critic.generator_losses

    def watched(*given, **told):
        seen.append([p.requires_grad for p in critic.parameters()])
        return real(*given, **told)

    monkeypatch.setattr(critic, "generator_losses", watched)
    loop.train_step()
    assert len(seen) == 1 and not any(seen[0]) and all(p.requires_grad for p in critic.parameters())


@pytest.mark.parametrize("balance", ["adaptive", "gradient", "fixed"])
def test_the_gradients_are_those_of_the_weighted_sum(adversarial, balance):
    """What is computed once, scaled and passed on is what autograd makes of the plain sum."""
    loop = adversarial(balance=balance, feature_matching=0.5, perceptual_weight=0.3)
    made, tokenizer, batch = measured(loop), loop.model.train(), batch_of(loop)
    losses = made.joined(tokenizer(batch), batch)
    assert losses.keys() >= {"reconstruction", "commitment", "adversarial", "feature_matching", "perceptual"}
    torch.stack([*losses.values()]).sum().backward()
    got = {name: p.grad.clone() for name, p in tokenizer.named_parameters() if p.grad is not None}
    assert all(p.grad is None for p in made.adversary.parameters())
    tokenizer.zero_grad()
    found = tokenizer(batch)
    terms = made.adversary.generator_losses(found.output, batch.x)
    (found.loss + sum(factor * terms[name] for name, factor in made.factors().items())).backward()
    for name, parameter in tokenizer.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)
    for name, factor in made.factors().items():
        assert losses[name].item() == pytest.approx(factor * terms[name].item(), rel=1e-4)


def test_the_adaptive_weight_is_equation_7(adversarial):
    """Norms at the last layer, taken from their definition; the weight acts in the step after."""
    loop = adversarial(perceptual_weight=0.0, weight=0.5)
    made, tokenizer, batch = loop.adversarial, loop.model.train(), batch_of(loop)
    found = tokenizer(batch)
    last = tokenizer.decoder.last_layer()
    (expected,) = torch.autograd.grad(found.losses["reconstruction"], last, retain_graph=True)
    adversarial = made.adversary.generator_losses(found.output, batch.x)["adversarial"]
    (other,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    losses = made.joined(found, batch)
    assert losses["adversarial"] == 0, "the first step only measures"
    torch.stack([*losses.values()]).sum().backward()
    made.learn(1.0, False)
    made.finish(1.0, lambda value: value)
    weight = expected.norm() / (other.norm() + 1e-4 * expected.norm())
    assert made.factors()["adversarial"] == pytest.approx(0.5 * weight.item(), rel=1e-3)


def test_the_balancer_goes_by_norms_at_the_output(adversarial):
    loop = adversarial(balance="gradient", perceptual_weight=0.0, weight=2.0)
    made, tokenizer, batch = loop.adversarial, loop.model.train(), batch_of(loop)
    found = tokenizer(batch)
    pulls = [
        torch.autograd.grad(loss, found.output, retain_graph=True)[0].flatten(1).norm(dim=1).mean()
        for loss in (
            found.losses["reconstruction"],
            made.adversary.generator_losses(found.output, batch.x)["adversarial"],
        )
    ]
    torch.stack([*made.joined(found, batch).values()]).sum().backward()
    made.learn(1.0, False)
    made.finish(1.0, lambda value: value)
    assert made.factors()["adversarial"] == pytest.approx(2 * (pulls[0] / pulls[1]).item(), rel=1e-3)


def test_a_critic_learns_to_tell_and_its_step_leaves_the_tokenizer_alone(adversarial):
    loop = adversarial(perceptual_weight=0.0, learning_rate=3e-3, pause_above=None)
    before = {name: value.clone() for name, value in loop.model.decoder.state_dict().items()}
    made = loop.adversarial
    for _ in range(30):
        batch = batch_of(loop)
        made.joined(loop.model.train()(batch), batch)
        made.learn(1.0, False)
        made.finish(1.0, lambda value: value)
    assert all(torch.equal(value, before[name]) for name, value in loop.model.decoder.state_dict().items())
    assert all(p.grad is None for p in loop.model.parameters())
    assert made.schedule.margin > 0.2 and made.schedule.right.value > 0.7


def test_a_resting_critic_stays_as_it_is_but_goes_on_watching(adversarial):
    loop = adversarial(pause_above=0.6)
    made = loop.adversarial
    for _ in range(3):
        made.schedule.update(0, -1.0, 1.0, 1.0, 0.1)
    assert made.schedule.paused
    before, seen = made.fingerprint(), made.schedule.right.value
    loop.train_step()
    assert made.fingerprint() == before and made.schedule.right.value != seen


def test_each_batch_weighs_by_its_share_in_the_critics_gradient(adversarial):
    loop = adversarial(perceptual_weight=0.0)
    made, modality = loop.adversarial, loop.model.modality
    expected: dict[str, torch.Tensor] = {}
    for count, share in ((1, 0.2), (4, 0.8)):
        batch = modality.collate(list(modality.example(count)), list("abcd")[:count])
        found = loop.model.train()(batch)
        made.joined(found, batch)
        made.learn(share, more=count == 1)
        got = {name: p.grad.clone() for name, p in made.adversary.named_parameters()}
        made.adversary.zero_grad()
        lesson = made.adversary.critic_losses(found.output.detach(), batch.x)
        torch.stack([*lesson.losses.values()]).sum().backward()
        for name, p in made.adversary.named_parameters():
            expected[name] = expected.get(name, 0) + share * p.grad
            p.grad = expected[name].clone()  # as if nothing had been asked in between
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_accumulated_batches_equal_one_large_batch_for_the_critic_too(adversarial):
    """Fixed weights: a norm is one of a batch, and so depends on how large those are."""
    loops = [adversarial(accumulate, balance="fixed", perceptual_weight=0.0) for accumulate in (1, 4)]
    loops[0].plan = loops[0].plan.model_copy(update={"batch_size": 16})
    for loop in loops:
        loop.adversarial.adversary.options = loop.adversarial.adversary.options.model_copy(update={"pause_above": None})
        for _ in range(3):
            loop.train_step()
    for name, value in loops[0].adversarial.adversary.state_dict().items():
        other = loops[1].adversarial.adversary.state_dict()[name]
        torch.testing.assert_close(value, other, atol=2e-4, rtol=1e-3, msg=name)
    for name, value in loops[0].model.decoder.state_dict().items():
        torch.testing.assert_close(value, loops[1].model.decoder.state_dict()[name], atol=1e-3, rtol=1e-2, msg=name)


def test_a_critic_that_never_counts_changes_no_bit(tmp_path):
    """Nor does one that only warms up."""
    run(tmp_path / "plain", "vqvae-ema", VECTOR)
    prints = [vqmm.Tokenizer.load(tmp_path / "plain").fingerprint()]
    for name, start in (("never", 1.0), ("warm", 1.0)):
        settings = [*VECTOR, f"adversary.start={start}", f"adversary.warm={0.0 if name == 'never' else 0.5}"]
        run(tmp_path / name, "vqgan", settings)
        prints.append(vqmm.Tokenizer.load(tmp_path / name).fingerprint())
    assert prints[0] == prints[1] == prints[2]
    assert lines(tmp_path / "warm", "critic")[-1]["critic_accuracy"] > 0 and not lines(tmp_path / "never", "critic")


@pytest.mark.parametrize("recipe", ["vqgan", "cvqgan", "vqgan-wgan-gp"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_named_recipes_train(recipe, precision, tmp_path):
    settings = [*VECTOR, *NOW, f"train.precision={precision}", "train.average=0.9", "train.profile=true"]
    told = run(tmp_path / "run", recipe, settings)
    (train,) = lines(tmp_path / "run", "train")
    assert {"adversarial", "feature_matching", "perceptual"} < train["losses"].keys()
    (line,) = lines(tmp_path / "run", "critic")
    assert {"margin", "critic_accuracy", "gradient_norm", "loss_scale", "weight/adversarial"} < line.keys()
    assert line["weight/adversarial"] > 0 and line["norm/adversarial"] > 0
    assert "critic" in told["profile"] and told["metrics"]["nmse"] < 10
    names = [*vqmm.Tokenizer.load(tmp_path / "run").state_dict()]
    assert not any("critic" in name for name in names), "the critic is no part of what is saved"


@pytest.mark.parametrize("recipe", ["rvq", "fsq", "vae", "ae"])
def test_any_other_recipe_takes_one(recipe, tmp_path):
    run(tmp_path / "run", recipe, ["adversary.name=patch", *CRITIC, *NOW], steps=3)
    assert lines(tmp_path / "run", "train")[-1]["losses"]["adversarial"] != 0


def test_the_gradient_of_a_critic_of_tokens_reaches_the_encoder(tmp_path):
    registry = vqmm.Registry.discover()
    registry.add(fakes, "fakes")
    modality = registry.modality("notes")()
    config = {"quantizer": {"name": "none", "dim": 8}, "decoder": {"name": "direct"}}
    tokenizer = vqmm.Tokenizer.build(config, modality, registry)
    found, options = registry.part("adversary", {"name": "critic", "width": 4, "layers": 1})
    critic = found(modality, options)
    samples = [torch.randint(12, (1, n)) for n in (5, 2)]
    batch = modality.collate(samples, ["a", "b"])
    output = tokenizer(batch).output
    critic.generator_losses(output, modality.target(batch.x), batch.mask)["adversarial"].backward()
    assert sum(float(p.grad.abs().sum()) for p in tokenizer.encoder.parameters()) > 0


def test_trust_scales_what_reaches_the_decoder(adversarial):
    loop = adversarial(perceptual_weight=0.0)
    made, tokenizer, batch = measured(loop), loop.model.train(), batch_of(loop)
    full = made.joined(tokenizer(batch), batch)["adversarial"]
    made.schedule.loss_scale = 0.25
    assert made.joined(tokenizer(batch), batch)["adversarial"].item() == pytest.approx(full.item() / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("told", "data"),
    [
        ({"name": "audio", "sample_rate_hz": 8000, "seconds": 0.1, "width": 16, "blocks": 1}, "builtin:tones"),
        ({"name": "text", "length": 24, "width": 16, "blocks": 1}, "builtin:topics"),
    ],
    ids=["audio", "text"],
)
def test_one_critic_serves_every_modality(adversarial, told, data):
    loop = adversarial(told=told, data=data, feature_matching=1.0)
    loop.train_step()
    loop.train_step()
    losses = loop.report().losses
    assert losses["adversarial"] != 0 and losses["feature_matching"] > 0 and "perceptual" not in losses
