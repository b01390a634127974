"""`vqmm encode` and `vqmm decode`: files to token shards and back; `vqmm reconstruct`: both at once, files to files."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from vqmm.batch import Codes
from vqmm.bitrate import choose_rate
from vqmm.chunks import decode_long, encode_long, reconstruct_long
from vqmm.data.sample import Sample, Unreadable
from vqmm.data.source import Source, label_numbers
from vqmm.errors import UserError
from vqmm.files import must_be_free, new_folder
from vqmm.modality import Modality
from vqmm.registry import Registry
from vqmm.shards import Header, Row, ShardWriter, codes_of, read_header, read_keys, read_rows, rows_of
from vqmm.tokenizer import Tokenizer, evaluating

BATCH = 32  # samples of one size at a time,
BATCH_VALUES = 2**22  # but no more than so many values, so that large pictures go one by one


def encode(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    stages: int | None = None,
    bitrate_kbps: float | None = None,
    vectors: bool = False,
    strict: bool = False,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Turn files into a folder of token shards (Parquet). Samples are taken whole, uncropped; long lines (sound) go
    through the networks in pieces, with the codes of the whole (`vqmm.chunks`).

    Args:
        stages: only the first so many codes of each position, for a quantizer with several.
        bitrate_kbps: as many stages as fit into a rate, for signals measured in seconds.
        vectors: write beside the codes the vectors that they stand for, as features (`vqmm.shards` says how).

    Returns:
        The folder, how many samples and codes it holds, their nominal bits, the stages used and their nominal
        `bitrate_kbps` (null where the signal is not measured in seconds), and what could not be read.

    Raises:
        UserError: the run has no codes, or none at that rate; an input that does not exist or holds nothing; two
            samples of one name; with `strict`, a damaged sample. Nothing is written then.
    """
    out = Path(out)
    tokenizer = Tokenizer.load(Path(run), Registry.discover(plugins))
    rate = choose_rate(tokenizer, stages, bitrate_kbps)
    must_be_free(out, "the token folder")
    samples = _named_once(tokenizer.modality, inputs, "encode")
    dim = tokenizer.quantizer.options.dim if vectors else None
    header = Header(tokenizer.code_fingerprint(), tokenizer.modality.name, tokenizer.quantizer.sizes, dim)
    unreadable: list[str] = []
    codes_count, bits = 0, 0.0
    with new_folder(out) as folder:
        with ShardWriter(folder, header) as writer:
            for some, values in _batches(_read(samples, unreadable, strict)):
                batch = tokenizer.modality.collate(values, [sample.key for sample in some])
                codes = encode_long(tokenizer, batch, rate.stages)
                found = _lookup(tokenizer, codes) if vectors else None
                for row in rows_of(codes, batch.key, [sample.label for sample in some], found):
                    writer.add(row)
                    codes_count += sum(one.size for one in row.maps)
                    bits += _nominal_bits(row, header)
        if not writer.rows:
            raise UserError(f"none of the {len(samples)} samples can be read; the first: {unreadable[0]}")
    return {
        "tokens": str(out),
        "samples": writer.rows,
        "codes": codes_count,
        "bits": bits,
        "stages": rate.stages,
        "bitrate_kbps": rate.bitrate_kbps,
        "code_fingerprint": header.code_fingerprint,
        "unreadable": unreadable,
    }


@torch.no_grad()
def _lookup(tokenizer: Tokenizer, codes: Codes) -> Tensor:
    with evaluating(tokenizer):
        return tokenizer.quantizer.lookup(codes)


def decode(
    run: str | Path, tokens: str | Path, out: str | Path, *, seed: int = 0, plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """Turn a folder of token shards into files, named after their keys.

    Raises:
        UserError: no shards there; they are another tokenizer's; `out` holds something; a name leads out of `out`.
    """
    out = Path(out)
    tokenizer = Tokenizer.load(Path(run), Registry.discover(plugins))
    must_be_free(out, "the output folder")
    header, files = read_header(Path(tokens))
    if header.code_fingerprint != tokenizer.code_fingerprint():
        raise UserError(
            f"{tokens} was encoded by the tokenizer {header.code_fingerprint}, and {run} is "
            f"{tokenizer.code_fingerprint()}: decode with the run that encoded it"
        )
    names = _file_names(read_keys(files))
    numbers = {label: number for number, label in enumerate(tokenizer.labels)}
    count = 0
    with new_folder(out) as folder:
        alike = groupby(read_rows(header, files), key=lambda row: (row.size, [m.shape for m in row.maps]))
        for (size, _), group in alike:
            for rows in _chunks(group, _at_once(tokenizer.modality.channels * prod(size))):
                samples = decode_long(tokenizer, codes_of(rows, numbers), seed)
                for row, sample in zip(rows, samples, strict=True):
                    path = folder / names[row.key]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    tokenizer.modality.write(sample, path)
                    count += 1
    return {"out": str(out), "samples": count}


def reconstruct(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    enlarge: int = 1,
    stages: int | None = None,
    seed: int = 0,
    strict: bool = False,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Send files through a tokenizer, with codes or without, and write what comes out, named after their keys.

    Samples are taken whole, uncropped. A run with `train.degrade` restores them.

    Args:
        enlarge: repeat every value so many times along each axis first, as a run with `train.degrade=downsample` was
            given its samples: small pictures come out large.
        stages: use only the first so many codes of each position.
        seed: of decoders that draw at random.

    Raises:
        UserError: an input that does not exist or holds nothing; two samples of one name; `out` holds something; with
            `strict`, a damaged sample. Nothing is written then.
    """
    out = Path(out)
    if enlarge < 1:
        raise UserError(f"enlarge {enlarge}: take 1 (as they are), or how many times larger, such as 2")
    tokenizer = Tokenizer.load(Path(run), Registry.discover(plugins))
    tokenizer.require_stages(stages)
    must_be_free(out, "the output folder")
    modality = tokenizer.modality
    samples = _named_once(modality, inputs, "reconstruct")
    names = _file_names([sample.key for sample in samples])
    numbers = label_numbers(samples, tokenizer.labels) if tokenizer.label_embedding is not None else {}
    unreadable: list[str] = []
    count = 0
    with new_folder(out) as folder:
        read = ((sample, _enlarged(value, enlarge)) for sample, value in _read(samples, unreadable, strict))
        for some, values in _batches(read):
            labels = [numbers[sample.label] for sample in some if sample.label in numbers]
            batch = modality.collate(
                values, [sample.key for sample in some], labels if len(labels) == len(some) else None
            )
            outputs, _ = reconstruct_long(tokenizer, batch, seed, stages)
            for key, output in zip(batch.key, outputs, strict=True):
                path = folder / names[key]
                path.parent.mkdir(parents=True, exist_ok=True)
                modality.write(output.cpu(), path)
                count += 1
        if not count:
            raise UserError(f"none of the {len(samples)} samples can be read; the first: {unreadable[0]}")
    return {"out": str(out), "samples": count, "unreadable": unreadable}


def _enlarged(value: Tensor, times: int) -> Tensor:
    if times > 1:
        for axis in range(1, value.ndim):
            value = value.repeat_interleave(times, dim=axis)
    return value


def _named_once(modality: Modality, inputs: str | Path | Sequence[str | Path], verb: str) -> list[Sample]:
    """All samples of the inputs; a `UserError` where there is none, or where two have one name."""
    paths = [inputs] if isinstance(inputs, str | Path) else inputs
    samples = [sample for path in paths for sample in Source(modality, path).samples]
    if not samples:
        raise UserError(f"nothing to {verb}: give a file, folder or archive of samples")
    twice = [key for key, count in Counter(sample.key for sample in samples).items() if count > 1]
    if twice:
        raise UserError(
            f"{len(twice)} names stand for two samples, such as {twice[0]!r}: {verb} their folders one by one"
        )
    return samples


def _read(samples: Iterable[Sample], unreadable: list[str], strict: bool) -> Iterator[tuple[Sample, Tensor]]:
    for sample in samples:
        try:
            yield sample, sample.read()
        except Unreadable as error:
            if strict:
                raise
            unreadable.append(str(error))


def _batches(read: Iterable[tuple[Sample, Tensor]]) -> Iterator[tuple[list[Sample], list[Tensor]]]:
    """Neighbours of one shape together."""
    for shape, group in groupby(read, key=lambda pair: pair[1].shape):
        for pairs in _chunks(group, _at_once(shape.numel())):
            yield [sample for sample, _ in pairs], [value for _, value in pairs]


def _at_once(values: int) -> int:
    """How many samples of so many values each go through the networks together."""
    return max(1, min(BATCH, BATCH_VALUES // max(values, 1)))


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _nominal_bits(row: Row, header: Header) -> float:
    sizes = [size for one, stages in zip(row.maps, header.sizes, strict=True) for size in stages[: len(one)]]
    cells = [one[0].size for one in row.maps for _ in range(len(one))]
    return float((torch.tensor(sizes, dtype=torch.float64).log2() * torch.tensor(cells)).sum())


def _file_names(keys: Sequence[str]) -> dict[str, str]:
    """A path without suffix for every key: `cats/1.png` -> `cats/1`, or the whole key where two would meet."""
    whole: dict[str, PurePosixPath] = {}
    for key in keys:
        path = PurePosixPath(key or "")
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in key:
            raise UserError(f"the token file names a sample {key!r}, which is no place inside an output folder")
        whole[key] = path
    taken = set(whole.values())
    if len(taken) < len(keys):
        again = next(key for key, count in Counter(PurePosixPath(key) for key in keys).items() if count > 1)
        raise UserError(f"the token files name two samples {str(again)!r}: decode them one folder at a time")
    # "...png" without its suffix would be "..", the folder above: such a name is kept whole
    short = {key: path.with_suffix("") if path.stem.strip(".") else path for key, path in whole.items()}
    meeting = Counter(short.values())
    free = {key for key, path in short.items() if meeting[path] == 1 and (path == whole[key] or path not in taken)}
    return {key: str(short[key] if key in free else whole[key]) for key in keys}
