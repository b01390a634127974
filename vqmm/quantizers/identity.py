"""No choice to make: samples that are ids already (subwords of a text) are their own codes."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from vqmm.contracts.batch import Codes
from vqmm.contracts.quantizer import Quantized, Quantizer, grid_size
from vqmm.utils.errors import UserError

if TYPE_CHECKING:
    from vqmm.contracts.modality import Modality


class IdentityQuantizer(Quantizer):
    """x int64 (B, C, *extent) -> codes (B, C, *extent), each channel a stage; vectors are x itself, without loss.

    There is no encoder, and the decoder is `identity`: nothing is learnt but what the modality's `fit` learns.

    How many ids there are it learns from the modality: it has no `sizes` before `encoder_for` was called.
    """

    name = "identity"
    discrete_input: ClassVar[bool] = True

    class Options(Quantizer.Options):
        """Nothing to decide: `dim` is 1, for a single id stands where others have a latent."""

        dim: int = 1

    options: Options

    def __init__(self, options: Options | None = None, rank: int = 1):
        super().__init__(options, rank)
        self._sizes: tuple[tuple[int, ...], ...] = ()

    def encoder_for(self, modality: "Modality") -> nn.Module:
        """Nothing stands in between. A `UserError` where the modality's samples are no ids."""
        if modality.ids is None:
            raise UserError(
                f"quantizer.name: 'identity' passes ids through, and samples of {modality.name!r} are none: take a "
                "quantizer that makes codes of latents, such as vector"
            )
        self._sizes = ((modality.ids,) * modality.channels,)
        return nn.Identity()

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One map, with a stage of as many ids as the modality has for each channel; empty before `encoder_for`."""
        return self._sizes

    def forward(self, z: Tensor, mask: Tensor | None = None, stages: int | Tensor | None = None) -> Quantized:
        """z: the samples. A `UserError` for fewer stages than channels: one that is left out has no stand-in."""
        if isinstance(stages, int) and stages < z.shape[1]:
            raise UserError(f"{stages} stages: 'identity' has one for each of the {z.shape[1]} channels, and needs all")
        return Quantized(z, Codes((z,), grid_size(z), mask), {})

    def lookup(self, codes: Codes) -> Tensor:
        """The codes themselves, int64 (B, C, *extent)."""
        return codes.maps[0].long()

    def code_vectors(self) -> None:
        """An id is no vector: two that are near each other have nothing in common."""
