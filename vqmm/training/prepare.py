"""The parts of a run, each from the recipe and the parts before it: data, model, critic."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vqmm.contracts.labels import require_every_label
from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Sample, Unreadable
from vqmm.data.loader import Views
from vqmm.data.source import Source, evaluation_samples, label_numbers
from vqmm.recipe import Recipe
from vqmm.registry import Registry
from vqmm.tokenizer.model import Model
from vqmm.tokenizer.noise_generator import NoiseGenerator
from vqmm.tokenizer.storage import build_modality, tokenizer_folder
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.training.adversarial import AdversarialTrainer
from vqmm.training.init_from import init_from
from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Data:
    """The samples of a run, as its networks see them.

    Attributes:
        modality: it has learnt what it must from the training samples.
        split: what the held-out samples are, in words.
        labels: of all samples.
        path: where they are, resolved.
        higher_is_better: of the modality's main metric.
    """

    modality: Modality
    training: Views
    held_out: Views
    split: str
    labels: tuple[str, ...]
    path: str
    fingerprint: str
    higher_is_better: bool


def prepare_data(recipe: Recipe, path: str, registry: Registry, strict: bool) -> Data:
    """Find and split the samples, and fit the modality to them.

    Raises:
        UserError: there are none, or none can be read; labels are missing where the recipe needs them; where `strict`,
            a sample is damaged.
    """
    plan = recipe.train
    modality = build_modality(recipe.model_dump(), registry)
    source = Source(modality, path)
    if recipe.condition == "label":
        instead = "put samples into one sub-folder a class, or name labels in a CSV"
        require_every_label([sample.label for sample in source.samples], f"samples of {source.path}", instead)
    if strict:
        refuse_unreadable(source.samples)
    labels = label_numbers(source.samples, source.labels)
    samples, split = evaluation_samples(source, source.path)
    training = Views(modality, source.training(), labels, plan.seed, plan.cache_mb, degrade=plan.degrade)
    held_out = Views(modality, samples, labels, plan.seed, plan.cache_mb // 4, degrade=plan.degrade)
    training.check()
    _prepare_front(modality, training, plan.init_from)
    evaluation = modality.evaluation()
    higher_is_better = bool(evaluation.metrics()[evaluation.main_metric].higher_is_better)
    return Data(modality, training, held_out, split, source.labels, source.path, source.fingerprint(), higher_is_better)


def _prepare_front(modality: Modality, training: Views, begin: str | None) -> None:
    """What must be learnt before the networks are built: from the training samples, or read from another model."""
    front = modality.front()
    if begin is None:
        modality.check_samples(training.values())
        if front is not None:
            front.fit(training.values())
    elif front is not None:
        front.load(tokenizer_folder(Path(begin)))


def prepare_model(recipe: Recipe, data: Data, registry: Registry) -> Model:
    """An untrained model, or a tokenizer with the weights of `train.init_from`. Draws from torch's random state."""
    conditional, extent, config = recipe.condition == "label", data.training.extent(), recipe.model_dump()
    if recipe.input == "noise":
        return NoiseGenerator.build(config, data.modality, registry, data.labels, conditional, extent)
    tokenizer = Tokenizer.build(config, data.modality, registry, data.labels, conditional, extent)
    if recipe.train.init_from is not None:
        folder = tokenizer_folder(Path(recipe.train.init_from))
        init_from(tokenizer, folder, freeze_codes=recipe.train.freeze == "codes")
    return tokenizer


def prepare_critic(
    recipe: Recipe, data: Data, model: Model, registry: Registry, fabric: "Fabric"
) -> AdversarialTrainer | None:
    """The critic that the recipe names; None where it names none. Draws from torch's random state."""
    if recipe.adversary is None:
        model.check_critic(None)
        return None
    adversary_class, options = registry.part("adversary", recipe.adversary.model_dump())
    labels = len(model.labels) if model.label_embedding is not None else 0
    adversary = adversary_class(data.modality, options, labels)
    return AdversarialTrainer(adversary, model, recipe.train, fabric, data.higher_is_better)


def refuse_unreadable(samples: Sequence[Sample]) -> None:
    """Read everything once; a `UserError` that names what is damaged."""
    bad = []
    for sample in samples:
        try:
            sample.read()
        except Unreadable as error:
            bad.append(str(error))
    if bad:
        raise UserError(f"{len(bad)} of {len(samples)} samples are damaged: {'; '.join(bad[:10])}")
