"""Recipe: the typed description of a run, read from YAML and the command line."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from vqmm.contracts.options import PartOptions
from vqmm.data.degrade import Downsample, Mask, Noise, read_degradation
from vqmm.utils.errors import UserError, explained, one_of

if TYPE_CHECKING:
    from vqmm.registry import Registry


class Part(BaseModel):
    """A plugin by name, with options that the plugin's own model checks (`Recipe.checked`)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str


class Optimisation(PartOptions):
    """How long and how fast; what tokenizers and priors have in common."""

    steps: int = Field(3000, ge=1, description="optimizer steps, at most")
    batch_size: int = Field(32, ge=1, description="samples in one forward pass")
    learning_rate: float = Field(3e-3, gt=0, description="of AdamW, after the warm-up; then half a cosine down")
    warmup: float = Field(0.02, ge=0, lt=1, description="the share of the steps over which the rate rises")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    average: float | None = Field(None, gt=0, lt=1, description="decay of averaged weights to evaluate and save; 0.999")
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    evaluate_every: int = Field(500, ge=1, description="steps between evaluations on held-out data")
    evaluate_samples: int = Field(512, ge=1, description="samples of an evaluation, at most")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="the last so many are kept, and the best by held-out metric")


class Train(Optimisation):
    """The training of a tokenizer."""

    accumulate: int = Field(1, ge=1, description="forward passes in one optimizer step")
    devices: int = Field(1, ge=1, description="processes, one to a device, or so many on the CPU")
    nodes: int = Field(1, ge=1, description="machines; each is told MASTER_ADDR, MASTER_PORT and NODE_RANK")
    strategy: Literal["ddp_spawn", "ddp_fork", "ddp"] = Field(
        "ddp_spawn", description="how several processes start; ddp: the command again, as under torchrun or Slurm"
    )
    workers: int = Field(0, ge=0, description="processes that read data; 0: the training process reads")
    cache_mb: int = Field(1024, ge=0, description="memory for samples already read")
    tensorboard: bool = Field(False, description="write curves for TensorBoard as well, into the run's folder")
    profile: bool = Field(False, description="say at the end where the time of a step went")
    degrade: Noise | Downsample | Mask | None = Field(
        None, description="spoil what the encoder reads, and learn to give the clean sample back; a name, with options"
    )

    init_from: str | None = Field(
        None, description="a run, or its tokenizer's folder, whose parts and weights to start from"
    )
    freeze: Literal["codes"] | None = Field(
        None,
        description="what does not learn, with init_from; codes: the encoder and the codebook, so every code stays",
    )

    @field_validator("degrade", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> Noise | Downsample | Mask | None:
        return read_degradation(value)


class Recipe(PartOptions):
    """Everything that makes a run. `modality` is None in a recipe that serves all of them."""

    about: str = ""
    modality: Part | None = None
    quantizer: Part = Part(name="vector")
    decoder: Part = Part(name="direct")
    condition: Literal["label"] | None = None
    input: Literal["noise"] | None = Field(
        None, description="noise: a generator instead of a tokenizer: its decoder is given noise (a plain GAN)"
    )
    adversary: Part | None = None
    train: Train = Train()
    data: str | None = Field(None, description="where the training data was")

    def checked(self, registry: "Registry") -> "Recipe":
        """The same with every part's options checked and their defaults written out, but for those that came later
        (`PartOptions.to_config`): a run that was begun before them can go on. Imports the plugins' classes."""
        full = self.model_dump()
        for kind in ("modality", "quantizer", "decoder", *(["adversary"] if self.adversary else [])):
            options = registry.part(kind, full[kind])[1]
            full[kind] = {"name": full[kind]["name"], **options.to_config()}
        return Recipe(**full)

    def to_yaml(self) -> str:
        """The recipe as YAML, defaults written out: what a run's recipe.yaml holds."""
        config = self.model_dump(mode="json")
        # PyYAML writes these line breaks unescaped and reads them back as others.
        breaks = any(character in json.dumps(config, ensure_ascii=False) for character in "\x85\u2028\u2029\ufeff")
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=not breaks, width=120)


def read_recipe(
    name: str, registry: "Registry", modality: str | None = None, settings: Sequence[str] = (), **fields: Any
) -> Recipe:
    """A recipe by its name or file, for a modality, with `a.b=c` settings and `fields` put in.

    Raises:
        UserError: no such recipe; not YAML; a name or value that does not fit, with what would.
    """
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else registry.recipe(name)
    if is_file and not path.is_file():
        raise UserError(
            f"there is no recipe file {path}. A recipe is a YAML file or a name. {one_of(registry.offers['recipe'])}"
        )
    if not is_file:
        read_named_recipe(path)  # a plugin's: what is wrong with it is said with its name

    def merged(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
        config = {**_read_file(path), **{kind: dict(part) for kind, part in parts.items()}}
        for setting in settings:
            put(config, setting, Recipe.model_fields)
        return config

    config = merged({})
    begun = _begun(config)
    config = merged(begun)  # a recipe may name other parts than those that are there; settings may not
    if modality is not None:
        options = config.get("modality") or {}
        if isinstance(options, dict) and options.get("name", modality) != modality:
            raise UserError(
                f"the recipe is for the modality {options['name']!r}, and {modality!r} was asked for: name one"
            )
        config["modality"] = {"name": modality, **options} if isinstance(options, dict) else options
    recipe = _validated({**config, **fields})
    if recipe.modality is None:
        return recipe
    recipe = recipe.checked(registry)
    _must_match(recipe, begun)
    return recipe


def _begun(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of the tokenizer that a recipe begins with, by kind; none without `train.init_from`."""
    from vqmm.tokenizer.storage import read_config, require_class, tokenizer_folder

    train = raw.get("train")
    begin = train.get("init_from") if isinstance(train, dict) else None
    if not isinstance(begin, str):
        return {}
    config = read_config(tokenizer_folder(Path(begin)))
    require_class(config, "Tokenizer", f"train.init_from: {begin}")
    if raw.get("input") == "noise":
        raise UserError(
            f"train.init_from: {begin} holds a tokenizer, and input=noise trains a generator: leave one out"
        )
    return {kind: config[kind] for kind in ("modality", "quantizer", "decoder")}


def _must_match(recipe: Recipe, begun: dict[str, dict[str, Any]]) -> None:
    """A `UserError` where a recipe's parts are not those of the tokenizer that it begins with."""
    if recipe.train.freeze and not begun:
        raise UserError(
            f"train.freeze: {recipe.train.freeze} needs a tokenizer that is there: name a run with train.init_from"
        )
    now = recipe.model_dump(mode="json")
    differ = [
        f"{kind}.{name} is {value!r} there, not {now[kind].get(name)!r}"
        for kind, part in begun.items()
        for name, value in part.items()
        if now[kind].get(name) != value
    ]
    if differ:
        raise UserError(
            f"train.init_from: {recipe.train.init_from} has other parts: {'; '.join(differ)}: leave those out"
        )


def read_named_recipe(path: Path) -> Recipe:
    """The recipe that a plugin offers, its own fields checked; the options of its parts wait for a modality."""
    try:
        return _validated(_read_file(path))
    except (UserError, OSError) as error:
        raise UserError(f"the recipe {path}: {error}") from None


def _validated(config: dict[str, Any]) -> Recipe:
    with explained("", Recipe.model_fields):
        return Recipe.model_validate(config)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        config = _parse(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text's encoding, or of _parse
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a recipe: it holds {type(config).__name__}, and a recipe maps names to values")
    return config


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None  # PyYAML lets such errors out of odd scalars: 2024-13-01, !!bool x


def put(config: dict[str, Any], setting: str, parts: Collection[str]) -> None:
    """Put `a.b=c` into nested dicts, for a one of `parts`. Another `name` drops the options of the part that was there.

    A word where options are put stands for the part of that name: `train.degrade=noise train.degrade.sigma=0.1`.
    """
    path, equals, text = setting.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names):
        raise UserError(f"--set {setting!r}: write it as part.option=value, such as train.steps=1000")
    try:
        value = _parse(text)
    except ValueError:
        raise UserError(f"--set {setting!r}: {text!r} is not a YAML value") from None
    if names[0] not in parts:
        raise UserError(f"--set {setting!r}: this recipe has no part {names[0]!r}. {one_of(parts, names[0])}")
    inner = config
    for name in names[:-1]:
        if not isinstance(inner.get(name), dict):
            inner[name] = {"name": inner[name]} if isinstance(inner.get(name), str) else {}
        inner = inner[name]
    if names[-1] == "name" and inner.get("name") != value:
        inner.clear()
    inner[names[-1]] = value
