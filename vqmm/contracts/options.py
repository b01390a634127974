"""What the options of every part of a recipe have in common."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class PartOptions(BaseModel):
    """The typed options of one part (a modality, a quantizer, ...). A name it does not know is an error.

    They are a class `Options` inside the part's class, from that of the class that it is made from. Below it the part
    says `options: Options`: without that line type checkers and editors only know the options of its base.

    Attributes:
        added: names of options that came when tokenizers had been saved without them: those keep their fingerprints.
    """

    added: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would take `steps: yes` for one step."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (wanted, *get_args(wanted)) and wanted is not Any:
            raise ValueError("true and false are for switches, and this is none")
        return value

    def to_config(self) -> dict[str, Any]:
        """Every option, as it is saved and fingerprinted: an `added` one only where it is not at its default."""
        usual = {name: self.__class__.model_fields[name].get_default() for name in self.added}
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in usual or v != usual[k]}

    def completed(self, registry: "PartsByName") -> Self:
        """With the options of parts inside this part checked, and their defaults written out."""
        return self


class PartsByName(Protocol):
    """Finds the class of a part and checks its options: the registry, as a contract sees it. `vqmm.Registry` is one."""

    def part(self, kind: str, config: Mapping[str, Any]) -> tuple[type, PartOptions]:
        """The class of a part and its checked options, from `{"name": ..., option: value, ...}`.

        Args:
            kind: "modality", "quantizer", "decoder", "adversary" or "prior".

        Raises:
            UserError: there is no such part or option; a library that the part needs does not load.
        """
        ...
