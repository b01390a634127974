"""A run that was stopped goes on as if nothing had been, bit for bit."""

import json
import random
import shutil
import signal
import time
from functools import cache

import pytest
import torch

import vqmm
from tests.processes import Program, output_of
from vqmm.training.checkpoint import checkpoints, keep_last, read_checkpoint, write_checkpoint
from vqmm.training.log import MetricsLog
from vqmm.training.loop import Loop
from vqmm.utils.errors import Stopped

SETTINGS = [
    *("modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "train.batch_size=8"),
    *("train.checkpoint_every=5", "train.evaluate_every=10", "train.evaluate_samples=16"),
]
VECTOR = [*SETTINGS, "quantizer.codebook_size=32"]


def run(out, recipe="vqvae-ema", settings=VECTOR, **options):
    return vqmm.train("image", "builtin:digits", out, recipe, steps=20, settings=settings, quiet=True, **options)


def weights(out):
    return vqmm.Tokenizer.load(out).fingerprint()


def lines(out):
    told = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in told]


class KilledError(RuntimeError):
    pass


@pytest.fixture
def killed_at(monkeypatch):
    """Let the run die in a given step, before it has done its work."""

    def die_at(step):
        real = Loop.train_step

        def train_step(self, stop=0):
            if self.step == step:
                raise KilledError
            return real(self, stop)

        monkeypatch.setattr(Loop, "train_step", train_step)
        return lambda: monkeypatch.setattr(Loop, "train_step", real)

    return die_at


RUNS = {
    "ema": ("vqvae-ema", VECTOR),
    "gradient-accumulated": ("vqvae", [*VECTOR, "train.accumulate=2"]),
    "noise": ("vae", SETTINGS),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run of each of RUNS, made once; only read."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def made(name):
        run(folder / name, *RUNS[name])
        return folder / name

    return made


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("step", [3, 5, 17])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(name, step, tmp_path, killed_at, whole):
    recipe, settings = RUNS[name]
    undisturbed = whole(name)
    live = killed_at(step)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", recipe, settings)
    live()
    told = run(tmp_path / "killed", recipe, settings, resume=True)
    assert weights(tmp_path / "killed") == weights(undisturbed)
    held_out = [
        [line["metrics"] for line in lines(out) if line["kind"] == "held-out"]
        for out in (undisturbed, tmp_path / "killed")
    ]
    for each in (m for one in held_out for m in one):
        each.pop("samples_per_second")
    assert held_out[0] == held_out[1]
    assert [line["step"] for line in lines(tmp_path / "killed") if line["kind"] == "train"] == [20]
    assert told["best"] == read_checkpoint(checkpoints(undisturbed / "checkpoints")[-1])[1]["best"]


def test_sigterm_saves_and_leaves_and_sigkill_at_random_moments_changes_nothing(tmp_path, whole):
    """The real thing, in processes of their own."""
    arguments = ["train", "image", "--data", "builtin:digits", "--out", tmp_path / "run", "--steps", "20"]
    arguments += [word for setting in VECTOR for word in ("--set", setting)]
    moments = random.Random(0)
    resume: list[str] = []
    for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        with Program(*arguments, *resume) as program:
            while program.running() and not (tmp_path / "run" / "recipe.yaml").exists():
                time.sleep(0.05)
            time.sleep(moments.random() * 0.3)
            program.send(how)
            code, _, said = program.ended(within=60)
        if how == signal.SIGTERM and code:
            assert code == 128 + signal.SIGTERM, said
            assert said.splitlines()[-1].startswith("vqmm: stopped at step")
        resume = ["--resume"]
    output_of(*arguments, *resume)
    assert weights(tmp_path / "run") == weights(whole("ema"))


def test_another_recipe_is_refused_with_the_fields_that_differ(tmp_path, whole):
    shutil.copytree(whole("ema"), tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(vqmm.UserError, match=r"quantizer.commitment was 0.25 and is 0.5, train.seed was 0 and is 7"):
        run(tmp_path / "run", settings=[*VECTOR, "quantizer.commitment=0.5", "train.seed=7"], resume=True)
    run(tmp_path / "run", settings=[*VECTOR, "train.cache_mb=1"], resume=True)  # changes no weight
    assert weights(tmp_path / "run") == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "something").mkdir()
    with pytest.raises(vqmm.UserError, match=r"no run to resume: it has no recipe.yaml"):
        run(tmp_path / "something", resume=True)
    assert not any((tmp_path / "something").iterdir())


def test_data_that_changed_is_refused(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    image = vqmm.Registry.discover().modality("image")()
    for i in range(6):
        image.write(torch.rand(3, 8, 8), pictures / str(i))
    settings = [*SETTINGS[:1], *SETTINGS[2:], "train.batch_size=2"]
    options = {"settings": settings, "steps": 5, "quiet": True}
    vqmm.train("image", pictures, tmp_path / "run", **options)
    (pictures / "3.png").unlink()
    with pytest.raises(
        vqmm.UserError, match=r"run was begun with other data \(fingerprint [0-9a-f]{16}, now [0-9a-f]{16}\)"
    ):
        vqmm.train("image", pictures, tmp_path / "run", **options, resume=True)


def test_a_stop_between_steps_says_so(tmp_path):
    error = Stopped(7, signal.SIGTERM)
    assert error.code == 143 and str(error) == "stopped at step 7 by SIGTERM and saved: go on with --resume"


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        write_checkpoint(tmp_path, step, {"x": torch.ones(1)}, {})
    (tmp_path / ".step-00000025.abc.tmp").mkdir()  # what a killed writer leaves
    keep_last(tmp_path, last=2, best=5)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000005", "step-00000015", "step-00000020"]


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 5, {"x": torch.ones(3)}, {"a": 1})

    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqmm.training.checkpoint.write_tensors", full)
    with pytest.raises(vqmm.UserError, match=r"No space left on device; the one of step-00000005 is whole"):
        write_checkpoint(tmp_path, 10, {"x": torch.ones(3)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    tensors, told = read_checkpoint(tmp_path / "step-00000005")
    assert tensors["x"].tolist() == [1, 1, 1] and told == {"step": 5, "a": 1}


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = write_checkpoint(tmp_path, 5, {"x": torch.ones(300)}, {})
    (path / "state.safetensors").write_bytes((path / "state.safetensors").read_bytes()[:-7])
    with pytest.raises(vqmm.UserError, match="step-00000005 is damaged"):
        read_checkpoint(path)


def test_the_log_forgets_what_came_after_and_half_a_line(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    for step in (1, 2, 3):
        log.write("train", step=step)
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    MetricsLog(tmp_path / "m.jsonl", step=2).write("train", step=3, again=True)
    told = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told] == [1, 2, 3] and told[2]["again"]
