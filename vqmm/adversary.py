"""Adversary: the contract of GAN fusion."""

from typing import Any, ClassVar

from pydantic import BaseModel
from torch import Tensor, nn

from vqmm.modality import Modality
from vqmm.options import PartOptions


class Adversary(nn.Module):
    """A critic that trains beside a tokenizer with an optimizer of its own, and adds one term to its loss.

    A plugin registers the class; the core makes one for a modality. It compares the decoder's output with the
    modality's `target(x)`, so it needs a decoder that gives an output (`direct`).
    """

    name: ClassVar[str]

    class Options(PartOptions):
        pass

    def __init__(self, modality: Modality, options: BaseModel | None = None):
        super().__init__()
        self.modality = modality
        self.options: Any = self.Options() if options is None else options

    def generator_loss(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None, label: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Named scalars whose gradient reaches the decoder through `output` (B, C, *extent), unweighted."""
        raise NotImplementedError(f"{type(self).__name__} needs a method generator_loss(output, target, mask, label)")

    def critic_loss(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None, label: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Named scalars that train the critic's own parameters; `output` is detached from the decoder."""
        raise NotImplementedError(f"{type(self).__name__} needs a method critic_loss(output, target, mask, label)")
