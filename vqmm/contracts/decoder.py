"""Decoder: what turns vectors into a sample."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from vqmm.contracts.batch import Batch
from vqmm.contracts.modality import Modality
from vqmm.contracts.options import PartOptions
from vqmm.nn.masks import pool_mask


class Decoder(nn.Module):
    """From the quantizer's vectors to samples, with a loss that says how good that is.

    A plugin registers the class; the core makes one for a modality and the width `dim` of the vectors. The vectors may
    already carry a label's embedding: decoders know nothing of labels.
    """

    name: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}  # libraries: what is imported, and what pip installs for it
    likelihood: ClassVar[bool] = False  # the loss is a negative log-likelihood, in bits per value of the sample
    discrete_input: ClassVar[bool] = False  # reads ids that a quantizer passed through, not vectors
    evaluation_limit: ClassVar[int | None] = None  # samples that an evaluation draws, where one takes long

    class Options(PartOptions):
        """What a recipe can set under `decoder` besides the name: nothing here; a subclass adds its own."""

    options: Options

    def __init__(self, modality: Modality, dim: int, options: Options | None = None):
        super().__init__()
        self.modality = modality
        self.dim = dim
        self.options = self.Options() if options is None else options

    def loss(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """vectors (B, dim, *grid) and the batch they came from -> (scalar loss, output).

        `output` is what `Modality.postprocess` turns into samples, with a gradient; None for a decoder that only has a
        likelihood, which an adversary cannot judge.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method loss(vectors, batch)")

    def sample(self, vectors: Tensor, size: Tensor, seed: int, mask: Tensor | None = None) -> list[Tensor]:
        """vectors (B, dim, *grid), size int64 (B, rank) -> B finished samples (C, *size of each).

        The same seed gives the same samples; a deterministic decoder ignores it. `mask` (B, *grid): True where a
        vector stands for signal.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method sample(vectors, size, seed, mask)")

    def last_layer(self) -> nn.Parameter:
        """The parameter whose gradient weighs an adversary's term (Esser et al. 2021, equation 7)."""
        return [each for each in self.parameters() if each.ndim > 1][-1]


def grid_mask(batch: Batch, vectors: Tensor) -> Tensor | None:
    """The mask of a batch on the grid of its vectors."""
    return None if batch.mask is None else pool_mask(batch.mask, vectors.shape[2:])


def cut(samples: Tensor, size: Tensor) -> list[Tensor]:
    """(B, C, *extent) -> B samples, each cut to its own size."""
    return [
        sample[(slice(None), *(slice(0, n) for n in extent))]
        for sample, extent in zip(samples, size.tolist(), strict=True)
    ]
