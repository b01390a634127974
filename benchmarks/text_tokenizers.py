"""How much of a text comes back, at how many bits per character?

    python -m vqmm.benchmarks.text_tokenizers tinyshakespeare.txt --name tinyshakespeare --runs runs/text \\
        --bound 2.12 --set modality.unit=blocks --set modality.tail=0.1

A point `2x512` is a tokenizer whose codes span 2 ids each, of a codebook of 512; `4x1024x2` has two stages of codes,
and `subwords-2048` is no network but the lossless front, whose ids are the codes. Each is trained on one thread (called
again it goes on where it was stopped), evaluated on the held-out part, and timed: bytes of UTF-8 encoded a second.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import vqmm
from vqmm.commands.evaluate import trained_on
from vqmm.comparison.timing import train_seconds
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.source import Source, evaluation_samples
from vqmm.recipe import Train
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.machine import machine

POINTS = "2x512,2x128,4x1024,4x64,subwords-2048"
SETTINGS = ("train.batch_size=8",)
TURNS = 5  # of which the median counts
AT_ONCE = 32  # texts of a batch
MOST = 500_000  # bytes of a turn
SHOWN = (
    "bits_per_char",
    "entropy_bits_per_char",
    "char_accuracy",
    "line_accuracy",
    "bleu",
    "rouge_l",
    "codebook_usage",
)


def recipe_of(point: str) -> tuple[str, list[str]]:
    """A recipe, and the settings that make it this point."""
    if point.startswith("subwords-"):
        vocabulary = int(point.removeprefix("subwords-"))
        return "identity", ["modality.front=subwords", f"modality.vocabulary={vocabulary}", "train.batch_size=32"]
    stride, size, *stages = (int(number) for number in point.split("x"))
    chosen = [f"modality.stride={stride}", f"quantizer.codebook_size={size}", *SETTINGS]
    return ("rvq", [*chosen, f"quantizer.stages={stages[0]}"]) if stages else ("vqvae-ema", chosen)


def measure(point: str, data: Path, run: Path, steps: int, settings: Sequence[str], labels: bool) -> dict[str, Any]:
    """Train and evaluate one point; a row of the table."""
    recipe, overrides = recipe_of(point)
    resumed, start = run.exists(), time.process_time()
    trained = vqmm.train("text", data, run, recipe, steps=steps, settings=[*overrides, *settings], resume=resumed)
    cpu_seconds = None if resumed else round(time.process_time() - start, 1)  # of the thread, whoever else was busy
    plan = Train(**yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["train"])
    row = {"point": point, "recipe": recipe, "settings": overrides, "weights": trained["weights"]}
    row |= {"train_seconds": round(train_seconds(run, plan), 1) if trained["weights"] else 0.0}
    row |= {"train_cpu_seconds": cpu_seconds}
    evaluation = vqmm.eval(run, data, labels=labels)
    row |= {name: evaluation[name] for name in ("split", "count", "rules")} | evaluation["metrics"]
    return {**row, "encode_mb_per_second": encode_speed(Tokenizer.load(run), data, run)}


def encode_speed(tokenizer: Tokenizer, data: Path, run: Path) -> float:
    """10^6 bytes of UTF-8 a second, from text to codes, on one thread: the median of several turns."""
    batches = [*raw_batches(evaluation_samples(Source(tokenizer.modality, data), trained_on(run))[0])]
    size = sum(sample.numel() for batch in batches for sample in batch)
    turns = []
    for _ in range(TURNS):
        start = time.perf_counter()
        for batch in batches:
            tokenizer.encode(tokenizer.modality.collate(batch, [str(i) for i in range(len(batch))]))
        turns.append(time.perf_counter() - start)
    return size / statistics.median(turns) / 1e6


def raw_batches(samples: Sequence[Sample]) -> Iterator[list[Tensor]]:
    """UTF-8 as it was read, up to MOST bytes in all; texts of a like length side by side."""
    texts: list[Tensor] = []
    for sample in samples:
        try:
            texts.append(sample.read())
        except Unreadable:
            continue
        if sum(each.numel() for each in texts) >= MOST:
            break
    texts.sort(key=Tensor.numel)
    for start in range(0, len(texts), AT_ONCE):
        yield texts[start : start + AT_ONCE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a file or folder of texts")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--points", default=POINTS)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--bound", type=float, help="bits a character that a language model needs, to print beside")
    parser.add_argument("--labels", action="store_true", help="also whether labels survive")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for point in args.points.split(","):
        rows.append(measure(point, args.data, args.runs / point, args.steps, args.settings, args.labels))
        figures = " ".join(f"{name}={rows[-1][name]:.4g}" for name in SHOWN if rows[-1].get(name) is not None)
        print(f"{point:16} {rows[-1]['train_seconds']:.0f} s  {figures}", flush=True)
    result = {"question": "text_tokenizers", "data": args.name, "steps": args.steps, "settings": args.settings}
    if args.bound is not None:
        result["bound_bits_per_char"] = args.bound
        print(f"a language model needs {args.bound:g} bits a character, without loss: codes below that must lose some")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"text_tokenizers-{args.name}.json"
    rules = {name: rule for row in rows for name, rule in row.pop("rules").items()}
    file.write_text(json.dumps({**result, "rules": rules, "rows": rows, **machine()}, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
