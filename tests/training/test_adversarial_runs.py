"""Runs with a critic: stopped and resumed, from noise, on an old tokenizer; and what is refused."""

import json
from pathlib import Path

import pytest
import torch

import vqmm
from vqmm.tokenizer.loading import load_model
from vqmm.training.checkpoint import checkpoints, read_checkpoint
from vqmm.training.loop import Loop

TINY = [
    *("modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=8", "modality.blocks=1"),
    *("train.batch_size=8", "train.evaluate_samples=16", "train.device=cpu"),
]
VECTOR = ["quantizer.codebook_size=16", "quantizer.dim=8"]
CRITIC = ["adversary.width=4", "adversary.layers=2"]
EARLY = ["adversary.start=0.4", "adversary.warm=0.2", "train.checkpoint_every=3", "train.evaluate_every=4"]


def run(out, recipe="vqgan", settings=(), steps=12, data="builtin:digits", **options):
    return vqmm.train("image", data, out, recipe, steps=steps, settings=[*TINY, *settings], quiet=True, **options)


def weights(out):
    return load_model(out).fingerprint()


def last_tensors(out):
    return read_checkpoint(checkpoints(Path(out) / "checkpoints")[-1])[0]


class KilledError(RuntimeError):
    pass


@pytest.fixture
def killed_at(monkeypatch):
    def die_at(step):
        real = Loop.train_step

        def train_step(self, stop=0):
            if self.step == step:
                raise KilledError
            return real(self, stop)

        monkeypatch.setattr(Loop, "train_step", train_step)
        return lambda: monkeypatch.setattr(Loop, "train_step", real)

    return die_at


@pytest.mark.parametrize(
    ("recipe", "more", "step"),
    [
        ("vqgan", ["adversary.spectral_norm=true", "adversary.lecam=0.1", *VECTOR], 4),  # while it warms up
        ("vqgan", ["train.accumulate=2", "adversary.pause_above=0.5", *VECTOR], 10),
        ("vqgan-wgan-gp", VECTOR, 10),  # draws points between samples
        ("gan", ["adversary.start=0", "adversary.warm=0"], 7),  # draws noise
    ],
)
def test_a_killed_run_ends_with_the_same_bits_of_tokenizer_and_critic(recipe, more, step, tmp_path, killed_at):
    settings = [*CRITIC, *EARLY, *more]
    run(tmp_path / "whole", recipe, settings)
    live = killed_at(step)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", recipe, settings)
    live()
    run(tmp_path / "killed", recipe, settings, resume=True)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    one, other = last_tensors(tmp_path / "whole"), last_tensors(tmp_path / "killed")
    assert one.keys() == other.keys() and any(name.startswith("critic.optimizer") for name in one)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_flat_start_is_found_again_after_a_kill(tmp_path, killed_at):
    """The looks at held-out data before the stop count, and what they decided holds."""
    settings = [*CRITIC, *VECTOR, "train.evaluate_every=1", "train.checkpoint_every=2", "train.learning_rate=1e-9"]
    settings += ["adversary.latest=1", "adversary.warm=0.1"]
    run(tmp_path / "whole", settings=settings)
    events = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    (start,) = [line for line in events if line.get("event") == "critic_starts"]
    assert start["step"] < 9 and "counts from step" in start["said"]
    for step in (4, 8):
        live = killed_at(step)
        with pytest.raises(KilledError):
            run(tmp_path / f"killed{step}", settings=settings)
        live()
        run(tmp_path / f"killed{step}", settings=settings, resume=True)
        assert torch.equal(
            last_tensors(tmp_path / f"killed{step}")["critic.schedule"],
            last_tensors(tmp_path / "whole")["critic.schedule"],
        )
        assert weights(tmp_path / f"killed{step}") == weights(tmp_path / "whole")


# Fine-tuning


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A tokenizer of before, and its tokens."""
    folder = tmp_path_factory.mktemp("old")
    run(folder / "run", "vqvae-ema", VECTOR)
    vqmm.encode(folder / "run", ["builtin:digits"], folder / "tokens")
    return folder


def test_a_new_critic_on_an_old_decoder_leaves_every_code_as_it_was(old, tmp_path):
    settings = [
        *CRITIC,
        "adversary.start=0",
        "adversary.warm=0",
        "train.freeze=codes",
        f"train.init_from={old / 'run'}",
    ]
    told = vqmm.train("image", "builtin:digits", tmp_path / "new", "vqgan", steps=5, settings=settings, quiet=True)
    before, after = (vqmm.Tokenizer.load(folder) for folder in (old / "run", tmp_path / "new"))
    assert after.code_fingerprint() == before.code_fingerprint() and after.fingerprint() != before.fingerprint()
    batch = before.modality.collate(list(torch.rand(5, 1, 12, 10) * 2 - 1), list("abcde"))
    assert all(map(torch.equal, before.encode(batch).maps, after.encode(batch).maps))
    vqmm.decode(tmp_path / "new", old / "tokens", tmp_path / "back")
    assert len(list((tmp_path / "back").iterdir())) == 1797
    assert told["weights"] == sum(p.numel() for p in before.parameters())


def test_fine_tuning_of_everything_moves_the_codes_and_resumes(old, tmp_path, killed_at):
    settings = [*CRITIC, *EARLY, f"train.init_from={old / 'run'}", "condition=label"]
    options = {"recipe": "cvqgan", "steps": 8, "settings": settings, "quiet": True}
    vqmm.train("image", "builtin:digits", tmp_path / "whole", **options)
    live = killed_at(5)
    with pytest.raises(KilledError):
        vqmm.train("image", "builtin:digits", tmp_path / "killed", **options)
    live()
    vqmm.train("image", "builtin:digits", tmp_path / "killed", **options, resume=True)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    new = vqmm.Tokenizer.load(tmp_path / "whole")
    assert new.code_fingerprint() != vqmm.Tokenizer.load(old / "run").code_fingerprint()
    assert new.label_embedding is not None, "a decoder may be told labels that it did not know"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["quantizer.codebook_size=32"], r"has other parts: quantizer.codebook_size is 16 there, not 32: leave"),
        (["modality.width=16", "modality.stride=2"], r"modality.width is 8 there, not 16"),
        (["decoder.name=wavenet"], r"decoder.name is 'direct' there, not 'wavenet'"),
    ],
)
def test_a_tokenizer_begins_with_its_own_parts(old, tmp_path, settings, said):
    settings = [f"train.init_from={old / 'run'}", *settings]
    with pytest.raises(vqmm.UserError, match=said):
        vqmm.train("image", "builtin:digits", tmp_path / "new", "vqgan", steps=5, settings=settings, quiet=True)
    assert not (tmp_path / "new").exists()


def test_only_the_decoder_needs_a_beginning(tmp_path):
    with pytest.raises(vqmm.UserError, match=r"train.freeze: codes needs .* train.init_from"):
        run(tmp_path / "run", settings=["train.freeze=codes"])
    with pytest.raises(vqmm.UserError, match=r"holds no tokenizer"):
        run(tmp_path / "run", settings=[f"train.init_from={tmp_path}"])


# From noise


def test_a_gan_makes_samples_of_a_label_and_has_no_codes(tmp_path):
    told = run(tmp_path / "run", "gan", [*CRITIC, "train.average=0.9"], steps=4)
    assert told["metrics"]["psnr_db"] is None, "nothing is reconstructed, so nothing is compared"
    assert "belong beside no original" in told["rules"]["psnr_db"]
    assert told["shown"] == str(tmp_path / "run" / "new-samples.png")
    made = vqmm.NoiseGenerator.load(tmp_path / "run")
    assert not any(name.startswith("encoder.") for name in made.state_dict()) and not hasattr(made, "encode")
    samples = made.sample(3, label=7, seed=1)
    assert [tuple(sample.shape) for sample in samples] == [(1, 8, 8)] * 3 and samples[0].abs().max() <= 1
    assert all(map(torch.equal, samples, made.sample(3, label=7, seed=1)))
    assert not torch.equal(samples[0], made.sample(3, label=2, seed=1)[0]), "the label counts"
    for verb in (vqmm.encode, vqmm.reconstruct):
        with pytest.raises(vqmm.UserError, match=r"has no encoder and no codes: vqmm eval, .* serve it") as refused:
            verb(tmp_path / "run", ["builtin:digits"], tmp_path / "tokens")
        assert "\n" not in str(refused.value) and str(tmp_path / "run holds") in str(refused.value)
    assert not (tmp_path / "tokens").exists()


def test_a_gan_is_evaluated_reported_and_compared_as_a_tokenizer_is(tmp_path):
    run(tmp_path / "run", "gan", CRITIC, steps=2)
    judged = vqmm.eval(tmp_path / "run", "builtin:digits", labels=True, show=tmp_path / "shown")
    assert judged["metrics"]["psnr_db"] is None and judged["metrics"]["codebook_usage"] is None
    assert judged["metrics"]["label_accuracy_reconstructed"] is not None
    assert "new samples of the same that are given" in judged["rules"]["label_accuracy_reconstructed"]
    assert judged["metrics"] | {"samples_per_second": 0} == {
        **vqmm.eval(tmp_path / "run", "builtin:digits", labels=True, batch_size=7)["metrics"],
        "samples_per_second": 0,
    }, "whatever the batches, a sample's noise is that of its key"
    page = Path(vqmm.report(tmp_path / "run")["report"]).read_text()
    assert "Originals over new samples" in page and "image generator" in page and "data:image/png" in page
    settings = [each for each in CRITIC if each.startswith("adversary.")] + TINY
    (row,) = vqmm.compare(
        "image", "gan", "builtin:digits", tmp_path / "compared", steps=2, settings=settings, baselines=False, quiet=True
    )["rows"]
    assert row["error"] is None and row["encode_samples_per_second"] is None and row["samples_per_second"] > 0


def test_a_gan_begins_no_tokenizer_and_with_none(old, tmp_path):
    run(tmp_path / "gan", "gan", CRITIC, steps=1)
    with pytest.raises(vqmm.UserError, match=r"train.init_from: .*gan holds a generator from noise"):
        run(tmp_path / "new", settings=[f"train.init_from={tmp_path / 'gan'}"])
    with pytest.raises(vqmm.UserError, match=r"train.init_from: .*run holds a tokenizer, and input=noise trains a gen"):
        run(tmp_path / "new", "gan", [f"train.init_from={old / 'run'}"])


# Mistakes


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        (
            "vqvae-wavenet",
            ["adversary.name=critic"],
            r"the decoder 'wavenet' is a distribution .* take decoder.name=dir",
        ),
        ("gan", ["adversary=null"], "input: noise learns from an adversary alone, and there is none"),
        ("gan", ["adversary.balance=adaptive"], "balance adaptive, start 0.0: take balance=fixed"),
        ("gan", ["adversary.feature_matching=1"], "feature_matching 1: take balance=fixed"),
        ("gan", ["quantizer.name=vector"], "own prior, 'vector' has none: take gaussian"),
        ("vqgan", ["adversary.name=critc"], "no adversary is called 'critc'.*Did you mean 'critic'"),
        ("vqgan", ["adversary.lose=hinge"], "adversary.lose: there is no such option.*Did you mean 'loss'"),
        ("vqgan", ["adversary.start=2"], "adversary.start: 2 does not fit"),
        ("vqgan", ["adversary.name=tokens"], "'tokens' judges ids"),
        ("vqgan", ["adversary.perceptual=lpips"], "adversary.perceptual: lpips needs"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(recipe, settings, said, tmp_path):
    with pytest.raises(vqmm.UserError, match=said) as found:
        run(tmp_path / "run", recipe, settings)
    assert "\n" not in str(found.value) and not (tmp_path / "run").exists()


def test_a_conditional_recipe_needs_labels(tmp_path):
    image = vqmm.Registry.discover().modality("image")()
    (tmp_path / "data").mkdir()
    for i in range(3):
        image.write(torch.rand(3, 8, 8), tmp_path / "data" / str(i))
    for recipe in ("cvqgan", "gan"):
        with pytest.raises(vqmm.UserError, match="condition: label needs a label for every sample"):
            run(tmp_path / "run", recipe, data=tmp_path / "data")


def test_a_modality_that_no_critic_serves_is_refused(tmp_path):
    file = tmp_path / "picky.py"
    file.write_text(
        "import vqmm\nfrom vqmm.utils.errors import UserError\n"
        "class Picky(vqmm.Adversary):\n    name = 'picky'\n"
        "    def __init__(self, modality, options=None, labels=0):\n"
        "        raise UserError(f'adversary.name: picky has no critic for {modality.name}')\n"
        "@vqmm.hookimpl\ndef register_adversaries(register):\n    register(Picky)\n"
    )
    with pytest.raises(vqmm.UserError, match="picky has no critic for image"):
        run(tmp_path / "run", "vqvae-ema", ["adversary.name=picky"], plugins=[str(file)])


def test_a_gradient_that_is_not_finite_stops_the_run_with_what_was_saved(tmp_path):
    settings = [*CRITIC, *VECTOR, "adversary.start=0.25", "adversary.warm=0", "adversary.learning_rate=1e30"]
    settings += ["train.checkpoint_every=2", "train.clip=1e30"]
    with pytest.raises(vqmm.UserError, match="is not finite: lower"):
        run(tmp_path / "run", settings=settings, steps=40)
    assert checkpoints(tmp_path / "run" / "checkpoints")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "not_finite"
