"""The demo's one line: what runs, how far it is, how long it takes; and an error wherever it happens."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from vqmm.commands.demo_progress import DemoProgress, Stage, last_step


def stage(folder: Path, step: int | None = None, share: float = 0.5, said: str = "part 1 of 2, image") -> Stage:
    """One that runs, at a step of 100."""
    future: Future = Future()
    future.set_running_or_notify_cancel()
    folder.mkdir()
    if step is not None:
        lines = [{"kind": "train", "step": 0}, {"kind": "train", "step": step}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Stage(said, share, future, folder, 100)


def test_the_last_whole_line_says_the_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert last_step(file) == 0
    file.write_text('{"kind": "train", "step": 20}\n{"kind": "train", "st')
    assert last_step(file) == 20
    file.write_text('{"kind": "train"}\nnothing\n')
    assert last_step(file) == 0
    file.write_text("".join(json.dumps({"step": n, "more": "x" * 90}) + "\n" for n in range(500)))
    assert last_step(file) == 499


def test_one_line_says_what_runs_and_how_far_it_is(tmp_path, monkeypatch):
    progress = DemoProgress(quiet=True)
    image, audio = stage(tmp_path / "a", 40), stage(tmp_path / "b", None, 0, "part 2 of 2, audio")
    progress.add(image)
    progress.add(audio)
    monkeypatch.setattr("vqmm.commands.demo_progress.time.monotonic", lambda: progress._start + 30)
    assert progress.line() == "part 1 of 2, image: 40%; part 2 of 2, audio: 0%; about 2 min 0 s left"
    image.future.set_result(None)
    assert progress.line() == "part 2 of 2, audio: 0%; about 30 s left"


def test_nothing_is_said_of_the_time_before_anything_is_done(tmp_path):
    progress = DemoProgress(quiet=True)
    progress.add(stage(tmp_path / "a", 2))
    assert progress.line() == "part 1 of 2, image: 2%"


def test_waiting_for_one_ends_with_the_error_of_another(tmp_path):
    progress = DemoProgress(quiet=True)
    with ThreadPoolExecutor(1) as pool:
        progress.add(Stage("fails", 0, pool.submit(int, "no number")))
        waiting: Future = Future()
        with pytest.raises(ValueError, match="no number"):
            progress.wait(waiting)


def test_away_from_a_terminal_a_line_comes_every_ten_seconds(tmp_path, monkeypatch, capsys):
    progress = DemoProgress()
    progress.add(stage(tmp_path / "a", 40))
    now = progress._start
    for seconds in (1, 11, 12, 22):
        monkeypatch.setattr("vqmm.commands.demo_progress.time.monotonic", lambda s=seconds: now + s)
        progress._tell()
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("part 1 of 2, image: 40%") == 3  # the first comes at once
