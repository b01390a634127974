"""What the options of every part of a recipe have in common."""

from pydantic import BaseModel, ConfigDict


class PartOptions(BaseModel):
    """The typed options of one part (a modality, a quantizer, ...). A name it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
