"""Pictures: a grid of codes for PNG, JPEG, WebP and BMP files, NumPy archives and MNIST-style idx files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import vqmm
from vqmm.contracts.sample import Sample
from vqmm.plugins.image import arrays, files
from vqmm.utils.errors import UserError


@vqmm.hookimpl
def register_modalities(register) -> None:  # type: ignore[no-untyped-def]
    """Offer the modality `image`."""
    register(Image)


class Image(vqmm.Modality):
    """Pictures of 1, 3 or 4 channels, any size. Samples are uint8 (C, H, W) as read, floats in [-1, 1] in a batch."""

    name = "image"
    rank = 2

    class Options(vqmm.Modality.Options):
        """Channels and size of the pictures, how training views are varied, and the size of the networks."""

        added: ClassVar[frozenset[str]] = frozenset({"shift", "affine"})
        width: int = Field(128, ge=8, description="channels of the networks at their coarsest level")
        channels: Literal[1, 3, 4] = Field(3, description="gray, RGB or RGBA: what is read is brought to that")
        size: int | tuple[int, int] = Field(32, description="height and width of a training view, in pixels")
        flip: bool = Field(True, description="mirror half of the training views, left to right")
        shift: int = Field(0, ge=0, description="move training views by up to so many pixels; borders are repeated")
        affine: float = Field(
            0, ge=0, lt=0.5, description="turn, stretch, slant and move training views by up to this share: 0.1, say"
        )

    options: Options

    def __init__(self, options: Options | None = None):
        super().__init__(options)
        self.channels = self.options.channels
        size = self.options.size
        self.size = (size, size) if isinstance(size, int) else size
        for name, side, stride in zip(("height", "width"), self.size, self.strides, strict=True):
            if side < stride or side % stride:
                low = max(side // stride, 0) * stride
                fits = f"{low} or {low + stride}" if low else f"{stride}"
                raise UserError(
                    f"modality.size: a {name} of {side} pixels is not a multiple of the stride {stride}: take {fits}"
                )

    def samples(self, path: Path) -> Iterator[Sample]:
        """Every picture of a file, folder, CSV, `.npz` archive or idx file, unread: uint8 (C, H, W).

        Raises:
            UserError: there is none; a damaged archive or idx file, or one that holds something else.
        """
        name = path.name.lower()
        if path.is_dir():
            is_idx = bool(arrays.idx_files(path))
        elif name.endswith(".npz"):
            return arrays.npz_samples(path, self.channels)
        else:
            is_idx = name.endswith((".gz", "-ubyte"))
        return (arrays.idx_samples if is_idx else files.picture_samples)(path, self.channels)

    def write(self, sample: Tensor, path: Path) -> Path:
        """A PNG file."""
        file = path.with_name(path.name + ".png")
        files.to_pillow(files.to_bytes(sample)).save(file)
        return file

    def as_written(self, sample: Tensor) -> Tensor:
        """float32 (C, H, W) in [-1, 1], rounded to 8 bits as in a PNG file."""
        return files.to_bytes(sample).float() / 127.5 - 1

    def crop(self, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        """A random crop, varied; for evaluation the centre. Smaller pictures are kept as they are."""
        spare = [max(have - want, 0) for have, want in zip(sample.shape[1:], self.size, strict=True)]
        if generator is None:
            top, left = (extra // 2 for extra in spare)
        else:
            top, left = (int(torch.randint(extra + 1, (), generator=generator)) for extra in spare)
        view = sample[:, top : top + self.size[0], left : left + self.size[1]]
        return view if generator is None else self.augment(view, generator)

    @property
    def augments(self) -> bool:
        """Whether `flip`, `shift` or `affine` is on."""
        return bool(self.options.flip or self.options.shift or self.options.affine)

    def augment(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """Mirrored or not, moved, and under an affine map, as the options say."""
        if self.options.flip and torch.rand((), generator=generator) < 0.5:
            sample = sample.flip(-1)
        if self.options.shift:
            sample = moved(sample, self.options.shift, generator)
        return warped(sample, self.options.affine, generator) if self.options.affine else sample

    def collate(
        self, samples: Sequence[Tensor], keys: Sequence[str], labels: Sequence[int] | None = None
    ) -> vqmm.Batch:
        """Float samples are taken as they are, uint8 ones brought to [-1, 1]."""
        return super().collate([s if s.is_floating_point() else s.float() / 127.5 - 1 for s in samples], keys, labels)

    def postprocess(self, output: Tensor) -> Tensor:
        """float32 (B, C, H, W), clamped to [-1, 1]."""
        return output.float().clamp(-1, 1)

    def output_activation(self, output: Tensor) -> Tensor:
        """tanh of the output, in [-1, 1]."""
        return output.tanh()

    def evaluation(self) -> vqmm.Evaluation:
        """An `ImageEvaluation`: PSNR and SSIM, rates per pixel, pictures side by side."""
        from vqmm.plugins.image.evaluation import ImageEvaluation

        return ImageEvaluation(self.size)


def moved(sample: Tensor, furthest: int, generator: torch.Generator) -> Tensor:
    """Moved by up to so many pixels along each axis; what comes in repeats the border."""
    for axis, side in enumerate(sample.shape[1:], start=1):
        by = int(torch.randint(-furthest, furthest + 1, (), generator=generator))
        sample = sample.index_select(axis, (torch.arange(side) + by).clamp(0, side - 1))
    return sample


def warped(sample: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Under a random affine map (bicubic; what comes in repeats the border), of the same type and range.

    In coordinates that run from -1 to 1 along each axis, each of the map's six numbers is off by up to `most`: the
    middle of an edge moves by up to `most` of the side, and the edge turns by up to as many radians.
    """
    if not sample.numel():
        return sample
    off = (torch.rand(1, 2, 3, generator=generator) * 2 - 1) * most
    grid = nn.functional.affine_grid(torch.eye(2, 3) + off, [1, *sample.shape], align_corners=False)
    output = nn.functional.grid_sample(sample[None].float(), grid, "bicubic", "border", align_corners=False)[0]
    output = output.clamp(sample.min(), sample.max())  # a bicubic curve runs beyond its points
    return (output if sample.is_floating_point() else output.round()).to(sample.dtype)
