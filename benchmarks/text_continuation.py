"""How well does a prior over subwords go on with a text, in bits per character?

    python -m vqmm.benchmarks.text_continuation tinyshakespeare.txt --name tinyshakespeare --runs runs/continuation \\
        --known 2.12 --known 2.71

The tokenizer is `identity` over subwords of the training part, the prior a transformer over windows of its ids; the
last tenth of the text is held out. On one thread; called again it goes on where it was stopped.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import vqmm
from vqmm.benchmarks.any_to_any import counted, spent
from vqmm.contracts.vocabulary import PAD
from vqmm.data.source import Source
from vqmm.generation.generator import Generator
from vqmm.generation.sampling import Draw
from vqmm.plugins.text.files import decode_bytes
from vqmm.plugins.text.metrics import words
from vqmm.utils.machine import machine

SETTINGS = ("prior.width=256", "prior.depth=4", "train.batch_size=16", "train.patience=null")
AT_ONCE = 16  # windows scored together
RULES = {
    "bits_per_char": "of held-out ids, over held-out characters; a window knows nothing of the one before it",
    "bits_per_char_context": "the same text, with half a window known before each half that counts",
    "distinct_1": "distinct words over words, of the continuations; distinct_1_original of what truly followed",
    "distinct_2": "distinct pairs of words over pairs; distinct_2_original of what truly followed",
    "length_ratio": "characters of the continuations over those that truly followed",
    "copied": "mean over continuations of the longest run of characters that also stands in the training text",
    "copied_original": "the same of what truly followed",
}


def bits_per_char(generator: Generator, texts: Sequence[str], longest: int, known: int = 0) -> float:
    """Of texts, in windows of `longest` ids. Of each but a text's first at least `known` ids were in the one before,
    and do not count again."""
    modality: Any = generator.tokenizers["text"].modality
    text_range = generator.vocabulary["text"]
    lines, given = [], []
    for text in texts:
        codes = modality.ids_of(text)[0] + text_range.firsts[0][0]
        counted_to = 0
        while counted_to < len(codes):
            start = max(min(counted_to - known, len(codes) - longest), 0)
            window = codes[start : start + longest]
            lines.append(torch.cat([torch.tensor([text_range.begin]), window, torch.tensor([text_range.end])]))
            given.append(1 + counted_to - start)
            counted_to = start + len(window)
    nats = 0.0
    for first in range(0, len(lines), AT_ONCE):
        padded = torch.nn.utils.rnn.pad_sequence(lines[first : first + AT_ONCE], True, PAD)
        with torch.inference_mode():
            nats += float(generator.prior.loss(padded, torch.tensor(given[first : first + AT_ONCE])).nats.sum())
    return nats / math.log(2) / sum(map(len, texts))


def continued(generator: Generator, texts: Sequence[str], longest: int, count: int, draw: Draw) -> list[dict[str, str]]:
    """Prompts of a quarter of a window, from places spread over the texts; what truly follows each, and what was drawn
    in its place."""
    modality: Any = generator.tokenizers["text"].modality
    examples = []
    for number in range(count):
        text = texts[number % len(texts)]
        ids = modality.ids_of(text)[:, (number // len(texts)) * longest :][:, :longest]
        known = generator.known("text", ids, 0.25)
        (sample,) = generator.generate("text", 1, known=known, draw=draw, first=number)
        kept = int((known != PAD).sum())
        prompt, original, whole = (modality.text_of(x) for x in (ids[:, :kept], ids, sample))
        examples.append({"prompt": prompt, "original": original[len(prompt) :], "drawn": whole[len(prompt) :]})
    return examples


def evaluated(parts: Sequence[dict[str, str]], training: str) -> dict[str, float]:
    """Diversity, length and copying."""
    figures: dict[str, float] = {}
    for side, name in (("drawn", ""), ("original", "_original")):
        lines = [words(part[side]) for part in parts]
        for n in (1, 2):
            grams = [gram for line in lines for gram in zip(*(line[i:] for i in range(n)), strict=False)]
            figures[f"distinct_{n}{name}"] = len(set(grams)) / max(len(grams), 1)
        figures[f"copied{name}"] = statistics.mean(longest_run(part[side], training) for part in parts)
    drawn, original = (sum(len(part[side]) for part in parts) for side in ("drawn", "original"))
    return {**figures, "length_ratio": drawn / max(original, 1)}


def longest_run(text: str, training: str) -> int:
    """The length of the longest piece of a text that also stands in the training text."""
    best = 0
    for start in range(len(text)):
        while start + best < len(text) and text[start : start + best + 1] in training:
            best += 1
    return best


def bench(args: argparse.Namespace) -> dict[str, Any]:
    run, tokens, prior = (args.runs / name for name in ("text", "tokens", "prior"))
    reading = ["modality.unit=blocks", "modality.block=4096", "modality.tail=0.1"]
    front = ["modality.front=subwords", f"modality.vocabulary={args.vocabulary}"]
    if not run.exists():
        vqmm.train("text", args.data, run, "identity", settings=[*reading, *front])
    vqmm.encode(run, args.data, tokens, resume=tokens.exists())
    chosen = ["cut=windows", f"longest={args.longest}", *SETTINGS, *args.settings]
    with counted(args.runs, "prior"):
        trained = vqmm.train_prior(run, prior, tokens=tokens, steps=args.steps, settings=chosen, resume=prior.exists())
    generator = Generator.load(prior)
    source = Source(generator.tokenizers["text"].modality, args.data)
    training, held_out = ([decode_bytes(s.read()) for s in part] for part in (source.training(), source.held_out()))
    draw = Draw(args.temperature, top_p=args.top_p)
    parts = continued(generator, held_out, args.longest, args.count, draw)
    figures = {
        "bits_per_char": bits_per_char(generator, held_out, args.longest),
        "bits_per_char_context": bits_per_char(generator, held_out, args.longest, args.longest // 2),
        **evaluated(parts, "".join(training)),
    }
    bits = {name: value for name, value in trained["modalities"]["text"].items() if value is not None}
    return {
        "question": "text_continuation",
        "data": args.name,
        "vocabulary": generator.tokenizers["text"].modality.ids,
        "settings": chosen,
        "steps": args.steps,
        "best": trained["best"],
        "weights": trained["weights"],
        "cpu_seconds": spent(args.runs)["prior"],
        "known_bits_per_char": args.known,
        "characters": {"training": sum(map(len, training)), "held_out": sum(map(len, held_out))},
        "temperature": args.temperature,
        "top_p": args.top_p,
        "count": args.count,
        **bits,
        **figures,
        "rules": RULES,
        "examples": parts[:3],
        **machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a text")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--vocabulary", type=int, default=1024, help="subwords")
    parser.add_argument("--longest", type=int, default=128, help="ids of a window")
    parser.add_argument("--count", type=int, default=64, help="continuations")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--known", type=float, action="append", default=[], help="bits a character of others, to print")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = bench(args)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"text_continuation-{args.name}.json"
    file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in RULES:
        print(f"{name:22} {result[name]:.4g}")
    print(f"others need {', '.join(map(str, args.known)) or 'unknown'} bits a character\n{file}")


if __name__ == "__main__":
    main()
