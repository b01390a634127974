"""`vqmm compress` and `vqmm decompress`: one sample as one small file, and back."""

import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqmm.compression.container import pack, unpack
from vqmm.compression.with_prior import PriorCoder
from vqmm.contracts.labels import check_labels
from vqmm.data.source import Source
from vqmm.generation.generator import Generator
from vqmm.registry import Registry
from vqmm.tokenizer.long_signals import decode_long, encode_long
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import Row, codes_of, nominal_bits, rows_of
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_writable

SUFFIX = ".vqmm"


def compress(
    run: str | Path,
    file: str | Path,
    out: str | Path | None = None,
    *,
    stages: int | None = None,
    label: str | None = None,
    model: str | Path | None = None,
    overwrite: bool = False,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Turn a file that holds one sample into a small one: its codes, entropy-coded. The sample is taken whole.

    Args:
        out: the compressed file; by default beside `file`, its suffix replaced by .vqmm.
        stages: only the first so many codes of each position, for a quantizer with several: a lower rate.
        label: the sample's class, for a decoder that is conditioned on labels, and for a model that may be.
        model: the run of a prior over this run's codes: the bits are shared out by what it expects. By default the
            codes are all that is learnt from. The same model is needed to decompress.
        overwrite: write in place of a file that is there.

    Returns:
        `bits`: eight times the file's size (`bytes`), header and all; `bits_per_UNIT` of them (null for a sample of no
        extent); `nominal_bits`: log2 of the codebook size for every code; `saved`: 1 - bits / nominal_bits (null where
        there are no such bits); the file, how many codes, the sample's size and the code fingerprint. With a model
        `model`, its fingerprint; `model_bits`, what its own probabilities amount to; `code_bits`, what was written
        for that; and `margin`: how far the logits on another machine may lie from those here
        (`vqmm.compression.with_prior`).

    Raises:
        UserError: the run has no codes; the file holds no sample, a damaged one or several; a label is missing or
            unknown; `out` is there; the model is another tokenizer's, or has learnt of other grids or fewer stages.
            Nothing is written then.
    """
    path = Path(out) if out is not None else Path(file).with_suffix(SUFFIX)
    _must_be_free(path, overwrite)
    registry = Registry.discover(plugins)
    tokenizer = Tokenizer.load(Path(run), registry)
    tokenizer.require_codes()
    tokenizer.require_stages(stages)
    coder = None if model is None else PriorCoder(Generator.load(model, registry), tokenizer, model)
    if coder is not None and stages is None:
        stages = coder.stages
    samples = Source(tokenizer.modality, file).samples
    if len(samples) > 1:
        raise UserError(f"{file} holds {len(samples)} samples: a compressed file holds one; encode takes many")
    from_file = None if label else samples[0].label
    known = _label(tokenizer, label or from_file, file if from_file else "--label")
    if known is None and coder is not None and coder.labels:
        known = label  # it takes bytes of its own, so a model is told it where somebody asks for that
    batch = tokenizer.modality.collate([samples[0].read()], [samples[0].key])
    (row,) = rows_of(encode_long(tokenizer, batch, stages), batch.key, [known])
    packed = None if coder is None else coder.pack(row.maps, row.label)
    data = pack(tokenizer, row, packed)
    _write(path, data)
    result = _told(tokenizer, row, len(data), tokenizer.modality.evaluation().size_in_units(batch.targets[0]))
    return {"file": str(path), **result, **({} if packed is None else packed.figures())}


def _told(tokenizer: Tokenizer, row: Row, size: int, amount: float) -> dict[str, Any]:
    """What `compress` says of a file of `size` bytes."""
    nominal = nominal_bits(row.maps, tokenizer.quantizer.sizes)
    return {
        "bytes": size,
        "bits": 8 * size,
        f"bits_per_{tokenizer.modality.evaluation().rate_unit}": 8 * size / amount if amount else None,
        "nominal_bits": nominal,
        "saved": 1 - 8 * size / nominal if nominal else None,
        "codes": sum(code_map.size for code_map in row.maps),
        "size": list(row.size),
        "code_fingerprint": tokenizer.code_fingerprint(),
    }


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def decompress(
    run: str | Path,
    file: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Turn a compressed file back into a sample: what `decode` makes of the same codes, bit for bit.

    Args:
        out: the file to write, of the type that the modality writes, whose suffix may be left out; by default beside
            `file`, with .decoded in its name.
        model: the run of the prior that it was compressed with; None where there was none.
        seed: for decoders that draw at random.
        overwrite: write in place of a file that is there.

    Raises:
        UserError: not a compressed file; cut short or altered; of another tokenizer or model; `out` is there or has the
            suffix of another type. Nothing is written then.
    """
    if out is None:
        must_be_writable(Path(file).with_suffix(".decoded"), "the file")
    else:
        _must_be_free(Path(out), overwrite)
    registry = Registry.discover(plugins)
    tokenizer = Tokenizer.load(Path(run), registry)
    tokenizer.require_codes()
    coder = None if model is None else PriorCoder(Generator.load(model, registry), tokenizer, model)
    try:
        data = Path(file).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"there is no file {file}: give one that vqmm compress has written") from None
    row = unpack(tokenizer, data, str(file), coder)
    _label(tokenizer, row.label, file)
    numbers = {name: number for number, name in enumerate(tokenizer.labels)}
    (sample,) = decode_long(tokenizer, codes_of([row], numbers), seed)
    wanted = Path(out) if out is not None else Path(file).with_suffix(".decoded")
    home = next(parent for parent in wanted.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=".vqmm-", dir=home) as folder:
        written = tokenizer.modality.write(sample, Path(folder) / "sample")
        suffix = written.name.removeprefix("sample")
        if not wanted.name.lower().endswith(suffix.lower()):
            if out is not None and wanted.suffix:
                right = wanted.with_suffix(suffix)
                raise UserError(f"--out {wanted}: {tokenizer.modality.name} writes {suffix}: name it {right}")
            wanted = wanted.with_name(wanted.name + suffix)
        _must_be_free(wanted, overwrite)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        written.replace(wanted)
    return {"file": str(wanted), "size": list(row.size), "codes": sum(code_map.size for code_map in row.maps)}


def _label(tokenizer: Tokenizer, label: str | None, where: object) -> str | None:
    """The label that the decoder must be told; None for one that is told none."""
    if tokenizer.label_embedding is None:
        return None
    check_labels([label], tokenizer.labels, str(where))
    return label


def _must_be_free(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already: choose another name with --out, or write over it with --overwrite")
    must_be_writable(path, "the file")
