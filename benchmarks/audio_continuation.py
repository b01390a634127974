"""How does a prior go on with a sound of which it hears the beginning?

    python -m vqmm.benchmarks.audio_continuation runs/any/prior fsdd.tar.bz2 --name fsdd --show continued.html

Takes a trained prior that speaks audio (one of `any_to_any`, say) and labelled sounds. Of each unseen sound the first
share of its codes is kept and the rest is drawn. A frozen classifier, fitted to real training sounds, names the
results; as sets they are compared with the originals. Beside them stand what the codes alone can keep, the beginnings
without more, and real training sounds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.contracts.sample import Sample
from vqmm.data.source import Source
from vqmm.evaluation.coherence import EVALUATED, read_items
from vqmm.evaluation.distances import frechet_distance
from vqmm.evaluation.labels import wilson_interval
from vqmm.generation.generator import Generator
from vqmm.generation.sampling import Draw
from vqmm.utils.files import write_text
from vqmm.utils.machine import machine

SHOWN = 8
RULES = {
    "agreement": "share that a frozen classifier gives the original's label, with a 95% interval (Wilson)",
    "frechet_distance": "between Gaussians fitted to features of the originals and of these",
    "seconds": "mean length",
}


def evenly(samples: Sequence[Sample], most: int) -> list[Sample]:
    return [samples[i * len(samples) // min(most, len(samples))] for i in range(min(most, len(samples)))]


def bench(args: argparse.Namespace) -> dict[str, Any]:
    generator = Generator.load(args.prior)
    modality = generator.tokenizers["audio"].modality
    source = Source(modality, args.data)
    labels = list(source.labels)
    training = read_items(modality, source.training(), labels, [])
    held_out = read_items(modality, evenly(source.held_out(), min(args.count, EVALUATED)), labels, [])
    evaluation = modality.evaluation()
    classifier, features = evaluation.label_classifier(), evaluation.features()
    assert classifier is not None and features is not None  # sounds have both
    classifier.fit([sample for sample, _ in training], [label for _, label in training])
    originals, goals = [sample for sample, _ in held_out], [label for _, label in held_out]
    expected = features.features(originals)

    def row(name: str, sounds: Sequence[Tensor]) -> dict[str, Any]:
        right = sum(a == b for a, b in zip(classifier.predict(sounds), goals, strict=True))
        metrics = {"agreement": right / len(goals), "interval": wilson_interval(right, len(goals))}
        metrics |= {"frechet_distance": frechet_distance(expected, features.features(sounds))}
        return {"sounds": name, **metrics, "seconds": sum(map(evaluation.size_in_units, sounds)) / len(sounds)}

    codes = [generator.maps("audio", sound) for sound in originals]
    wholes = [generator.decode("audio", each) for each in codes]
    starts = [
        generator.decode("audio", tuple(m[..., : max(round(args.keep * m.shape[-1]), 1)] for m in each))
        for each in codes
    ]
    draw = Draw(temperature=args.temperature)
    made = [
        generator.generate("audio", known=generator.known("audio", sound, args.keep), draw=draw, first=place)[0]
        for place, sound in enumerate(originals)
    ]
    rows = [row("originals", originals), row("reconstructions", wholes)]
    rows += [row("beginnings alone", starts), row("beginnings gone on with", made)]
    others = [sound for sound, _ in training[:: max(len(training) // len(originals), 1)]]
    real = {"sounds": "training sounds", "frechet_distance": frechet_distance(expected, features.features(others))}
    if args.show is not None:
        columns = [side[:: max(len(made) // SHOWN, 1)][:SHOWN] for side in (originals, starts, made)]
        write_text(args.show, str(evaluation.show(*columns, names=("original", "beginning", "gone on with"))))
    result = {"question": "audio_continuation", "data": args.name, "keep": args.keep, "temperature": args.temperature}
    rules = {**RULES, "classifier": classifier.rule, "features": features.rule}
    return {**result, "count": len(goals), "rules": rules, "rows": [*rows, real], **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", type=Path, help="the run of a prior that speaks audio")
    parser.add_argument("data", help="labelled sounds")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--keep", type=float, default=0.5, help="the share of a sound's codes that it hears")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--show", type=Path, help="a page of some of them, with players")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = bench(args)
    for row in result["rows"]:
        print(json.dumps(row))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"audio_continuation-{args.name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
