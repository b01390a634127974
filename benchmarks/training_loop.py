"""What does the training loop cost beside a plain one?

    python -m vqmm.benchmarks.training_loop cifar10_subset.npz --out benchmarks/results

Both train the same network on the same pictures on one thread. The plain loop is what one would write by hand: pictures
in one tensor, a random batch, forward, backward, clip, AdamW, the quantizer's update. The two take turns, a few steps
each, so that a machine whose speed drifts slows both; the figure is the median of the ratios of neighbouring turns.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vqmm.recipe import read_recipe
from vqmm.registry import Registry
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.run import Job, Run, prepare
from vqmm.training.setup import make_fabric
from vqmm.utils.machine import machine


def run_of(data: str, folder: Path) -> Run:
    """A run as `vqmm train` makes it, not yet started."""
    registry = Registry.discover()
    recipe = read_recipe("vqvae-ema", registry, "image", ["train.device=cpu"])
    return prepare(make_fabric(recipe.train), Job(recipe, data, folder, command="", quiet=True), registry)


def plain_loop(run: Run) -> Callable[[], None]:
    """One step of a loop written by hand, on the network of `run`."""
    tokenizer, plan = run.model, run.recipe.train
    assert isinstance(tokenizer, Tokenizer)  # vqvae-ema
    network: Any = tokenizer.decoder.network
    x = torch.stack(list(run.data.training.values())).float() / 127.5 - 1
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99))
    tokenizer.quantizer.initialise(tokenizer.encoder(x[:256]).detach())
    tokenizer.train()

    def step() -> None:
        batch = x[torch.randint(len(x), (plan.batch_size,))]
        batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch, batch.flip(-1))
        quantized = tokenizer.quantizer(tokenizer.encoder(batch))
        output = network(quantized.vectors)
        loss = torch.nn.functional.mse_loss(output, batch) + sum(quantized.losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), plan.clip)
        optimizer.step()
        tokenizer.quantizer.after_step(lambda value: value, 0.5)

    return step


def seconds(step: Callable[[], object], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--steps", type=int, default=20, help="of each loop in each turn")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(args.data, Path(folder) / "run")
        run.loop.start_from_data()
        plain = plain_loop(run_of(args.data, Path(folder) / "plain"))
        seconds(plain, args.steps), seconds(run.loop.train_step, args.steps)  # both warm
        turns = [(seconds(plain, args.steps), seconds(run.loop.train_step, args.steps)) for _ in range(args.turns)]
    ratio = median(by_hand / ours for by_hand, ours in turns)
    speed = {
        name: args.steps / median(times)
        for name, times in zip(("plain", "vqmm"), zip(*turns, strict=True), strict=True)
    }
    result = {
        "question": "training_loop",
        "speed_beside_plain": ratio,
        "steps_per_second": speed,
        "turns": turns,
        **machine(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "training_loop.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"speed beside a plain loop: {ratio:.3f}; steps a second {speed}")


if __name__ == "__main__":
    main()
