"""Does a run that is killed again and again end with the weights of one that was left alone?

    python -m vqmm.benchmarks.kill_and_resume --kills 20 --devices 1

Starts a run of the built-in digits, sends SIGKILL to all of its processes at random moments, resumes it each time, and
compares the weights at its end, bit for bit, with those of an undisturbed run.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.checkpoint import checkpoints
from vqmm.utils.machine import machine

SETTINGS = (
    *("modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "train.batch_size=16"),
    *("train.checkpoint_every=20", "train.evaluate_every=100", "train.evaluate_samples=64", "train.device=cpu"),
)


def command(out: Path, steps: int, devices: int) -> list[str]:
    words = [sys.executable, "-m", "vqmm", "train", "image", "--data", "builtin:digits", "--out", str(out)]
    settings = (*SETTINGS, f"train.devices={devices}")
    return [*words, "--steps", str(steps), *(word for setting in settings for word in ("--set", setting))]


def kill_once(words: list[str], out: Path, moment: random.Random) -> bool:
    """Start or resume the run and kill it; False where it had ended before that."""
    before = checkpoints(out / "checkpoints")
    resume = ["--resume"] if (out / "recipe.yaml").is_file() else []
    run = subprocess.Popen(
        [*words, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    patience = 1 + moment.randrange(3)  # checkpoints that it may write first; then any moment
    while run.poll() is None and len(set(checkpoints(out / "checkpoints")) - set(before)) < patience:
        time.sleep(0.005)
    time.sleep(moment.random() * 0.3)
    alive = run.poll() is None
    os.killpg(run.pid, signal.SIGKILL) if alive else None
    run.wait()
    return alive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    moment, kills = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        while kills < args.kills and kill_once(command(killed, args.steps, args.devices), killed, moment):
            kills += 1
            print(f"killed {kills} times, last checkpoint {checkpoints(killed / 'checkpoints')[-1].name}", flush=True)
        for words in (
            [*command(killed, args.steps, args.devices), "--resume"],
            command(whole, args.steps, args.devices),
        ):
            subprocess.run(words, check=True, capture_output=True)
        same = Tokenizer.load(killed).fingerprint() == Tokenizer.load(whole).fingerprint()
    result = {"question": "kill_and_resume", "kills": kills, "devices": args.devices, "same_bits": same, **machine()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"kill_and_resume-{args.devices}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(result)


if __name__ == "__main__":
    main()
