"""Reads the model of a run, whatever its class."""

from pathlib import Path

from vqmm.registry import Registry
from vqmm.tokenizer.model import Model
from vqmm.tokenizer.noise_generator import NoiseGenerator
from vqmm.tokenizer.storage import read_config, tokenizer_folder
from vqmm.tokenizer.tokenizer import Tokenizer

CLASSES: dict[str, type[Model]] = {each.__name__: each for each in (Tokenizer, NoiseGenerator)}


def load_model(folder: Path | str, registry: Registry | None = None) -> Model:
    """The `Tokenizer` or `NoiseGenerator` in a model's folder, or a run's. It comes back frozen.

    Raises:
        UserError: as `Model.load`.
    """
    return CLASSES[read_config(tokenizer_folder(Path(folder)))["class"]].load(folder, registry)
