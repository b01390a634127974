"""The two things that travel: a Batch of samples, and the Codes that stand for them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vqmm.nn.masks import mask_size, pool_mask
from vqmm.utils.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Samples side by side, as a modality collates them.

    Attributes:
        x: (B, C, *extent), what the encoder reads: floats, or int64 ids with C = 1 (text).
        key: B names, stable from run to run.
        mask: bool (B, *extent), True where there is signal and False where there is padding; per sample a box that
            starts at the origin. None: no padding anywhere.
        label: int64 (B,), or None.
        target: like x: what to reconstruct where that is not x itself (a clean picture for a degraded one).
    """

    x: Tensor
    key: tuple[str, ...]
    mask: Tensor | None = None
    label: Tensor | None = None
    target: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 3 or len(self.key) != len(self.x):
            raise ValueError(
                f"Batch: x of shape {tuple(self.x.shape)} with {len(self.key)} keys: x must be (B, C, *extent) with a "
                "key for each of its B samples"
            )
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.shape != self.x[:, 0].shape):
            raise ValueError(
                f"Batch: mask is {self.mask.dtype} {tuple(self.mask.shape)}: must be bool (B, *extent) = "
                f"{tuple(self.x[:, 0].shape)}"
            )

    def __len__(self) -> int:
        return len(self.key)

    @property
    def target_or_x(self) -> Tensor:
        """What the reconstruction is compared with: target, or x."""
        return self.x if self.target is None else self.target

    @property
    def targets(self) -> list[Tensor]:
        """The goal of each sample (C, *its own extent), padding left out."""
        boxes = [tuple(slice(0, n) for n in size) for size in self.size.tolist()]
        return [goal[(slice(None), *box)] for goal, box in zip(self.target_or_x, boxes, strict=True)]

    @property
    def size(self) -> Tensor:
        """int64 (B, rank): each sample's own extent, padding left out."""
        extent = self.x.shape[2:]
        if self.mask is None:
            return torch.tensor(extent, dtype=torch.int64).repeat(len(self), 1)
        return mask_size(self.mask)

    def to(self, device: torch.device | str) -> "Batch":
        """This batch with its tensors on that device; a copy from pinned memory may still be under way."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name in ("x", "mask", "label", "target")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Codes:
    """What a quantizer made of a batch.

    Attributes:
        maps: integer tensors (B, stages, *grid), coarse first; one for all but hierarchical quantizers. Each entry of
            stage s of map m lies in [0, quantizer.sizes[m][s]). Fewer stages than the quantizer has: a lower rate.
        size: int64 (B, rank), the original extent of each sample, so that lengths and pictures come back exactly.
        mask: bool (B, *grid of the last map), True where a code stands for signal. None: everywhere.
        label: int64 (B,), or None.
    """

    maps: tuple[Tensor, ...]
    size: Tensor
    mask: Tensor | None = None
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, index: slice) -> "Codes":
        """A slice of the batch."""
        mask = None if self.mask is None else self.mask[index]
        label = None if self.label is None else self.label[index]
        return Codes(tuple(code_map[index] for code_map in self.maps), self.size[index], mask, label)

    def to(self, device: torch.device | str) -> "Codes":
        """These codes with maps, mask and label on that device; `size` stays where it is, on the CPU."""
        mask = None if self.mask is None else self.mask.to(device)
        label = None if self.label is None else self.label.to(device)
        return Codes(tuple(code_map.to(device) for code_map in self.maps), self.size, mask, label)

    def map_masks(self) -> list[Tensor | None]:
        """The mask on the grid of each map: each pooled from the next finer one, as hierarchies make their grids."""
        masks = [self.mask]
        for code_map in reversed(self.maps):
            masks.append(None if masks[-1] is None else pool_mask(masks[-1], code_map.shape[2:]))
        return masks[:0:-1]


def check_codes(codes: Tensor | np.ndarray, sizes: Sequence[int], where: str) -> None:
    """A `UserError` for codes of one map that the codebooks do not have.

    Args:
        codes: integers (stages, ...); the last stages may be left out.
        sizes: the codebook size of every stage.
        where: what they are codes of, to begin the message with.
    """
    if len(codes) > len(sizes):
        raise UserError(f"{where}: {len(codes)} stages of codes, where the tokenizer has {len(sizes)}")
    for number, (stage, size) in enumerate(zip(codes, sizes, strict=False)):
        if 0 not in stage.shape and not (stage.min() >= 0 and stage.max() < size):
            raise UserError(
                f"{where}: codes from {int(stage.min())} to {int(stage.max())} in stage {number}, where the codebook "
                f"has 0 to {size - 1}"
            )
