"""`vqmm decode`: token shards to files."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from vqmm.commands.outputs import Outputs
from vqmm.contracts.labels import check_labels
from vqmm.registry import Registry
from vqmm.tokenizer.inputs import at_once, chunks
from vqmm.tokenizer.long_signals import decode_long
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import codes_of, read_header, read_keys, read_rows
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_free, new_folder


def decode(
    run: str | Path, tokens: str | Path, out: str | Path, *, seed: int = 0, plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """Turn a folder of token shards into files, named after their keys.

    Raises:
        UserError: no shards there; they are another tokenizer's; `out` holds something; a name leads out of `out`.
    """
    out = Path(out)
    must_be_free(out, "the output folder")
    tokenizer = Tokenizer.load(Path(run), Registry.discover(plugins))
    header, files = read_header(Path(tokens))
    if header.code_fingerprint != tokenizer.code_fingerprint():
        raise UserError(
            f"{tokens} was encoded by the tokenizer {header.code_fingerprint}, and {run} is "
            f"{tokenizer.code_fingerprint()}: decode with the run that encoded it"
        )
    outputs = Outputs(tokenizer.modality, read_keys(files))
    numbers = {label: number for number, label in enumerate(tokenizer.labels)}

    def decoded() -> Iterator[tuple[str, Tensor]]:
        alike = groupby(read_rows(header, files), key=lambda row: (row.size, [m.shape for m in row.maps]))
        for (size, _), group in alike:
            for rows in chunks(group, at_once(tokenizer.modality.channels * prod(size))):
                if tokenizer.label_embedding is not None:
                    check_labels([row.label for row in rows], tokenizer.labels, str(tokens))
                samples = decode_long(tokenizer, codes_of(rows, numbers), seed)
                yield from ((row.key, sample.cpu()) for row, sample in zip(rows, samples, strict=True))

    with new_folder(out) as folder:
        count = outputs.write(decoded(), folder)
    return {"out": str(out), "samples": count}
