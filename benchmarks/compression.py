"""How do compressed photographs compare with JPEG and WebP files of the same size?

    python -m vqmm.benchmarks.compression photos/ --name photos --run runs/compression --out benchmarks/results

Trains a residual quantizer on the folder's training pictures (the rule of `vqmm.data.source`: those whose key hashes
above the lowest tenth), then compresses every held-out one with `vqmm compress` to 1, 2, ... stages: one model, a curve
of rates. Beside each file stand JPEG and WebP: of all quality settings the one whose file is the largest that is not
larger. A picture that has no such setting is left out of that codec's means, and counted. Sizes are those of whole
files; PSNR is over RGB, of what is read back from them. Called again it goes on where it was stopped.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import PIL
import torch
from PIL import Image
from torch import Tensor

import vqmm
from vqmm.commands.compress import compress, decompress
from vqmm.data.source import Source
from vqmm.plugins.image.files import read_picture, to_pillow, to_tensor
from vqmm.plugins.image.metrics import psnr_db
from vqmm.utils.machine import machine

SETTINGS = (
    "modality.size=96",
    "modality.stride=8",
    "modality.width=96",
    "quantizer.stages=8",
    "train.batch_size=16",
)
CODECS: dict[str, tuple[str, range, dict[str, Any]]] = {  # Pillow's format, qualities, settings
    "jpeg": ("JPEG", range(1, 96), {"optimize": True, "progressive": True}),
    "webp": ("WEBP", range(101), {"method": 6}),
}
RULE = (
    "of all qualities the largest file that is not larger than vqmm's; JPEG 1 to 95, optimised; WebP 0 to 100, method 6"
)


def ladder(picture: Tensor, codec: str) -> list[tuple[int, int]]:
    """The size in bytes of a picture's file at every quality: (bytes, quality)."""
    return [(len(written(picture, codec, quality)), quality) for quality in CODECS[codec][1]]


def written(picture: Tensor, codec: str, quality: int) -> bytes:
    """uint8 (3, H, W) as the bytes of a file."""
    name, _, settings = CODECS[codec]
    file = io.BytesIO()
    to_pillow(picture).save(file, name, quality=quality, **settings)
    return file.getvalue()


def at_most(picture: Tensor, codec: str, rungs: Sequence[tuple[int, int]], limit: int) -> dict[str, Any] | None:
    """The codec's largest file of at most `limit` bytes; None where its smallest is larger."""
    fitting = [rung for rung in rungs if rung[0] <= limit]
    if not fitting:
        return None
    size, quality = max(fitting)
    with Image.open(io.BytesIO(written(picture, codec, quality))) as again:
        return {"quality": quality, "bytes": size, "psnr_db": psnr(to_tensor(again.convert("RGB")), picture)}


def psnr(output: Tensor, original: Tensor) -> float:
    """Of two pictures uint8 (3, H, W), in dB."""
    return float(psnr_db(output[None].double() / 255, original[None].double() / 255))


def measure(run: Path, file: Path, stages: int, ladders: dict[str, list[tuple[int, int]]]) -> dict[str, Any]:
    """One picture at one rate, through real files."""
    original = read_picture(file, 3)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        stats = compress(run, file, Path(folder) / "x.vqmm", stages=stages)
        middle = time.perf_counter()
        again = read_picture(Path(decompress(run, Path(folder) / "x.vqmm", Path(folder) / "y")["file"]), 3)
        seconds = {"compress": round(middle - start, 2), "decompress": round(time.perf_counter() - middle, 2)}
    others = {codec: at_most(original, codec, rungs, stats["bytes"]) for codec, rungs in ladders.items()}
    sizes = {"bytes": stats["bytes"], "nominal_bytes": stats["nominal_bits"] / 8, "codes": stats["codes"]}
    pixels = original.shape[1] * original.shape[2]
    return {"pixels": pixels, **sizes, "psnr_db": psnr(again, original), "seconds": seconds, **others}


def summary(pictures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The means over the pictures; for each codec over those that it can make small enough, and ours over the same."""
    means: dict[str, Any] = {
        "bits_per_pixel": mean(8 * each["bytes"] / each["pixels"] for each in pictures),
        "nominal_bits_per_pixel": mean(8 * each["nominal_bytes"] / each["pixels"] for each in pictures),
        "psnr_db": mean(each["psnr_db"] for each in pictures),
    }
    for codec in CODECS:
        fit = [each for each in pictures if each[codec] is not None]
        means[codec] = {"pictures": len(fit)}
        if fit:
            means[codec] |= {
                "bits_per_pixel": mean(8 * each[codec]["bytes"] / each["pixels"] for each in fit),
                "psnr_db": mean(each[codec]["psnr_db"] for each in fit),
                "vqmm_psnr_db": mean(each["psnr_db"] for each in fit),
            }
    return means


def plot(result: dict[str, Any], path: Path) -> None:
    """PSNR against the size of the files; a codec only where it can make every picture small enough."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.5, 4.5))
    count = len(result["test"])
    lines = {"vqmm": result["rows"]}
    lines |= {codec: [row[codec] for row in result["rows"] if row[codec]["pictures"] == count] for codec in CODECS}
    for name, line in lines.items():
        x, y = [each["bits_per_pixel"] for each in line], [each["psnr_db"] for each in line]
        axis.plot(x, y, marker=".", linewidth=2.5 if name == "vqmm" else 1, label=name)
    axis.set(xlabel="bits a pixel, whole files", ylabel="PSNR, dB")
    axis.set_title(f"{result['data']}: mean over {count} held-out pictures, {result['steps']:,} steps of training")
    axis.grid(True, alpha=0.3)
    axis.legend()
    figure.text(0.01, 0.01, f"vqmm {result['vqmm']}, {result['date']}; JPEG and WebP at no more bytes", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def bench(
    data: Path, name: str, run: Path, steps: int, settings: Sequence[str], out: Path, count: int | None = None
) -> Path:
    """Train, measure what is not measured yet, write JSON and plot. `count`: test only so many pictures."""
    trained = vqmm.train("image", data, run, "rvq", steps=steps, settings=settings, resume=run.exists())
    tokenizer = vqmm.Tokenizer.load(run)
    source = Source(tokenizer.modality, data)
    tested = [sample.key for sample in source.held_out()][:count]
    header = {"question": "compression", "data": name, "recipe": "rvq", "steps": steps, "settings": list(settings)}
    header |= {"weights": trained["weights"], "code_fingerprint": tokenizer.code_fingerprint(), "rule": RULE}
    header |= {"training_pictures": len(source.training()), "test": tested, "pillow": PIL.__version__}
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"compression-{name}.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    same = all(before.get(key) == header[key] for key in ("code_fingerprint", "test", "rule"))
    rows = before["rows"] if same else []
    if len(rows) < tokenizer.quantizer.stages:
        pictures = {key: read_picture(data / key, 3) for key in tested}
        ladders = {key: {codec: ladder(each, codec) for codec in CODECS} for key, each in pictures.items()}
    for stages in range(len(rows) + 1, tokenizer.quantizer.stages + 1):
        measured = {key: measure(run, data / key, stages, ladders[key]) for key in tested}
        rows.append({"stages": stages, **summary([*measured.values()]), "pictures": measured})
        file.write_text(json.dumps({**header, "rows": rows, **machine()}, indent=2) + "\n")
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "pictures"}), flush=True)
    plot(json.loads(file.read_text()), file.with_suffix(".png"))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of pictures")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument(
        "--run", type=Path, required=True, help="the folder of the run; trained further where it stopped"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--pictures", type=int, help="only the first so many test pictures")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(bench(args.data, args.name, args.run, args.steps, [*SETTINGS, *args.settings], args.out, args.pictures))


if __name__ == "__main__":
    main()
