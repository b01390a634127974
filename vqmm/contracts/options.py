"""What the options of every part of a recipe have in common."""

from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from vqmm.contracts.parts import PartsByName


class PartOptions(BaseModel):
    """The typed options of one part (a modality, a quantizer, ...). A name it does not know is an error.

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

    def completed(self, registry: PartsByName) -> Self:
        """With the options of parts inside this part checked, and their defaults written out."""
        return self
