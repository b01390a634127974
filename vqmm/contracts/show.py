"""Samples of any kind as one picture: what a modality shows that brings no picture of its own."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vqmm.utils.errors import UserError


def named_rows(rows: Sequence[Sequence[Tensor]], names: Sequence[str] | None, usual: Sequence[str]) -> Sequence[str]:
    """The names of rows of samples: those given, else the usual ones.

    Raises:
        UserError: rows of different lengths, or another number of names.
    """
    if len({len(row) for row in rows}) > 1:
        raise UserError(f"rows of {', '.join(str(len(row)) for row in rows)} samples: must be of one length")
    names = usual if names is None else names
    if len(names) != len(rows):
        raise UserError(f"{len(names)} names ({', '.join(names)}) for {len(rows)} rows: must be as many")
    return names


def heatmaps(rows: Sequence[Sequence[Tensor]], gap: int = 2) -> Image.Image:
    """Rows of samples (C, *extent) as gray heat maps: channels over time, the mean of the channels of a picture, or
    the middle slice of a volume. Each column shares one scale; black is its lowest value.
    """
    return Image.fromarray(tile([[_plane(sample) for sample in row] for row in rows], gap).numpy())


def _plane(sample: Tensor) -> Tensor:
    sample = sample.detach().float().cpu()
    if sample.ndim == 4:
        sample = sample[:, sample.shape[1] // 2]
    plane = sample if sample.ndim == 2 else sample.mean(dim=0)
    return plane.repeat_interleave(max(1, 48 // max(plane.shape[0], 1)), dim=0)


def tile(rows: Sequence[Sequence[Tensor]], gap: int) -> Tensor:
    """Planes (H, W) in a grid, uint8, scaled per column to its own range, on white."""
    columns = list(zip(*rows, strict=True))
    scaled = [[torch.empty(0)] * len(columns) for _ in rows]
    for c, column in enumerate(columns):
        low = min(float(plane.min()) for plane in column)
        high = max(float(plane.max()) for plane in column)
        for r, plane in enumerate(column):
            scaled[r][c] = ((plane - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8)
    height = max(plane.shape[0] for column in columns for plane in column)
    width = max(plane.shape[1] for column in columns for plane in column)
    cells = [
        torch.cat([F.pad(p, (0, width - p.shape[1] + gap, 0, height - p.shape[0] + gap), value=255) for p in row], 1)
        for row in scaled
    ]
    return torch.cat(cells)
