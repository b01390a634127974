"""Are the codes and vectors of a tokenizer features that a classifier can use?

    vqmm train image --data mnist/ --out runs/mnist --set modality.channels=1 --set modality.size=28
    vqmm encode runs/mnist mnist/ --out tokens/ --vectors
    python -m vqmm.benchmarks.features tokens/ mnist/ --name mnist --out benchmarks/results

Logistic regression (scikit-learn, features scaled to unit variance) on pictures with labels: on raw pixels, on how
often each code occurs, on the mean of the vectors, on both, and on all vectors in their places. Evaluated on the test
split.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqmm.plugins.image import Image
from vqmm.tokens.shards import Header, Row, read_header, read_rows
from vqmm.utils.errors import UserError
from vqmm.utils.machine import machine

ITERATIONS = 200


def histogram(header: Header, row: Row) -> np.ndarray:
    """How often each code of each stage of each map occurs, as shares of the positions."""
    shares = []
    for codes, sizes in zip(row.maps, header.sizes, strict=True):
        for stage, size in zip(codes, sizes, strict=False):
            shares.append(np.bincount(stage.reshape(-1), minlength=size) / max(stage.size, 1))
    return np.concatenate(shares)


def vectors(row: Row) -> np.ndarray:
    """(positions, dim)"""
    assert row.vectors is not None  # read has seen to it
    return row.vectors.reshape(-1, row.vectors.shape[-1])


def read(tokens: Path) -> tuple[Header, dict[str, Row]]:
    """The rows of a folder of shards, by key."""
    header, files = read_header(tokens)
    if header.dim is None:
        raise UserError(f"{tokens} holds codes without vectors: make it with vqmm encode --vectors")
    return header, {row.key: row for row in read_rows(header, files, vectors=True)}


def tables(header: Header, rows: Iterable[Row], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Features by name, each (samples, numbers)."""
    rows = list(rows)
    features = {
        "raw pixels": pixels.reshape(len(pixels), -1),
        "histogram of codes": np.stack([histogram(header, row) for row in rows]),
        "mean of vectors": np.stack([vectors(row).mean(axis=0) for row in rows]),
    }
    features["histogram and mean"] = np.concatenate(
        [features["histogram of codes"], features["mean of vectors"]], axis=1
    )
    features["vectors in their places"] = np.stack([vectors(row).reshape(-1) for row in rows])
    return {name: table.astype(np.float32) for name, table in features.items()}


def fit_and_count(train: np.ndarray, labels: np.ndarray, test: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """The share of test samples that logistic regression puts in their class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start = time.perf_counter()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS, C=0.01))
    model.fit(train, labels)
    accuracy = float((model.predict(test) == right).mean())
    return {"accuracy": accuracy, "features": train.shape[1], "seconds": round(time.perf_counter() - start, 1)}


def bench(tokens: Path, data: Path, trained: int, tested: int, tell: Callable[[dict[str, Any]], None]) -> list[dict]:
    """A row for each kind of feature: the first `trained` samples of the training split, `tested` of the test split."""
    header, rows = read(tokens)
    parts = {}
    for split, count in (("train", trained), ("test", tested)):
        samples = [each for each in Image(Image.Options(channels=1, size=28)).samples(data) if each.split == split]
        samples = [each for each in samples if each.key in rows and each.label is not None][:count]
        if not samples:
            raise UserError(
                f"{data} and {tokens} share no labelled sample of the {split} split: encode that very folder"
            )
        pixels = np.stack([each.read().numpy() for each in samples])
        labels = np.array([each.label for each in samples])
        parts[split] = tables(header, [rows[each.key] for each in samples], pixels), labels
    (train, labels), (test, right) = parts["train"], parts["test"]
    results = []
    for name in train:
        row = {"features_of": name, "train": len(labels), "test": len(right)}
        results.append(row | fit_and_count(train[name], labels, test[name], right))
        tell(results[-1])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="what vqmm encode --vectors has made of the data")
    parser.add_argument("data", type=Path, help="the pictures themselves, gray, with labels and a split: MNIST's files")
    parser.add_argument("--name", required=True, help="the data's name, and the result's")
    parser.add_argument("--train", type=int, default=10_000, help="labelled samples to learn from")
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'features':26}{'numbers':>8}{'accuracy':>10}")

    def tell(row: dict[str, Any]) -> None:
        print(f"{row['features_of']:26}{row['features']:8,}{row['accuracy']:10.2%}", flush=True)

    rows = bench(args.tokens, args.data, args.train, args.test, tell)
    header, _ = read_header(args.tokens)
    result = {"question": "features", "data": args.name, "code_fingerprint": header.code_fingerprint, "dim": header.dim}
    result |= {
        "sizes": header.sizes,
        "classifier": f"logistic regression, C 0.01, {ITERATIONS} iterations",
        "rows": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"features-{args.name}.json"
    file.write_text(json.dumps({**result, **machine()}, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
