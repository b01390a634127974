"""`vqmm reconstruct`: files through a tokenizer to files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vqmm.commands.outputs import Outputs
from vqmm.data.source import label_numbers
from vqmm.registry import Registry
from vqmm.tokenizer.inputs import Inputs, batches, read
from vqmm.tokenizer.long_signals import reconstruct_long
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_free, new_folder


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
    must_be_free(out, "the output folder")
    tokenizer = Tokenizer.load(Path(run), Registry.discover(plugins))
    tokenizer.require_stages(stages)
    modality = tokenizer.modality
    samples = Inputs.of(modality, inputs, "reconstruct").samples
    files = Outputs(modality, [sample.key for sample in samples])
    numbers = label_numbers(samples, tokenizer.labels) if tokenizer.label_embedding is not None else {}
    unreadable: list[str] = []

    def reconstructed() -> Iterator[tuple[str, Tensor]]:
        enlarged = ((sample, _enlarged(value, enlarge)) for sample, value in read(samples, unreadable, strict))
        for some, values in batches(enlarged):
            labels = [numbers[sample.label] for sample in some if sample.label in numbers]
            batch = modality.collate(
                values, [sample.key for sample in some], labels if len(labels) == len(some) else None
            )
            outputs, _ = reconstruct_long(tokenizer, batch, seed, stages)
            yield from ((key, output.cpu()) for key, output in zip(batch.key, outputs, strict=True))

    with new_folder(out) as folder:
        count = files.write(reconstructed(), folder)
        if not count:
            raise UserError(f"none of the {len(samples)} samples can be read; the first: {unreadable[0]}")
    return {"out": str(out), "samples": count, "unreadable": unreadable}


def _enlarged(value: Tensor, times: int) -> Tensor:
    if times > 1:
        for axis in range(1, value.ndim):
            value = value.repeat_interleave(times, dim=axis)
    return value
