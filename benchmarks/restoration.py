"""Does a tokenizer that was trained to undo a degradation beat the filters that people use?

    python -m vqmm.benchmarks.restoration cifar10_subset.npz --name cifar10 --steps 1500 --out benchmarks/results

Denoising against Gaussian and median filters, super-resolution against bicubic and Lanczos resampling, inpainting
against interpolation that is told which pixels are hidden (the tokenizer is not). Every method is given the same
degraded test pictures and evaluated by the same rule; what a filter leaves to choose is chosen on degraded training
pictures. Needs scipy, which scikit-learn brings.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.nn import functional as F

import vqmm
from vqmm.contracts.batch import Batch
from vqmm.contracts.modality import Modality
from vqmm.data.degrade import Degradation, Downsample, Mask, Noise
from vqmm.data.loader import Views, evaluation_batches
from vqmm.data.source import Source
from vqmm.utils.machine import machine

CHOSEN_ON = 500  # training pictures that the settings of a filter are chosen on
FINE = ("modality.stride=2", "modality.width=64")  # a 16 x 16 grid for 32 x 32 pixels
TASKS: dict[str, Degradation] = {"noise": Noise(), "downsample": Downsample(), "mask": Mask()}
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ae": ("ae", ()),
    "ae, stride 2": ("ae", FINE),
    "vqvae-ema": ("vqvae-ema", ()),
    "fsq, stride 2": ("fsq", (*FINE, "quantizer.levels=[8, 8, 8, 8]")),
    "rvq of 2 stages, stride 2": ("rvq", (*FINE, "quantizer.stages=2", "quantizer.dropout=0")),
}
Restore = Callable[[Batch], Tensor]


def filters(task: str) -> Mapping[str, Mapping[str, Restore]]:
    """What there is without learning: for each filter its settings, in words, to choose among."""
    if task == "noise":
        sigmas = [round(0.4 + 0.05 * i, 2) for i in range(17)]
        return {
            "gaussian filter": {f"sigma {s:g}": _gaussian(s) for s in sigmas},
            "median filter": {f"size {size}": _median(size) for size in (2, 3, 5)},
        }
    if task == "downsample":
        resampling = {"bicubic": Pillow.Resampling.BICUBIC, "lanczos": Pillow.Resampling.LANCZOS}
        return {
            "bicubic": {"torch, a -0.75": _torch_bicubic, "Pillow, a -0.5": _pillow(resampling["bicubic"])},
            "lanczos": {"Pillow": _pillow(resampling["lanczos"])},
        }
    return {
        "mean of the visible": {"each channel": _visible_mean},
        "interpolation": {method: _griddata(method) for method in ("nearest", "linear")},
    }


def _gaussian(sigma: float) -> Restore:
    from scipy.ndimage import gaussian_filter

    return lambda batch: torch.from_numpy(gaussian_filter(batch.x.numpy(), (0, 0, sigma, sigma)))


def _median(size: int) -> Restore:
    from scipy.ndimage import median_filter

    return lambda batch: torch.from_numpy(median_filter(batch.x.numpy(), (1, 1, size, size)))


def small(x: Tensor, factor: int = 2) -> Tensor:
    """The low-resolution pictures that were enlarged by repetition."""
    return x[..., ::factor, ::factor].contiguous()


def _torch_bicubic(batch: Batch) -> Tensor:
    return F.interpolate(small(batch.x), size=batch.x.shape[2:], mode="bicubic", align_corners=False)


def _pillow(method: Pillow.Resampling) -> Restore:
    def restore(batch: Batch) -> Tensor:
        size = (batch.x.shape[3], batch.x.shape[2])
        planes = [Pillow.fromarray(p).resize(size, method) for p in small(batch.x).flatten(0, 1).numpy()]
        return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).reshape(batch.x.shape)

    return restore


def hidden(batch: Batch) -> Tensor:
    """bool (B, 1, H, W): the pixels that a mask has set to 0, which no pixel of 8 bits is on [-1, 1]."""
    return (batch.x == 0).all(dim=1, keepdim=True)


def _visible_mean(batch: Batch) -> Tensor:
    away = hidden(batch)
    mean = batch.x.sum(dim=(2, 3), keepdim=True) / (~away).sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return torch.where(away, mean, batch.x)


def _griddata(method: str) -> Restore:
    from scipy.interpolate import griddata

    def restore(batch: Batch) -> Tensor:
        x = batch.x.clone()
        for picture, away in zip(x, hidden(batch)[:, 0], strict=True):
            visible, wanted = (~away).nonzero().numpy(), away.nonzero().numpy()
            values = picture[:, ~away].T.numpy()
            interpolated = griddata(visible, values, wanted, method="nearest")
            if method != "nearest":  # which fills what lies outside the hull of the visible pixels
                inner = griddata(visible, values, wanted, method=method)
                interpolated = np.where(np.isnan(inner), interpolated, inner)
            picture[:, away] = torch.from_numpy(interpolated).float().T
        return x

    return restore


def evaluated(modality: Modality, batches: Sequence[Batch], restore: Restore) -> dict[str, float]:
    """PSNR and SSIM of what a method gives, by the modality's own rules."""
    metrics = {name: metric for name, metric in modality.evaluation().metrics().items() if name in ("psnr_db", "ssim")}
    for batch in batches:
        output = restore(batch).clamp(-1, 1)
        for metric in metrics.values():
            metric.update(output, batch.target_or_x)
    return {name: round(float(metric.accumulator.compute()), 4) for name, metric in metrics.items()}


def pictures(source: Source, modality: Modality, degrade: Degradation, training: bool) -> list[Batch]:
    """Degraded pictures beside their clean ones: all of the test split, or some to choose by."""
    samples = source.training() if training else source.held_out()
    views = Views(modality, samples, {}, degrade=degrade)
    return [batch for batch, _ in evaluation_batches(views, 100, CHOSEN_ON if training else None) if batch is not None]


def filtered(task: str, modality: Modality, choice: list[Batch], test: list[Batch]) -> Iterator[dict[str, Any]]:
    """A row for the degraded pictures as they are, and one for each filter at its best setting."""
    yield {"task": task, "method": "nothing", **evaluated(modality, test, lambda batch: batch.x)}
    for name, settings in filters(task).items():
        scores = {said: evaluated(modality, choice, restore)["psnr_db"] for said, restore in settings.items()}
        best = max(scores, key=lambda said: scores[said])
        row = {"task": task, "method": name, "setting": best, **evaluated(modality, test, settings[best])}
        yield {**row, "chosen_by_psnr_db": scores}


def learnt(
    task: str, name: str, data: str, steps: int, folder: Path, test: list[Batch], settings: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Train a recipe to undo the degradation, and evaluate it on the test pictures."""
    recipe, overrides = RECIPES[name]
    settings = [f"train.degrade={task}", f"train.evaluate_every={steps}", *overrides, *settings]
    start = time.perf_counter()
    trained = vqmm.train("image", data, folder, recipe, steps=steps, settings=settings)
    seconds = round(time.perf_counter() - start, 1)
    tokenizer = vqmm.Tokenizer.load(folder)

    def restore(batch: Batch) -> Tensor:
        return torch.stack(tokenizer.reconstruct(batch.to(tokenizer.device))[0]).cpu()

    rate = trained["metrics"]["bits_per_pixel"]
    row = {
        "task": task,
        "method": name,
        "recipe": recipe,
        "settings": [*overrides],
        "steps": steps,
        "bits_per_pixel": rate,
    }
    row |= {"weights": trained["weights"], "train_seconds": seconds}
    yield {**row, **evaluated(tokenizer.modality, test, restore)}
    if task == "mask":

        def kept(batch: Batch) -> Tensor:
            return torch.where(hidden(batch), restore(batch), batch.x)

        yield {**row, "method": f"{name}, visible pixels kept", **evaluated(tokenizer.modality, test, kept)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--recipes", default=";".join(RECIPES), help="several with ; between them")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    modality: Modality = vqmm.Registry.discover().part("modality", {"name": "image"})[0]()
    source = Source(modality, args.data)
    rows: list[dict[str, Any]] = []
    degraded = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks.split(","):
            choice, test = (pictures(source, modality, TASKS[task], training) for training in (True, False))
            degraded[task] = {**TASKS[task].model_dump(mode="json"), "count": sum(map(len, test))}
            evaluations: list[Iterator[dict[str, Any]]] = [filtered(task, modality, choice, test)]
            for name in filter(None, args.recipes.split(";")):
                out = Path(folder) / f"{task}-{len(evaluations)}"
                evaluations.append(learnt(task, name, args.data, args.steps, out, test, args.settings))
            for row in (row for each in evaluations for row in each):
                rows.append(row)
                print(json.dumps(row), flush=True)
    view, metrics = modality.evaluation().view, modality.evaluation().metrics()
    rules = {name: metric.rule for name, metric in metrics.items() if name in ("psnr_db", "ssim")}
    result = {"question": "restoration", "data": args.name, "view": view, "degraded": degraded, "rules": rules}
    result |= {"settings": args.settings, "rows": rows, "scipy": version("scipy"), "pillow": version("pillow")}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"restoration-{args.name}-{args.steps}.json"
    file.write_text(json.dumps({**result, **machine()}, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
