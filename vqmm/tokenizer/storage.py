"""The folder of a tokenizer or a generator: what lies in it, where it is found, and how its content is named."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vqmm import __version__
from vqmm.contracts.front import Front
from vqmm.contracts.modality import Modality
from vqmm.registry import Registry
from vqmm.utils.errors import UserError
from vqmm.utils.files import hash_tensors, new_folder, write_tensors, write_text

CLASSES = {  # by the class that config.json names: what lies in the folder, and what serves it
    "Tokenizer": "a tokenizer: vqmm.Tokenizer.load reads it",
    "NoiseGenerator": (
        "a generator from noise (recipe gan), which has no encoder and no codes: vqmm eval, vqmm report, vqmm train "
        "--resume and vqmm.NoiseGenerator.load(run).sample(16) serve it"
    ),
}
FIELDS = {"class", "modality", "quantizer", "decoder", "labels", "conditional", "extent", "fingerprint"}


def fingerprint(config: Mapping[str, Any], learnt: bytes, tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits for a description, what a modality has learnt (`Front.state_bytes`), and tensors."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode() + learnt)
    hash_tensors(digest, tensors)
    return digest.hexdigest()[:16]


def write_tokenizer(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], front: Front | None
) -> None:
    """`config.json`, `model.safetensors` and the files of the modality's front, in place of what was there."""
    with new_folder(Path(folder)) as new:
        write_tensors(new / "model.safetensors", tensors)
        write_text(new / "config.json", json.dumps({"format": 1, "vqmm": __version__, **config}, indent=2) + "\n")
        if front is not None:
            front.save(new)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a tokenizer's folder. A `UserError` where they cannot be read."""
    try:
        return load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise damaged_weights(folder, error) from None


def damaged_weights(folder: Path, error: Exception) -> UserError:
    """What is said of weights that cannot be read or do not fit."""
    said = " ".join(str(error).split())[:200]
    return UserError(f"{folder / 'model.safetensors'} is damaged or of another version: {said}")


def tokenizer_folder(path: Path) -> Path:
    """The tokenizer's folder of a run, or the folder itself."""
    for folder in (path / "tokenizer", path):
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    raise UserError(
        f"{path} holds no tokenizer: give the folder of a run (made by vqmm train), or its tokenizer folder"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a tokenizer's folder, with every field there."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        lacks = FIELDS - config.keys()
    except (ValueError, AttributeError) as error:  # not UTF-8, not JSON, not an object
        raise UserError(f"{folder / 'config.json'} is damaged: {' '.join(str(error).split())}") from None
    if lacks:
        raise UserError(f"{folder / 'config.json'} is damaged: it lacks {', '.join(sorted(lacks))}")
    if config["class"] not in [*CLASSES]:  # a list of names: a damaged file may hold anything, hashable or not
        raise UserError(
            f"{folder / 'config.json'} is damaged: class {config['class']!r} is none of {', '.join(CLASSES)}"
        )
    return config


def require_class(config: Mapping[str, Any], name: str, what: object) -> None:
    """A `UserError` where a saved config is of another class; `what` is what the user gave, for the message."""
    if config["class"] != name:
        raise UserError(f"{what} holds {CLASSES[config['class']]}")


def build_modality(config: Mapping[str, Any], registry: Registry) -> Modality:
    """The modality that `config["modality"]` describes (a saved config, or a recipe as a dict)."""
    modality_class, options = registry.part("modality", config["modality"])
    return modality_class(options)
