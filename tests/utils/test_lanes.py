"""Work side by side: in order within a lane, and nothing goes on when one fails or when the first process is gone."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from vqmm.utils.lanes import lanes

SECONDS = 60  # for something that should happen at once


def pid_and_threads():
    import torch

    return os.getpid(), torch.get_num_threads()


def note(path: Path, word: str) -> None:
    with path.open("a") as file:
        file.write(f"{word}\n")


def for_ever(path: Path) -> None:
    path.write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)


def fail_when(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)
    raise ValueError("as it was meant to")


def gone(pid: int) -> bool:
    """Whether a process ends within a minute; one that nobody has waited for counts as ended."""
    for _ in range(SECONDS * 20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_each_lane_is_one_process_of_one_thread_and_keeps_the_order(tmp_path):
    with lanes(2) as (first, second):
        ours, theirs = first.submit(pid_and_threads), second.submit(pid_and_threads)
        for word in ("a", "b", "c"):
            first.submit(note, tmp_path / "order", word)
        again = first.submit(pid_and_threads)
    assert ours.result() == again.result() and ours.result() != theirs.result()
    assert ours.result()[0] != os.getpid() and ours.result()[1] == theirs.result()[1] == 1
    assert (tmp_path / "order").read_text() == "a\nb\nc\n"


def shown(text: str) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn(text, stacklevel=1)
    return len(caught)


def test_a_warning_that_the_first_process_gave_is_not_given_again():
    with lanes(1, said=["compiled loop"]) as (lane,):
        again, other = lane.submit(shown, "vqmm: the compiled loop was not built"), lane.submit(shown, "another matter")
    assert again.result() == 0 and other.result() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_when_one_fails_the_others_end_at_once(tmp_path):
    with pytest.raises(ValueError, match="as it was meant to"), lanes(2) as (first, second):
        first.submit(for_ever, tmp_path / "pid")
        second.submit(fail_when, tmp_path / "pid").result()
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_when_the_first_process_is_gone_so_are_the_others(tmp_path, signum):
    code = (
        "import signal\n"
        "from pathlib import Path; from vqmm.utils.lanes import lanes; from tests.utils.test_lanes import for_ever\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it\n"
        f"if __name__ == '__main__':\n    with lanes(1) as (one,):\n"
        f"        one.submit(for_ever, Path({str(tmp_path / 'pid')!r})).result()"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    begun = subprocess.Popen([sys.executable, str(script)], env=env, stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert begun.poll() is None
        time.sleep(0.05)
    begun.send_signal(signum)
    assert begun.wait(SECONDS) != 0
    assert gone(int((tmp_path / "pid").read_text()))
