"""How many times faster than real time are the audio networks, beside EnCodec's at the same size and rate?

    python -m vqmm.benchmarks.audio_speed --out benchmarks/results

EnCodec's 24 kHz network (Défossez et al. 2022, arXiv 2210.13438, section 3.1: strides 2, 4, 5, 8, widths 32 to 512, one
residual unit a level, two LSTM layers, causal) is rebuilt from this project's own layers, untrained: what is measured
is time. The spectral networks get the width that comes nearest to as many weights. Each encodes to eight stages of
1,024 codes, 75 times a second, and decodes again, on one thread; turns alternate, and medians are reported.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

import vqmm
from vqmm.contracts.batch import Codes
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.machine import machine

RATE_HZ, STRIDES = 24_000, (2, 4, 5, 8)
DIM = 128
QUANTIZER = {"name": "residual", "dim": DIM, "stages": 8, "codebook_size": 1024}
SHARED = {"name": "audio", "sample_rate_hz": RATE_HZ, "stride": STRIDES}
ENCODEC = {**SHARED, "network": "waveform", "width": 512, "blocks": 1, "causal": True, "bottleneck": "lstm"}


def build(options: dict[str, Any]) -> Tokenizer:
    """An untrained tokenizer whose codebooks are drawn from latents, frozen."""
    registry = vqmm.Registry.discover()
    made, parsed = registry.part("modality", options)
    config = {"quantizer": QUANTIZER, "decoder": {"name": "direct"}}
    torch.manual_seed(0)
    tokenizer = Tokenizer.build(config, made(parsed), registry)
    with torch.no_grad():
        tokenizer.quantizer.initialise(tokenizer.latents(sound(tokenizer, 20.0))[0])
    return tokenizer.freeze()


def weights(tokenizer: Tokenizer) -> int:
    """Of both networks."""
    return sum(p.numel() for part in (tokenizer.encoder, tokenizer.decoder) for p in part.parameters())


def as_large(options: dict[str, Any], wanted: int) -> dict[str, Any]:
    """The options with the width, a multiple of 16, that comes nearest to so many weights."""
    registry = vqmm.Registry.discover()

    def off(width: int) -> int:
        made, parsed = registry.part("modality", {**options, "width": width})
        modality = made(parsed)
        parts = (modality.build_encoder(DIM), modality.build_decoder(DIM))
        return abs(sum(p.numel() for part in parts for p in part.parameters()) - wanted)

    return {**options, "width": min(range(64, 2048, 16), key=off)}


def sound(tokenizer: Tokenizer, seconds: float) -> vqmm.Batch:
    noise = torch.randn(1, round(seconds * RATE_HZ), generator=torch.Generator().manual_seed(0)) / 4
    return tokenizer.modality.collate([noise], ["noise"])


def bench(seconds: float, rounds: int) -> dict[str, Any]:
    tokenizers = {"EnCodec's layers": build(ENCODEC)}
    size = weights(tokenizers["EnCodec's layers"])
    for name, causal in (("spectral", False), ("spectral, causal", True)):
        tokenizers[name] = build(as_large({**SHARED, "network": "spectral", "causal": causal}, size))
    works: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, tokenizer in tokenizers.items():
        batch = sound(tokenizer, seconds)
        codes: Codes = tokenizer.encode(batch)
        works[name, "encode"] = partial(tokenizer.encode, batch)
        works[name, "decode"] = partial(tokenizer.decode, codes)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for turn in range(rounds + 1):
        for key, work in works.items():
            start = time.perf_counter()
            work()
            if turn:  # the first warms
                times[key].append(time.perf_counter() - start)
    rows = []
    for name, tokenizer in tokenizers.items():
        row = {"networks": name, "weights": weights(tokenizer), "width": tokenizer.modality.options.width}
        rows.append(
            row | {f"{way}_times_real_time": seconds / median(times[name, way]) for way in ("encode", "decode")}
        )
    setup = {"question": "audio_speed", "seconds": seconds, "rounds": rounds, "sample_rate_hz": RATE_HZ}
    return {**setup, "codes_per_second": RATE_HZ / 320, "quantizer": QUANTIZER, "rows": rows, **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound that is encoded and decoded")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = bench(args.seconds, args.rounds)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "audio_speed.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    for row in result["rows"]:
        print(json.dumps(row))
    print(file)


if __name__ == "__main__":
    main()
