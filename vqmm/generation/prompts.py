"""What a generator is given: samples, files, texts and the names of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from vqmm.contracts.mixins import Strings
from vqmm.contracts.modality import Modality
from vqmm.data.source import Source
from vqmm.utils.errors import UserError

LABEL = "label"  # the range of class numbers in a vocabulary

Value = Tensor | str | int | Path  # an int is a class's name, as "7" is
Given = Mapping[str, Value]  # by modality, or "label"


def sample_of(modality: Modality, value: Value) -> Tensor:
    """The sample (C, *extent) that a value stands for.

    A tensor is a sample. A `Path` is a file that holds one. A string is a file too, but for a modality of
    `Strings` (text) it is the text itself; there `@FILE` is the text of a file, without the
    line end that closes it, and `@@` stands for an `@` that begins a text.

    Raises:
        UserError: no such file, or one that cannot be read or holds several samples; a tensor of another shape.
    """
    if isinstance(value, Tensor):
        if value.ndim != modality.rank + 1 or value.shape[0] != modality.channels:
            axes = ", ".join(["the extent of each axis"] if modality.rank > 1 else ["length"])
            raise UserError(
                f"{modality.name!r} of shape {tuple(value.shape)} is given: must be ({modality.channels}, {axes})"
            )
        return value
    if not isinstance(modality, Strings):
        return _read(modality, Path(str(value)))
    if isinstance(value, Path):
        return modality.ids_of(_text(value))
    text = str(value)
    if text.startswith("@") and not text.startswith("@@"):
        return modality.ids_of(_text(Path(text[1:])))
    return modality.ids_of(text[1:] if text.startswith("@@") else text)


def _read(modality: Modality, file: Path) -> Tensor:
    samples = Source(modality, file).samples
    if len(samples) > 1:
        raise UserError(f"{file} holds {len(samples)} samples of {modality.name!r}: give a file that holds one")
    return samples[0].read()


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"the text {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return text.removesuffix("\n")


def parse_given(given: Sequence[str]) -> dict[str, str]:
    """`["text=seven", "label=7"]` -> `{"text": "seven", "label": "7"}`, in that order.

    Raises:
        UserError: no `=`, or a name that comes twice.
    """
    parsed: dict[str, str] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not (name and equals):
            raise UserError(f"given {entry!r}: write MODALITY=VALUE, such as text=seven, image=cat.png or label=7")
        if name in parsed:
            raise UserError(f"given {name!r} twice ({parsed[name]!r} and {value!r}): a sequence has one of each")
        parsed[name] = value
    return parsed
