"""Does one prior over pictures, sounds and words know which belong together?

    python -m vqmm.benchmarks.any_to_any --name digits --image mnist/ --audio fsdd.tar.bz2 --text builtin:names \\
        --runs runs/any --steps 6000 --set-audio 'modality.label=/([0-9])_' --set-audio 'modality.test=_[0-4]\\.wav$'

Trains a tokenizer for each (text is not quantized), encodes all three, trains one transformer over their tokens paired
by label, and counts coherence on held-out items. On one thread; called again it goes on where it was stopped.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import vqmm
from vqmm.utils.machine import machine

RECIPES = {"image": "vqvae-ema", "audio": "rvq", "text": "identity"}
SETTINGS: dict[str, tuple[str, ...]] = {
    "image": (
        "modality.size=28",
        "modality.channels=1",
        "modality.flip=false",
        "modality.width=64",
        "quantizer.codebook_size=64",
        "quantizer.dim=16",
    ),
    "audio": (  # few codes, and none of them for phases
        "modality.sample_rate_hz=8000",
        "modality.loudness=peak",
        "modality.seconds=0.64",
        "modality.stride=320",
        "modality.window=2",
        "modality.waveform_weight=0",
        "modality.speed=0.1",
        "quantizer.stages=2",
        "quantizer.codebook_size=128",
        "train.batch_size=8",
    ),
    "text": ("modality.front=subwords", "modality.vocabulary=300"),
    "prior": (
        "token_dropout=0.15",
        "longest=32",
        "prior.width=128",
        "prior.depth=4",
        "train.batch_size=16",
        "train.learning_rate=2e-3",
        "train.patience=null",
        "train.evaluate_every=2000",
    ),
}


def tokenized(name: str, data: str, folder: Path, steps: int, settings: Sequence[str], views: int) -> dict[str, Any]:
    """Train a tokenizer and encode its data, or what of that is left to do."""
    run, tokens = folder / name, folder / f"{name}-tokens"
    chosen = [*SETTINGS[name], *settings]
    with counted(folder, name):
        trained = vqmm.train(name, data, run, RECIPES[name], steps=steps, settings=chosen, resume=run.exists())
        vqmm.encode(run, data, tokens, augment=views, resume=tokens.exists())
    metrics = {metric: value for metric, value in trained["metrics"].items() if value is not None}
    return {
        "settings": chosen,
        "views": views,
        "weights": trained["weights"],
        "cpu_seconds": spent(folder)[name],
        **metrics,
    }


@contextmanager
def counted(folder: Path, name: str) -> Iterator[None]:
    """Add the processor time of what is done inside to that of earlier calls: a run may take several."""
    start = time.process_time()
    try:
        yield
    finally:
        seconds = spent(folder)
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - start
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu_seconds.json").write_text(json.dumps(seconds, indent=2) + "\n")


def spent(folder: Path) -> dict[str, float]:
    file = folder / "cpu_seconds.json"
    return json.loads(file.read_text()) if file.exists() else {}


def bench(args: argparse.Namespace, data: Mapping[str, str]) -> dict[str, Any]:
    overrides = {name: getattr(args, f"set_{name}") for name in SETTINGS}
    steps = {"image": args.image_steps, "audio": args.audio_steps, "text": 1}
    result: dict[str, Any] = {"question": "any_to_any", "name": args.name, "steps": args.steps}
    views = {"image": args.image_views, "audio": args.audio_views, "text": 0}
    result["tokenizers"] = {
        name: tokenized(name, data[name], args.runs, steps[name], overrides[name], views[name]) for name in data
    }
    prior = args.runs / "prior"
    chosen = [*SETTINGS["prior"], *overrides["prior"]]
    with counted(args.runs, "prior"):
        trained = vqmm.train_prior(
            [args.runs / name for name in data],
            prior,
            tokens=[args.runs / f"{name}-tokens" for name in data],
            steps=args.steps,
            settings=chosen,
            resume=prior.exists(),
        )
    kept = ("weights", "context", "examples", "best", "modalities")
    result["prior"] = {"settings": chosen, "cpu_seconds": spent(args.runs)["prior"]} | {k: trained[k] for k in kept}
    result["coherence"] = {}
    for guidance in args.guidance:
        report = vqmm.coherence(prior, data, count=args.count, draw=vqmm.Draw(guidance=guidance))
        result["coherence"][f"guidance {guidance:g}"] = {k: v for k, v in report.items() if k not in ("run", "data")}
    return {**result, **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the result's name")
    parser.add_argument("--image", required=True, help="labelled pictures")
    parser.add_argument("--audio", required=True, help="labelled sounds")
    parser.add_argument("--text", default="builtin:names", help="labelled texts")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--image-steps", type=int, default=3000)
    parser.add_argument("--audio-steps", type=int, default=3000)
    parser.add_argument("--image-views", type=int, default=0, help="altered ones of each training sample")
    parser.add_argument("--audio-views", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6000, help="of the prior")
    parser.add_argument("--count", type=int, default=200, help="samples of each cell")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    for name in SETTINGS:
        parser.add_argument(f"--set-{name}", action="append", default=[], metavar="PART.OPTION=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = bench(args, {name: getattr(args, name) for name in RECIPES})
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"any_to_any-{args.name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    for how, report in result["coherence"].items():
        print(how)
        for source, row in report["coherence"].items():
            print(f"  {source:8}", *(f"{other} {share:.1%}" for other, share in row.items()))
    print(file)


if __name__ == "__main__":
    main()
