"""How much faster is sampling from a prior with what it keeps of the past than computing all anew for every code?

    python -m vqmm.benchmarks.prior_sampling --out benchmarks/results

Untrained priors of their default sizes draw maps of 32 x 32 codes of 512, by class, on one thread. "Kept" is
`vqmm.generation.sampling.sample`. "Anew" makes the features of the sequence so far for every code, scores those of the
last one and draws; it is timed at some codes spread evenly over the map, and their mean counts for all. Before anything
is timed the scores of both ways are compared.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from vqmm.contracts.prior import Prior
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.generation.prompts import LABEL
from vqmm.generation.sampling import Draw, sample
from vqmm.registry import Registry
from vqmm.utils.machine import machine

PRIORS = ("pixelcnn", "pixelsnail", "lstm", "transformer")
BATCHES = (1, 16)
CLOSE = 1e-4  # how far scores of the two ways may lie apart
CHECKED = 70  # ids: a class, and two rows of a map


def vocabulary_of(side: int, codes: int) -> Vocabulary:
    """Ten classes, and maps of side x side codes."""
    return Vocabulary().add(LABEL, [[10]], grids=[[1]]).add("image", [[codes]], grids=[[side, side]])


def prior_of(name: str, vocabulary: Vocabulary, **options: Any) -> Prior:
    made, checked = Registry.discover().part("prior", {"name": name, **options})
    torch.manual_seed(0)
    prior: Prior = made(vocabulary, vocabulary.longest, checked)
    return prior.eval().requires_grad_(False)


def sequences(vocabulary: Vocabulary, count: int) -> Tensor:
    """int64 (count, L): the class 3, then a random map."""
    image, label = vocabulary["image"], vocabulary[LABEL]
    (grid,), ((size,),) = image.layout.grids, image.sizes
    drawn = torch.randint(size, (count, 1, *grid), generator=torch.Generator().manual_seed(0))
    return torch.cat([label.join([torch.full((count, 1, 1), 3)]), image.join([drawn])], dim=1)


@torch.inference_mode()
def check(prior: Prior) -> float:
    """How far the scores of steps lie from those of the whole. Raises where it is too far."""
    ids = sequences(prior.vocabulary, 2)[:, :CHECKED]
    places = prior.grammar.places(ids)
    state = prior.start(len(ids), ids.shape[1])
    steps = [prior.step(ids[:, i : i + 1], places[:, i : i + 1], state) for i in range(ids.shape[1])]
    far = float((prior.score(torch.cat(steps, dim=1)) - prior.score(prior.features(ids, places))).abs().max())
    if not far < CLOSE:
        raise RuntimeError(f"{prior.name}: scores of steps are {far:.2g} away from the whole's")
    return far


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Processor time, the median of some runs: what others do on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return median(times)


def anew(prior: Prior, ids: Tensor) -> Tensor:
    """One code for each sequence, drawn from features of all that came before."""
    image = prior.vocabulary["image"]
    with torch.inference_mode():
        features = prior.features(ids, prior.grammar.places(ids))[:, -1]
        return Draw().pick(prior.score(features, image.end + 1, image.stop), torch.rand(len(ids)))


def measured(prior: Prior, batch: int, parts: int, repeats: int) -> dict[str, Any]:
    """Seconds for `batch` maps both ways."""
    image = prior.vocabulary["image"]
    ids = sequences(prior.vocabulary, batch)
    count, first = len(image.layout), ids.shape[1] - len(image.layout) - 1
    kept = seconds(lambda: sample(prior, "image", batch, given=ids[0, : first - 1]), repeats)
    places = [first + (2 * part + 1) * count // (2 * parts) for part in range(parts)]
    each = [seconds(lambda end=end: anew(prior, ids[:, :end]), 1) for end in places]  # type: ignore[misc]
    total = sum(each) / parts * count
    return {
        "batch": batch,
        "kept_seconds": kept,
        "anew_seconds": total,
        "anew_codes_timed": parts,
        "times": total / kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--codes", type=int, default=512, help="of the codebook")
    parser.add_argument("--parts", type=int, default=4, help="codes at which computing anew is timed")
    parser.add_argument("--repeats", type=int, default=3, help="of sampling with what is kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary = vocabulary_of(args.side, args.codes)
    rows = []
    for name in PRIORS:
        prior = prior_of(name, vocabulary)
        far, weights = check(prior), sum(p.numel() for p in prior.parameters())
        for batch in BATCHES:
            timing = measured(prior, batch, args.parts, args.repeats)
            rows.append({"prior": name, "weights": weights, "furthest_scores": far, **timing})
            print(
                f"{name}, {weights:,} weights, batch {batch}: {timing['kept_seconds']:.2f} s kept, "
                f"{timing['anew_seconds']:.0f} s anew: {timing['times']:.0f} times",
                flush=True,
            )
    result = {
        "question": "prior_sampling",
        "map": [args.side, args.side],
        "codes": args.codes,
        "rule": "processor time of one thread; anew: mean of the codes that were timed, spread evenly, times all codes",
        "rows": rows,
        **machine(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "prior_sampling.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
