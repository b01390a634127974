"""Generator: a prior and the tokenizers whose codes it speaks; saved to a folder and loaded from it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vqmm import __version__
from vqmm.contracts.batch import Codes
from vqmm.contracts.labels import label_number
from vqmm.contracts.prior import Prior
from vqmm.contracts.vocabulary import NULL, Vocabulary
from vqmm.generation.prompts import LABEL, Given, Value, sample_of
from vqmm.generation.sampling import Draw, sample
from vqmm.registry import Registry
from vqmm.tokenizer.long_signals import decode_long, encode_long
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import rows_of
from vqmm.utils.errors import UserError
from vqmm.utils.files import new_folder, write_tensors, write_text
from vqmm.utils.seeds import seed_of

Maps = tuple[Tensor, ...]  # the codes of one sample: for each map (stages, *grid), coarse first


class Generator:
    """Makes samples of every modality that a prior speaks, from nothing or from samples of others.

    Args:
        tokenizers: one for each range of the prior's vocabulary but "label", by name. They are frozen.
        labels: the names of the classes, in the order of their numbers.

    Raises:
        UserError: a tokenizer is missing, or is another one than the prior learnt from; another number of labels.
    """

    def __init__(self, prior: Prior, tokenizers: Mapping[str, Tokenizer], labels: Sequence[str] = ()):
        self.prior, self.tokenizers, self.labels = prior, dict(tokenizers), tuple(labels)
        names = [span.name for span in prior.vocabulary.ranges if span.name != LABEL]
        if sorted(names) != sorted(self.tokenizers):
            raise UserError(
                f"a generator with tokenizers of {', '.join(sorted(self.tokenizers)) or 'nothing'}: its prior speaks "
                f"{', '.join(sorted(names)) or 'nothing'}"
            )
        for name, tokenizer in self.tokenizers.items():
            span = prior.vocabulary.require(name, tokenizer.freeze().code_fingerprint(), f"the tokenizer of {name!r}")
            sizes = tokenizer.quantizer.sizes
            if len(span.sizes) != len(sizes) or any(
                have[: len(s)] != s for s, have in zip(span.sizes, sizes, strict=True)
            ):
                raise UserError(f"the {name!r} of this prior has codebooks of {span.sizes}, its tokenizer of {sizes}")
        if self.has_modality(LABEL) and prior.vocabulary[LABEL].sizes != ((len(self.labels),),):
            raise UserError(
                f"{len(self.labels)} names of labels for a prior that has {prior.vocabulary[LABEL].sizes[0][0]}"
            )

    @property
    def vocabulary(self) -> Vocabulary:
        """The prior's vocabulary: a range of ids for each modality, and for "label" where it knows classes."""
        return self.prior.vocabulary

    def has_modality(self, name: str) -> bool:
        """Whether the prior speaks a modality; "label": whether it can be given a class."""
        return any(span.name == name for span in self.vocabulary.ranges)

    def to(self, device: torch.device | str) -> "Generator":
        """This generator, its networks moved there."""
        for module in (self.prior, *self.tokenizers.values()):
            module.to(device)
        return self

    # From samples to ids

    def ids(self, name: str, samples: Sequence[Value]) -> list[Tensor]:
        """The blocks of samples, int64 (length,) each, on the CPU: what a sequence of the prior is made of.

        Each is encoded by itself, so its ids do not depend on the others.

        Args:
            samples: tensors (C, *extent) as they are read or as `generate` gives them, or what stands for them
                (`vqmm.generation.prompts.sample_of`); of "label", names of classes.

        Raises:
            UserError: a modality that the prior does not speak; a label, or a file, that is not there; a sample that
                is no sample of this modality, or of a size that the prior does not know.
        """
        span = self.vocabulary[name]
        return [span.join([code_map[None] for code_map in self.maps(name, value)])[0] for value in samples]

    def maps(self, name: str, value: Value) -> Maps:
        """The codes of one sample, as many stages as the prior knows; of "label" its number."""
        if name == LABEL:
            return (torch.tensor([[label_number(str(value), self.labels, "this prior")]]),)
        span, tokenizer = self.vocabulary[name], self.tokenizers[name]
        tensor = sample_of(tokenizer.modality, value)
        batch = tokenizer.modality.collate([tensor], [name])
        codes = encode_long(tokenizer, batch, max(map(len, span.sizes)))
        (row,) = rows_of(codes, batch.key, [None])
        if span.grids is not None and span.grids != tuple(code_map.shape[1:] for code_map in row.maps):
            raise UserError(
                f"{name!r} of {_by(batch.size[0].tolist())} is given, and this prior speaks {name!r} of "
                f"{_by(self._extent(name, span.grids[-1]))} alone: bring it to that size first"
            )
        return tuple(torch.from_numpy(code_map).long() for code_map in row.maps)

    def known(self, name: str, value: Value, keep: float) -> Tensor:
        """For `generate`: int64 (1, codes), the first share of a sample's codes in raster order, PAD for the rest.

        The upper part of a picture, on the grid of each of its maps; the beginning of a sound or a text.

        Args:
            keep: the share, above 0 and at most 1.

        Raises:
            UserError: as of `ids`; a share that keeps no code, or leaves none to be drawn.
        """
        span = self.vocabulary[name]
        if name == LABEL or not 0 < keep <= 1:
            raise UserError(f"keep {keep:g} of {name!r}: the share of a sample that stays, above 0 and at most 1")
        maps = self.maps(name, value)
        counts = [round(keep * code_map[0].numel()) for code_map in maps]
        drawn = span.longest if span.longest is not None else sum(code_map[0].numel() for code_map in maps)
        if not 0 < sum(counts) < drawn:
            what = "no code is kept" if not sum(counts) else "nothing is left to be drawn"
            raise UserError(
                f"keep {keep:g} of {name!r}, {sum(code_map[0].numel() for code_map in maps)} codes: {what} of at "
                f"most {drawn}"
            )
        if span.free:
            return span.known([maps[0][None, :, : counts[0]]], [torch.ones(1, dtype=torch.bool)])
        masks = [(torch.arange(m[0].numel()) < n).view(m.shape[1:]) for m, n in zip(maps, counts, strict=True)]
        return span.known([code_map[None] for code_map in maps], masks)

    # From ids to samples

    def generate(
        self,
        want: str,
        count: int | None = None,
        *,
        given: Given | Sequence[Given] | None = None,
        known: Tensor | None = None,
        draw: Draw | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> list[Tensor]:
        """Finished samples (C, *extent) of a modality, on the CPU.

        Sample i of many is, up to float32 rounding, `generate(..., 1, first=i)`: it does not depend on the others.

        Args:
            want: the modality.
            count: how many; as many as `given` lists, else 1.
            given: what to go by: for some modalities a sample each (see `ids`), for "label" a class's name. One mapping
                for all samples, or a sequence with one for each. Their blocks come in this order, a label's first.
            known: a part of each sample's codes, from `known`: the rest is drawn.
            draw: how ids are drawn: temperature, top-k, top-p, guidance.
            first: the place of the first sample.

        Raises:
            UserError: as of `ids`; a modality that is wanted and given; no room in the prior's context; a tokenizer
                whose decoder must be told a label, and none given.
        """
        each = _for_each(given, count)
        codes = self.codes(want, given=each, known=known, draw=draw, seed=seed, first=first)
        return [
            self.decode(want, maps, condition.get(LABEL), seed, place)
            for place, (maps, condition) in enumerate(zip(codes, each, strict=True), first)
        ]

    def codes(
        self,
        want: str,
        count: int | None = None,
        *,
        given: Given | Sequence[Given] | None = None,
        known: Tensor | None = None,
        draw: Draw | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> list[Maps]:
        """The codes of what `generate` makes."""
        span = self.vocabulary[want]
        if want == LABEL:
            raise UserError(f"'label' cannot be wanted, only given. Want {' or '.join(self.tokenizers)}")
        each = _for_each(given, count)
        prompts = self._prompts(want, each)
        blocks = sample(self.prior, want, len(each), given=prompts, known=known, draw=draw, seed=seed, first=first)
        return [span.split(block[1:-1]) for block in blocks]

    def decode(self, name: str, maps: Maps, label: Value | None = None, seed: int = 0, place: int = 0) -> Tensor:
        """The finished sample (C, *extent) that the codes of one sample stand for, on the CPU.

        Args:
            label: a class's name, for a tokenizer whose decoder is told one.
            seed, place: decoders that draw do so from the seed and the sample's place.
        """
        tokenizer = self.tokenizers[name]
        number = None
        if tokenizer.label_embedding is not None:
            label = None if label is None else str(label)
            number = torch.tensor([label_number(label, tokenizer.labels, f"the tokenizer of {name!r}")])
        size = torch.tensor([self._extent(name, maps[-1].shape[1:])])
        (output,) = decode_long(
            tokenizer,
            Codes(tuple(code_map[None] for code_map in maps), size, None, number),
            seed_of(f"decoder {seed} {place}"),
        )
        return output.cpu()

    def _prompts(self, want: str, each: Sequence[Given]) -> list[Tensor]:
        """The ids that each sequence starts with. What is given to several is encoded once."""
        for_decoder = not self.has_modality(LABEL) and self.tokenizers[want].label_embedding is not None
        made: dict[int, Tensor] = {}
        for condition in each:
            if id(condition) not in made:
                names = sorted(condition, key=lambda name: name != LABEL)  # as in training a label comes first
                parts = [self.ids(name, [condition[name]])[0] for name in names if name != LABEL or not for_decoder]
                made[id(condition)] = torch.cat(parts) if parts else self._nothing()
        return [made[id(condition)] for condition in each]

    def _nothing(self) -> Tensor:
        """The ids that a sequence without a condition starts with: of a prior that was always told a class, the NULLs
        that stood there when it was not.
        """
        always_told = self.has_modality(LABEL) and len(self.vocabulary.ranges) == 2
        return torch.full((self.vocabulary[LABEL].block if always_told else 0,), NULL)

    def _extent(self, name: str, grid: Sequence[int]) -> list[int]:
        """Of the sample that a grid of codes stands for."""
        tokenizer = self.tokenizers[name]
        if tokenizer.quantizer.discrete_input:
            return [*grid]
        return [n * stride for n, stride in zip(grid, tokenizer.modality.strides, strict=True)]

    # On disk

    def save(self, folder: Path) -> None:
        """Write `prior.safetensors`, `config.json`, `vocabulary.json` and `tokenizers/NAME/`, whole or not at all, in
        place of what was there.
        """
        with new_folder(Path(folder)) as new:
            write_tensors(new / "prior.safetensors", own_weights(self.prior))
            config = {
                "format": 1,
                "vqmm": __version__,
                "prior": {"name": self.prior.name, **self.prior.options.to_config()},
                "context": self.prior.context,
                "labels": [*self.labels],
                "weights": _digest(new / "prior.safetensors"),
            }
            write_text(new / "config.json", json.dumps(config, indent=2) + "\n")
            self.vocabulary.save(new / "vocabulary.json")
            for name, tokenizer in self.tokenizers.items():
                tokenizer.save(new / "tokenizers" / name)

    @classmethod
    def load(cls, run: Path | str, registry: Registry | None = None) -> "Generator":
        """Read the folder of a run, or its folder `prior`. All of it comes back in evaluation mode, without gradients.

        Raises:
            UserError: the folder holds no prior; a plugin it needs is missing; a file is damaged.
        """
        folder = prior_folder(Path(run))
        registry = registry or Registry.discover()
        config = _read_config(folder)
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        prior_class, options = registry.part("prior", config["prior"])
        prior = prior_class(vocabulary, config["context"], options)
        _load_weights(prior, folder / "prior.safetensors", config["weights"])
        names = [span.name for span in vocabulary.ranges if span.name != LABEL]
        tokenizers = {name: Tokenizer.load(folder / "tokenizers" / name, registry) for name in names}
        return cls(prior.eval().requires_grad_(False), tokenizers, config["labels"])


def holds_prior(path: Path) -> bool:
    """Whether this is the folder of a prior's run, or a prior's own."""
    return any((folder / "vocabulary.json").is_file() for folder in (path / "prior", path))


def prior_folder(path: Path) -> Path:
    """The prior's folder of a run, or the folder itself."""
    for folder in (path / "prior", path):
        if (folder / "vocabulary.json").is_file() and (folder / "prior.safetensors").is_file():
            return folder
    raise UserError(f"{path} holds no prior: give the folder of a run made by vqmm prior")


def own_weights(prior: Prior) -> dict[str, Tensor]:
    """The state of a prior without the second names of weights that have two (tied ones): a file holds each once."""
    weights: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in prior.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in seen or not tensor.numel():
            weights[name] = tensor
        seen.add(key)
    return weights


def _load_weights(prior: Prior, file: Path, digest: str) -> None:
    try:
        if _digest(file) != digest:
            raise UserError("its content is not what was saved")
        tensors, wanted = load_file(file), own_weights(prior)
        differ = [name for name in {**wanted, **tensors} if _shape(wanted, name) != _shape(tensors, name)]
        if differ:
            raise UserError(f"it does not fit the prior {prior.name!r}: {', '.join(sorted(differ)[:3])} differ")
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{file} is damaged or of another version: {' '.join(str(error).split())[:200]}") from None
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a prior's folder, every field of its type."""
    file = folder / "config.json"
    kinds = {"format": int, "prior": dict, "context": int, "labels": list, "weights": str}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        wrong = [name for name, kind in kinds.items() if not isinstance(config.get(name), kind)]
        wrong += [] if wrong or "name" in config["prior"] else ["prior.name"]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: {' '.join(str(error).split())[:200]}") from None
    if wrong:
        raise UserError(f"{file} is damaged: it lacks {', '.join(wrong)}")
    if config["format"] != 1:
        raise UserError(f"{file} has the format {config['format']}, and this vqmm reads format 1")
    return config


def _for_each(given: Given | Sequence[Given] | None, count: int | None) -> Sequence[Given]:
    """What is given to each sample."""
    if given is None or isinstance(given, Mapping):
        wanted = 1 if count is None else count
        if wanted < 0:
            raise UserError(f"count {wanted}: how many samples, 0 or more")
        return [given or {}] * wanted
    if count is not None and len(given) != count:
        raise UserError(f"{len(given)} conditions for {count} samples: give one for all, or one for each")
    return given


def _by(extent: Sequence[int]) -> str:
    return " x ".join(map(str, extent))
