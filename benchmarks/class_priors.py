"""Which prior makes what a class asks for, at what rate, and with what error behind it?

    python -m vqmm.benchmarks.class_priors image mnist/ --name mnist-64 --run runs/mnist --steps 9000 \\
        --set quantizer.codebook_size=64 --priors pixelcnn,pixelsnail,lstm,transformer --prior-steps 3000 --seeds 0,1,2

Trains a tokenizer, encodes its data, and trains every prior by class on the codes: a rate is never without the error of
the reconstructions that it is for. Of each prior's first seed samples are drawn by class, named by a frozen classifier,
and compared with the training codes. With `--bytes` also what test pictures take as files. On one thread; called again
it goes on where it was stopped.
"""

import argparse
import io
import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from PIL import Image as Pillow

import vqmm
from vqmm.comparison.timing import train_seconds
from vqmm.data.source import Source
from vqmm.evaluation.memorisation import memorisation
from vqmm.generation.generator import Generator
from vqmm.generation.sampling import Draw
from vqmm.plugins.image.files import to_pillow
from vqmm.recipe import Train
from vqmm.utils.files import write_text
from vqmm.utils.machine import machine

PICTURED = 8  # samples of each class in the picture
AS_FILES = 200  # test pictures that are written with `--bytes`
SAVINGS: dict[str, dict[str, Any]] = {"png": {"optimize": True}, "webp": {"lossless": True, "method": 6}}


def tokenized(args: argparse.Namespace) -> dict[str, Any]:
    """The tokenizer's own figures, behind every rate of its codes."""
    run, tokens = args.run / "tokenizer", args.run / "tokens"
    made = vqmm.train(
        args.modality, args.data, run, args.recipe, steps=args.steps, settings=args.settings, resume=run.exists()
    )
    vqmm.encode(run, args.data, tokens, augment=args.augment, resume=tokens.exists())
    evaluation = vqmm.eval(run, args.data)
    figures = {name: value for name, value in evaluation["metrics"].items() if value is not None}
    if args.modality == "image":
        figures["psnr_db_of_mean_error"] = -10 * math.log10(figures["mse"])
    seconds = train_seconds(run, Train(**yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["train"]))
    return {"recipe": args.recipe, "settings": args.settings, "weights": made["weights"], "seconds": seconds, **figures}


def evaluated(args: argparse.Namespace, run: Path, picture: Path) -> dict[str, Any]:
    """What a classifier makes of samples by class, and how near they are to the training codes."""
    generator, draw = Generator.load(run), Draw(guidance=args.guidance, temperature=args.temperature)
    report = vqmm.coherence(run, {args.modality: args.data}, count=args.count, draw=draw)
    labels = report["labels"]
    given = [{"label": labels[i % len(labels)]} for i in range(args.count)]
    codes = generator.codes(args.modality, given=given, draw=draw, seed=1)
    shown = [{"label": label} for label in labels for _ in range(PICTURED)]
    samples = generator.generate(args.modality, given=shown, draw=draw, seed=2)
    evaluation = generator.tokenizers[args.modality].modality.evaluation()
    seen = evaluation.show(*(samples[i::PICTURED] for i in range(PICTURED)))
    if isinstance(seen, str):
        write_text(picture.with_suffix(".html"), seen)
    else:
        seen.save(picture.with_suffix(".png"))
    interval = report["intervals"]["label"][args.modality]
    return {
        "agreement": report["coherence"]["label"][args.modality],
        "interval": interval,
        "control": report["control"]["label"][args.modality],
        "classifier": report["classifiers"][args.modality],
        **{k: v for k, v in memorisation(codes, args.run / "tokens").items() if k not in ("rules", "counts")},
    }


def file_sizes(args: argparse.Namespace, prior: Path) -> dict[str, float]:
    """Mean bytes of a test picture: as PNG and WebP; its codes as they are; vqmm's files without the prior and with it.

    Of the last also `vqmm_prior_codes`, without what the file says of itself, and `prior_rate`, the prior's own word.
    """
    run, folder = args.run / "tokenizer", args.run / "pictures"
    samples = Source(vqmm.Tokenizer.load(run).modality, args.data).held_out()[:AS_FILES]
    folder.mkdir(exist_ok=True)
    sizes: dict[str, list[float]] = {}
    for sample in samples:
        picture, file = to_pillow(sample.read()), folder / "picture.png"
        picture.save(file)
        file_bytes = {kind: encoded_size(picture, kind, how) for kind, how in SAVINGS.items()}
        plain, modelled = (vqmm.compress(run, file, folder / "p.vqmm", model=m, overwrite=True) for m in (None, prior))
        file_bytes |= {"codes": plain["nominal_bits"] / 8, "vqmm": plain["bytes"], "vqmm_prior": modelled["bytes"]}
        file_bytes |= {"prior_rate": modelled["model_bits"] / 8, "vqmm_prior_codes": modelled["code_bits"] / 8}
        for name, size in file_bytes.items():
            sizes.setdefault(name, []).append(size)
    return {"pictures": len(samples), **{name: fmean(each) for name, each in sizes.items()}}


def encoded_size(picture: Pillow.Image, kind: str, how: dict[str, Any]) -> int:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getbuffer().nbytes


def bench(args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"question": "class_priors", "data": args.name, "tokenizer": tokenized(args)}
    made = vqmm.compare_priors(
        args.run / "tokenizer",
        args.run / "tokens",
        args.priors,
        args.run / "priors",
        condition="label",
        steps=args.prior_steps,
        seeds=args.seeds,
        settings=args.prior_settings,
    )
    result["prior_settings"] = [f"train.steps={args.prior_steps}", *args.prior_settings]
    result["drawing"] = {"guidance": args.guidance, "temperature": args.temperature, "count": args.count}
    result["rows"], result["rules"] = made["rows"], made["rules"]
    for row in made["rows"]:
        runs = [run for run in row["runs"] if run["run"] and not run["error"]]
        if runs:
            first = args.run / "priors" / runs[0]["run"]
            row["samples"] = evaluated(args, first, args.out / f"class_priors-{args.name}-{row['recipe']}")
            if args.bytes:
                row["bytes_of_files"] = file_sizes(args, first)
            print(row["recipe"], json.dumps({k: row.get(k) for k in ("bits_per_sample", "samples", "bytes_of_files")}))
    return {**result, **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality")
    parser.add_argument("data", help="labelled samples")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--run", type=Path, required=True, help="the folder of all runs")
    parser.add_argument("--recipe", default="vqvae-ema")
    parser.add_argument("--steps", type=int, default=3000, help="of the tokenizer")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--augment", type=int, default=0, help="altered ones of each training sample")
    parser.add_argument("--priors", default="pixelcnn,pixelsnail,lstm,transformer")
    parser.add_argument("--prior-steps", type=int, default=3000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set-prior", dest="prior_settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--count", type=int, default=500, help="samples that the classifier sees")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--bytes", action="store_true", help="also what test pictures take as files")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    result = bench(args)
    file = args.out / f"class_priors-{args.name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
