"""PriorRecipe: the typed description of a prior's run, from its defaults and the command line."""

from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import Field

from vqmm.contracts.options import PartOptions
from vqmm.recipe import Optimisation, Part, put
from vqmm.registry import Registry
from vqmm.utils.errors import explained


class PriorTrain(Optimisation):
    """The training of a prior, by one process."""

    learning_rate: float = Field(1e-3, gt=0, description="of AdamW, after the warm-up; then half a cosine down")
    weight_decay: float = Field(0.1, ge=0)
    evaluate_every: int = Field(250, ge=1, description="steps between evaluations on held-out data")
    patience: int | None = Field(
        8, ge=1, description="stop when held-out bits have not improved in so many evaluations; null: never"
    )


class PriorData(PartOptions):
    """Where everything came from, resolved."""

    runs: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    pairs: str | None = None


class PriorRecipe(PartOptions):
    """Everything that makes a prior."""

    prior: Part = Part(name="transformer")
    condition: Literal["label"] | None = Field(None, description="label: class numbers stand in front")
    pair: Literal["label"] = Field("label", description="what the items of several token folders have in common")
    condition_dropout: float = Field(0.1, ge=0, lt=1, description="the share of examples whose condition is left out")
    token_dropout: float = Field(
        0.0, ge=0, le=0.5, description="the share of codes that the prior is not shown in training"
    )
    token_dropout_on: Literal["all", "last"] = Field(
        "all", description="the blocks that codes are hidden from; last: a condition is shown whole, so it is leant on"
    )
    loss_on: Literal["all", "last"] = Field(
        "all", description="the blocks that count in the loss; last: those before it are a condition and no more"
    )
    given: int | None = Field(
        None, ge=1, description="blocks before the last one, at most; 1: pairs, each learnt sooner; null: all others"
    )
    longest: int | None = Field(None, ge=1, description="frames that a line of free length has at most")
    cut: Literal["beginning", "windows"] = Field(
        "beginning", description="what is taken of longer lines; windows (of one modality alone): all of it, in pieces"
    )
    context: int | None = Field(None, ge=2, description="ids of a sequence; null: what the longest example takes")
    train: PriorTrain = PriorTrain()
    data: PriorData | None = None

    def to_yaml(self) -> str:
        """The recipe as YAML, defaults written out: what a run's recipe.yaml holds."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120)  # ASCII, with escapes


def read_prior_recipe(registry: Registry, settings: Sequence[str] = (), **fields: Any) -> PriorRecipe:
    """The defaults with `a.b=c` settings and `fields` put in, the options of the prior checked and written out.

    Raises:
        UserError: a name or value that does not fit, with what would.
    """
    config: dict[str, Any] = {"prior": {"name": "transformer"}}
    for setting in settings:
        put(config, setting, PriorRecipe.model_fields)
    with explained("", PriorRecipe.model_fields):
        recipe = PriorRecipe.model_validate({**config, **fields})
    part = recipe.prior.model_dump()
    options = registry.part("prior", part)[1].to_config()
    return recipe.model_copy(update={"prior": Part(name=part["name"], **options)})
