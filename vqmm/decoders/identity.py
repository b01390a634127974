"""The identity decoder: gives back the ids that the identity quantizer passed through."""

from typing import ClassVar

from torch import Tensor

from vqmm.contracts.batch import Batch
from vqmm.contracts.decoder import Decoder, cut


class IdentityDecoder(Decoder):
    """Nothing to learn. The loss is the share of wrong ids, which is 0 for a sample's own codes."""

    name = "identity"
    discrete_input: ClassVar[bool] = True

    def loss(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The share of ids inside `batch.mask` that differ from the target, without a gradient; the output is None."""
        wrong = vectors != batch.target_or_x
        if batch.mask is not None:
            wrong = wrong & batch.mask.unsqueeze(1)
        count = batch.target_or_x.numel() if batch.mask is None else int(batch.mask.sum()) * batch.target_or_x.shape[1]
        return wrong.sum() / max(count, 1), None

    def sample(self, vectors: Tensor, size: Tensor, seed: int, mask: Tensor | None = None) -> list[Tensor]:
        """The ids themselves, each sample cut to its size; `seed` and `mask` change nothing."""
        return cut(vectors, size)
