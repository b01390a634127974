"""How fast does the transformer prior draw ids, beside Hugging Face transformers' `generate` with its static cache?

    pip install transformers && python -m vqmm.benchmarks.prior_speed

Both networks are untrained, of one width, depth, number of heads, hidden width and vocabulary (rotary positions, RMS
norms, gated networks); both draw `--ids` ids for every sequence from nothing, with a softmax at temperature 1, on one
thread. Turns alternate; of each the median, in processor time of the thread, so that other programs weigh less.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vqmm.contracts.vocabulary import Vocabulary
from vqmm.generation.sampling import sample
from vqmm.plugins.priors.transformer import Transformer
from vqmm.utils.machine import machine

WIDTH, DEPTH, HEADS, CODES = 256, 6, 4, 256


def ours(ids: int) -> Callable[[int], None]:
    """Draws so many ids for each of a batch."""
    vocabulary = Vocabulary().add("line", [[CODES]], grids=[[ids]])
    torch.manual_seed(0)
    prior = Transformer(vocabulary, vocabulary.longest, Transformer.Options(width=WIDTH, depth=DEPTH, heads=HEADS))
    prior.eval()

    def draw(batch: int) -> None:
        samples = sample(prior, "line", batch)
        assert len(samples) == batch and len(samples[0]) == ids + 2

    return draw


def theirs(ids: int) -> tuple[Callable[[int], None], str]:
    """The same, and the version of the library."""
    import transformers

    hidden = -(-WIDTH * 8 // 3 // 32) * 32
    config = transformers.LlamaConfig(
        vocab_size=CODES + 4,
        hidden_size=WIDTH,
        intermediate_size=hidden,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=ids + 2,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()

    def draw(batch: int) -> None:
        begin = torch.full((batch, 1), 2)
        output = model.generate(
            begin,
            attention_mask=torch.ones_like(begin),
            max_new_tokens=ids,
            min_new_tokens=ids,
            do_sample=True,
            top_k=0,
            cache_implementation="static",
            disable_compile=True,  # compiling takes minutes on a CPU, and is no part of what is compared
        )
        assert output.shape == (batch, ids + 1)

    return draw, transformers.__version__


def seconds(draw: Callable[[int], None], batch: int) -> float:
    start = time.thread_time()
    draw(batch)
    return time.thread_time() - start


def bench(ids: int, batches: list[int], turns: int) -> dict[str, Any]:
    mine, (other, version) = ours(ids), theirs(ids)
    rows = []
    for batch in batches:
        for draw in (mine, other):
            draw(batch)
        pairs = [(seconds(mine, batch), seconds(other, batch)) for _ in range(turns)]
        our_seconds, their = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in pairs)
        rows.append(
            {
                "batch": batch,
                "ids_per_second": batch * ids / our_seconds,
                "transformers_ids_per_second": batch * ids / their,
                "ratio": statistics.median(ratios),
                "ratio_lowest": ratios[0],
                "ratio_highest": ratios[-1],
            }
        )
    shape = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "codes": CODES, "ids": ids, "turns": turns}
    return {"question": "prior_speed", **shape, "transformers": version, "rows": rows, **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=256, help="drawn for each sequence")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = bench(args.ids, args.batches, args.turns)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "prior_speed.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    for row in result["rows"]:
        print(
            f"batch {row['batch']:3}: {row['ids_per_second']:,.0f} ids/s, transformers "
            f"{row['transformers_ids_per_second']:,.0f}, ratio {row['ratio']:.2f} "
            f"({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})"
        )
    print(file)


if __name__ == "__main__":
    main()
