"""How good are sound tokenizers, stage by stage and kind by kind, beside Opus and a codec without a network?

    python -m vqmm.benchmarks.sound_tokenizers fsdd.tar.bz2 --name fsdd --run runs/fsdd --steps 12000 \\
        --set modality.sample_rate_hz=8000 --set modality.stride=80 --set 'modality.test=_[0-4]\\.wav$'

Trains `rvq` with eight stages on one thread (called again it goes on where it was stopped), then evaluates it with its
first 1, 2, 4 and 8 stages, and the baselines of the modality beside it, on the same held-out files: all of them, and
with `--kinds` those of each top folder of their keys by themselves.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import vqmm
from vqmm.commands.evaluate import trained_on
from vqmm.comparison.timing import train_seconds
from vqmm.contracts.baseline import Baseline
from vqmm.contracts.evaluation import Evaluation
from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Sample
from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.source import Source, evaluation_samples
from vqmm.evaluation.evaluate import alike, evaluate, figure, originals_of
from vqmm.recipe import Train
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.machine import machine

SETTINGS = ("quantizer.stages=8", "quantizer.dropout=0.25", "modality.loudness=peak", "train.batch_size=8")
STAGES = (1, 2, 4, 8)


def kinds_of(samples: Sequence[Sample], apart: bool) -> dict[str, list[Sample]]:
    """All samples, and those of each top folder of their keys."""
    kinds = {"all": [*samples]}
    if apart:
        for sample in samples:
            kinds.setdefault(sample.key.split("/")[0], []).append(sample)
    return kinds


def tokenizer_row(tokenizer: Tokenizer, samples: Sequence[Sample], stages: int) -> dict[str, Any]:
    """The figures of the first so many stages."""
    evaluation = evaluate(tokenizer, evaluation_batches(Views(tokenizer.modality, samples, {}), 32), stages=stages)
    uses = [round(stage["use"], 4) for stage in evaluation.stages]
    return {
        "method": f"vqmm, {stages} of {tokenizer.quantizer.stages} stages",
        **evaluation.metrics,
        "use_of_stages": uses,
    }


def baseline_row(evaluation: Evaluation, baseline: Baseline, originals: Sequence[Tensor]) -> dict[str, Any]:
    """The same figures of a baseline that has been fitted."""
    outputs, bits = baseline.reconstruct(originals)
    metrics = evaluation.metrics()
    for some_outputs, some_originals in alike(outputs, [*originals]):
        for metric in metrics.values():
            metric.update(some_outputs, some_originals)
    rate = bits / sum(map(evaluation.size_in_units, originals))
    figures = {name: figure(metric)[0] for name, metric in metrics.items()}
    return {"method": baseline.label(rate), f"bits_per_{evaluation.rate_unit}": rate, **figures}


def views_of(modality: Modality, samples: Sequence[Sample]) -> list[Tensor]:
    batches = evaluation_batches(Views(modality, samples, {}), 1)
    return [originals_of(batch)[0] for batch, _ in batches if batch is not None]


def bench(data: Path, name: str, run: Path, steps: int, settings: Sequence[str], kinds: bool) -> dict[str, Any]:
    trained = vqmm.train("audio", data, run, "rvq", steps=steps, settings=settings, resume=run.exists())
    tokenizer = Tokenizer.load(run)
    modality = tokenizer.modality
    source = Source(modality, data)
    held_out, split = evaluation_samples(source, trained_on(run))
    result: dict[str, Any] = {
        "question": "sound_tokenizers",
        "data": name,
        "recipe": "rvq",
        "steps": steps,
        "settings": [*settings],
    }
    plan = Train(**yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["train"])
    result |= {"weights": trained["weights"], "train_seconds": round(train_seconds(run, plan), 1), "split": split}
    result |= {"code_fingerprint": tokenizer.code_fingerprint(), "rules": {}, "kinds": {}}
    groups = kinds_of(held_out, kinds)
    for kind, samples in groups.items():
        rows = [tokenizer_row(tokenizer, samples, stages) for stages in STAGES if stages <= tokenizer.quantizer.stages]
        result["kinds"][kind] = {"files": len(samples), "rows": rows}
    training = views_of(modality, source.training())
    evaluation = modality.evaluation()
    for baseline in evaluation.baselines():
        baseline.fit(iter(training))
        for kind, samples in groups.items():
            result["kinds"][kind]["rows"].append(baseline_row(evaluation, baseline, views_of(modality, samples)))
    result["rules"] = {name: metric.rule for name, metric in evaluation.metrics().items()}
    return {**result, **machine()}


def table(result: dict[str, Any]) -> str:
    """The rows for the eye."""
    names = ("bits_per_second", "stoi", "pesq", "si_sdr_db", "mel_distance", "stft_distance")
    lines = [f"{'kind':12} {'method':24} " + " ".join(f"{name:>15}" for name in names)]
    for kind, group in result["kinds"].items():
        for row in group["rows"]:
            cells = " ".join(f"{row[name]:15.4g}" if row.get(name) is not None else f"{'-':>15}" for name in names)
            lines.append(f"{kind:12} {row['method']:24} {cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder, list or archive of sound files")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--run", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--kinds", action="store_true", help="also each top folder by itself")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = bench(args.data, args.name, args.run, args.steps, [*SETTINGS, *args.settings], args.kinds)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"sound_tokenizers-{args.name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    print(file)


if __name__ == "__main__":
    main()
