"""The model of a run and its evaluation on held-out data, both from disk."""

from vqmm.data.degrade import read_degradation
from vqmm.data.source import Source, evaluation_samples
from vqmm.evaluation.evaluate import EvaluationResult, evaluate_held_out, evaluation_views
from vqmm.pages.record import Record
from vqmm.registry import Registry
from vqmm.tokenizer.loading import load_model
from vqmm.tokenizer.model import Model
from vqmm.utils.errors import UserError

SAMPLES = 512  # looked at where the recipe does not say


def saved_model(record: Record, registry: Registry) -> Model:
    """A `UserError` where none is saved yet, or where it cannot be read."""
    if not record.has_model:
        raise UserError("no model is saved yet: the first one comes with the first look at held-out data")
    return load_model(record.folder, registry)


def evaluate_again(record: Record, model: Model) -> EvaluationResult:
    """Evaluate a run on the held-out part of the data that its recipe names, on as many samples as in training.

    Raises:
        UserError: the data is not there any more.
    """
    data = record.recipe.get("data")
    if not data:
        raise UserError("recipe.yaml does not say where the data was")
    source = Source(model.modality, data)
    samples, split = evaluation_samples(source, source.path)
    views = evaluation_views(model, samples, degrade=read_degradation(record.plan.get("degrade")))
    batch_size, limit = record.plan.get("batch_size", 32), record.plan.get("evaluate_samples", SAMPLES)
    return evaluate_held_out(model, views, split, batch_size, limit)
