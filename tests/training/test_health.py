"""What a run says when it is not well."""

import json
import sys

import torch

import vqmm
from vqmm.contracts.batch import Codes
from vqmm.evaluation.usage import CodeUsage
from vqmm.training.health import FLAT_LOOKS, HealthWatch
from vqmm.training.profile import Profile


def usage(*ids: int, size: int = 8) -> CodeUsage:
    counted = CodeUsage(((size,),))
    counted.update(Codes((torch.tensor([[ids]]),), torch.tensor([[len(ids)]])))
    return counted


def test_codes_that_nobody_uses_are_told_once_until_they_are_used_again():
    watch = HealthWatch(True)
    assert watch.epoch(5, 1, usage(0, 1, 1)) == [], "three codes say nothing about the use of eight"
    (event,) = watch.epoch(10, 1, usage(*[0, 1] * 32))
    assert event.event == "little_use" and "6 of 8 codes were not used (25% were)" in event.said
    assert watch.epoch(20, 2, usage(*[0] * 64)) == []
    assert watch.epoch(30, 3, usage(*[*range(8)] * 8)) == []
    assert len(watch.epoch(40, 4, usage(*[0] * 64))) == 1


def test_a_jump_of_the_gradient_is_told_beside_what_was_usual():
    watch = HealthWatch(True)
    assert [event for step in range(8) for event in watch.report(step, 1.0 + step % 2)] == []
    (event,) = watch.report(9, 100.0)
    assert event.event == "gradient_jump" and "is 100, and was 1.5" in event.said


def test_flattening_is_told_in_the_direction_of_the_metric():
    for higher, values in ((True, [20.0, 24.0]), (False, [0.2, 0.1])):
        watch = HealthWatch(higher)
        events = [watch.held_out(step, {"m": value}, "m", 3.0) for step, value in enumerate(values)]
        events += [watch.held_out(10 + i, {"m": values[-1]}, "m", 3.0) for i in range(FLAT_LOOKS)]
        told = [event.event for some in events for event in some]
        assert told == ["flattened"]
    improving = HealthWatch(True)
    assert not any(improving.held_out(step, {"m": 20.0 + step}, "m", 3.0) for step in range(12))


def test_a_decoder_that_ignores_the_codes_is_found_out(tmp_path):
    """In a real run: a decoder whose weights are zero gives the same output whatever the codes."""
    from tests.tokenizer.test_tokenizer import make
    from vqmm.evaluation.evaluate import shuffled_loss_ratio

    torch.manual_seed(0)
    tokenizer = make(codebook_size=64)
    pictures = [torch.full((1, 16, 16), level) for level in (-0.9, 0.0, 0.9)]
    batch = tokenizer.modality.collate(pictures, ["a", "b", "c"])
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        tokenizer.train()(batch).loss.backward()
        optimizer.step()
        tokenizer.quantizer.after_step(lambda value: value, 0.5)
    assert shuffled_loss_ratio(tokenizer, batch) > 2
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():
            parameter.zero_()
    ratio = shuffled_loss_ratio(tokenizer, batch)
    watch = HealthWatch(True)
    assert watch.held_out(5, {}, "m", ratio) == [], "a first look may come too early"
    (event,) = watch.held_out(10, {}, "m", ratio)
    assert ratio == 1 and event.event == "codes_ignored"
    assert shuffled_loss_ratio(tokenizer, tokenizer.modality.collate(pictures[:1], ["a"])) is None


def test_a_run_records_epochs_events_its_command_and_a_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bin/mine", "--data", "two words"])
    settings = [
        "modality.size=8",
        "modality.channels=1",
        "modality.stride=2",
        "modality.width=16",
        "train.batch_size=64",
    ]
    settings += [
        "quantizer.codebook_size=512",
        "train.profile=true",
        "quantizer.revive_below=0",
        "train.evaluate_samples=32",
    ]
    told = vqmm.train("image", "builtin:digits", tmp_path / "run", steps=30, settings=settings, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (epoch,) = [line for line in lines if line["kind"] == "epoch"]
    assert epoch["step"] == 26 and epoch["epoch"] == 1  # 1,620 training digits, 64 a step
    assert epoch["dead_codes"] == round(512 * (1 - epoch["codebook_usage"]))
    health = [line for line in lines if line["kind"] == "health"]
    assert [line["event"] for line in health] == ["little_use"] * (epoch["codebook_usage"] < 0.5)
    assert told["profile"].keys() == {"data", "forward", "quantizer", "backward", "optimizer"}
    assert abs(sum(told["profile"].values()) - 1) < 1e-6 and min(told["profile"].values()) > 0
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["command"] == "mine --data 'two words'" and made["machine"]["torch"] == torch.__version__


def test_the_profile_takes_a_watched_module_out_of_the_part_around_it():
    profile = Profile(True, torch.device("cpu"))
    module = torch.nn.Identity()
    profile.watch(module, "inner", within="outer")
    profile._now = iter([0.0, 1.0, 3.0, 10.0]).__next__
    with profile.part("outer"):
        module(torch.zeros(1))
    assert profile.seconds == {"inner": 2.0, "outer": 8.0} and profile.shares() == {"outer": 0.8, "inner": 0.2}
    off = Profile(False, torch.device("cpu"))
    with off.part("x"):
        pass
    assert off.shares() == {}
